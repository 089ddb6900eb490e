"""What a source is: images, labels, places and times as they lie on disk, in one order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from stssl.config import Config
from stssl.data.schema import Sample, Task


class Source(ABC):
    """A data set on disk.

    The constructor finds the files and refuses what is no such data set (DataError); pixels are read by `samples`.

    Attributes:
        name: Plugin name.
        task: "single" or "multi".
        classes: All class names; their order is the order of labels in tensors.
        bands: Band names, one for each channel.
        licence: The licence of the images.
        attribution: Whom to name when results are published.
    """

    Config: ClassVar[type[Config]]
    name: str
    task: Task
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    licence: str
    attribution: str

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Find the files that `config` (the class's own `Config`) points at."""

    @abstractmethod
    def signature(self) -> str:
        """A hash that changes when the files do; see `sign`."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """Read all samples, sorted by id.

        Raises:
            DataError: A file is damaged or not what it claims to be, with its name and a remedy.
        """


def sign(name: str, root: Path, files: Iterable[Path]) -> str:
    """SHA-256 (hex) of the sorted relative paths, sizes and modification times of files.

    Cheap on purpose: it tells whether a folder changed without reading it.

    Args:
        name: Of the source plugin, so that two readers of the same files differ.
        root: The folder that the paths are relative to: a moved folder keeps its signature.
        files: Paths below `root`.
    """
    lines = sorted(
        f"{path.relative_to(root).as_posix()}\t{status.st_size}\t{status.st_mtime_ns}"
        for path in files
        for status in (path.stat(),)
    )
    return hashlib.sha256("\n".join([name, *lines]).encode()).hexdigest()
