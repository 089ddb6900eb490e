"""What a source is: images, labels, places and times as they lie on disk, in one order."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from stssl.config import Config
from stssl.data.schema import Sample, Task
from stssl.storage import Folder


class Source(ABC):
    """A data set on disk or in a bucket.

    The constructor finds the files and refuses what is no such data set (DataError); pixels are read by `read`, in any
    order and in several processes at once, so a source can be pickled and keeps no file open.

    Attributes:
        name: Plugin name.
        config: What the constructor was given.
        folder: What the names from `files` are relative to.
        ids: Unique name of each sample, sorted.
        task: "single" or "multi".
        classes: All class names; their order is the order of labels in tensors.
        bands: Band names, one for each channel.
        licence: The licence of the images.
        attribution: Whom to name when results are published.
        notes: What a user should know about the data that was found, such as what is missing.
    """

    Config: ClassVar[type[Config]]
    name: str
    config: Any = None
    folder = Folder(".")
    ids: Sequence[str]
    task: Task
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    licence: str
    attribution: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Find the files that `config` (the class's own `Config`) points at."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Read the sample `ids[index]`.

        Raises:
            DataError: A file is damaged or not what it claims to be, with its name and a remedy.
        """

    def session(self) -> AbstractContextManager[None]:
        """Put around many calls of `read`, so that what they need is set up once."""
        return nullcontext()

    def files(self, index: int) -> Iterable[str]:
        """Names, relative to `folder`, of the files that a sample is read from: if they change, it is read again."""
        return ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def stamp(self, index: int) -> str:
        """Names, sizes and dates of a sample's files: cheap on purpose. In a bucket only names are looked at.

        A file that cannot be looked at is stamped as such; `read` will say so.
        """
        names = self.files(index)
        if self.folder.path is None:
            return "\t".join([self.ids[index], *names])
        parts = [self.ids[index]]
        for name in names:
            try:
                status = os.stat(self.folder.path / name)
                parts.append(f"{name}\t{status.st_size}\t{status.st_mtime_ns}")
            except OSError as error:
                parts.append(f"{name}\t{error.errno}")
        return "\t".join(parts)

    def head(self) -> str:
        """All that shapes every sample: the source, its settings but where it lies, classes and bands."""
        settings = self.config.model_dump(mode="json", exclude={"root"}) if self.config else {}
        return json.dumps([self.name, settings, self.task, self.classes, self.bands])
