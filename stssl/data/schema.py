"""What flows through `stssl.data`: a sample of a source, the card of prepared shards, a batch for a network."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from stssl.config import Config
from stssl.errors import short_repr
from stssl.files import check_name

Task = Literal["single", "multi"]
DType = Literal["uint8", "uint16", "float32"]

_SHA256 = Field(pattern=r"^[0-9a-f]{64}$")


class Sample(NamedTuple):
    """One image as a source yields it.

    Attributes:
        id: Unique in its source; samples come sorted by it.
        image: [C, H, W] uint8, uint16 or float32, as stored; the same shape and dtype for all samples of a source.
        labels: Class names, exactly one if the task is single-label. None = unlabeled; () = known to have none (multi).
        lat: Latitude in degrees, -90 to 90, or None = unknown.
        lng: Longitude in degrees, -180 to 180, or None = unknown.
        time: Acquisition time in days since 1970-01-01 UTC, or None = unknown.
        split: The split that the data set's authors put it in (train, validation, test), or None.
    """

    id: str
    image: NDArray[np.generic]
    labels: tuple[str, ...] | None
    lat: float | None
    lng: float | None
    time: float | None
    split: str | None


class ShardFile(Config):
    """One Parquet file of a prepared data set: `file` is its name in the folder, `bytes` its size."""

    file: str
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = _SHA256

    @field_validator("file")
    @classmethod
    def _in_the_folder(cls, file: str) -> str:
        """A card may come from anyone."""
        if file.startswith("."):
            raise ValueError(f"shard {short_repr(file)} is not a valid name: it begins with '.'")
        return check_name(file, "shard")


class Card(Config):
    """What is in a folder of shards; `dataset.json` holds it.

    Attributes:
        shape: (C, H, W) of every image.
        mean: Mean of each band over all pixels of all images, in stored units. Labels are never used.
        std: Standard deviation of each band, likewise.
        source: Name of the source plugin that the shards were made from.
        source_signature: Hash of names, sizes and dates of the source's files: tells whether they changed.
        skipped: How many samples could not be read and were left out; `skipped.csv` names them.
        fingerprint: SHA-256 of the content (rows, classes, bands), whatever the shards' sizes and the files' dates.
        format: Version of the shards' layout.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: DType
    count: int = Field(ge=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    attribution: str
    source: str
    source_signature: str
    fingerprint: str = _SHA256
    shards: tuple[ShardFile, ...]
    skipped: int = 0
    format: Literal[1] = 1

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        """Of the pictures that `inspect` draws."""
        return check_name(name, "data set")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """What is said twice must agree."""
        if not len(self.bands) == len(self.mean) == len(self.std) == self.shape[0] or min(self.shape) < 1:
            raise ValueError(
                f"{len(self.bands)} bands do not fit shape {self.shape}, mean {self.mean} and std {self.std}"
            )
        rows = sum(shard.rows for shard in self.shards)
        if self.shards and rows != self.count:
            raise ValueError(f"count is {self.count}, but the shards have {rows} rows")
        return self


class Batch(NamedTuple):
    """Some samples as tensors.

    Attributes:
        images: [B, C, H, W] uint8, uint16 or float32, as stored.
        labels: [B] int64, or [B, K] float32; -1 = unknown.
        place: [B, 2] float32, latitude and longitude in degrees; NaN = unknown.
        time: [B] float64, days since 1970-01-01 UTC; NaN = unknown.
        member: [B] int64, row of the store; in a batch that `Batches` drew, position in the pool.
    """

    images: Tensor
    labels: Tensor
    place: Tensor
    time: Tensor
    member: Tensor
