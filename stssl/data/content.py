"""The one pass over samples that checks them and finds a data set's statistics and fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from stssl.data.schema import DType, Sample, Task
from stssl.errors import DataError, did_you_mean

US_PER_DAY = 86_400_000_000  # microseconds, the resolution of times in the shards


class Row(NamedTuple):
    """A checked sample: pixels in C order and little-endian, labels in class order, time in whole microseconds."""

    id: str
    image: NDArray[Any]
    labels: list[str] | None
    lat: float | None
    lng: float | None
    time_us: int | None
    split: str | None


class Content:
    """Running checks, pixel statistics and fingerprint over a stream of samples.

    Args:
        task: Whether a sample has exactly one label or any number.
        classes: All class names; their order is the order of labels in tensors.
        bands: Band names, one for each channel.
        where: What to call the data in an error.

    Raises:
        DataError: No class or no band, or a name twice.
    """

    def __init__(self, task: Task, classes: tuple[str, ...], bands: tuple[str, ...], where: str) -> None:
        for kind, names in (("class", classes), ("band", bands)):
            if not names or len(set(names)) < len(names):
                raise DataError(f"{where}: expected at least one {kind} and each name once, got {list(names)}")
        self.task, self.classes, self.bands, self.where = task, classes, bands, where
        self.shape: tuple[int, int, int] | None = None
        self.dtype: DType | None = None
        self.count = 0
        self._rank = {name: rank for rank, name in enumerate(classes)}
        self._rows = hashlib.sha256()
        # Integer pixels are summed exactly (Python integers), so that the result depends on no order and no rounding.
        self._sum: list[Any] = [0] * len(bands)
        self._squares: list[Any] = [0] * len(bands)
        self._mean, self._m2 = np.zeros(len(bands)), np.zeros(len(bands))  # float32 images: Chan's pairwise update

    def add(self, sample: Sample) -> Row:
        """Check one sample and take it into the statistics.

        Raises:
            DataError: The sample does not fit the ones before it, or is not what `Sample` promises.
        """
        row = Row(
            sample.id,
            self._image(sample),
            self._labels(sample),
            self._degrees(sample, "lat", sample.lat, 90.0),
            self._degrees(sample, "lng", sample.lng, 180.0),
            self._time(sample),
            sample.split or None,
        )
        self._measure(row.image)
        self.count += 1
        head = json.dumps([row.id, row.labels, row.lat, row.lng, row.time_us, row.split], ensure_ascii=False)
        self._rows.update(head.encode())
        self._rows.update(row.image.data.cast("B"))
        return row

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each band, in stored units."""
        if self.dtype == "float32":
            return tuple(map(float, self._mean))
        return tuple(total / self._pixels for total in self._sum)

    @property
    def std(self) -> tuple[float, ...]:
        """Population standard deviation of each band, in stored units."""
        if self.dtype == "float32":
            return tuple(map(float, np.sqrt(self._m2 / self._pixels)))
        n, sums = self._pixels, zip(self._sum, self._squares, strict=True)
        return tuple(math.sqrt(n * squares - total**2) / n for total, squares in sums)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of task, classes, bands, shape, dtype and all rows in order."""
        head = [self.task, self.classes, self.bands, self.shape, self.dtype, self.count, self._rows.hexdigest()]
        return hashlib.sha256(json.dumps(head, ensure_ascii=False).encode()).hexdigest()

    @property
    def _pixels(self) -> int:
        if self.shape is None:
            raise DataError(f"{self.where}: there is no image")
        return self.count * self.shape[1] * self.shape[2]

    def _fault(self, sample: Sample, fault: str) -> DataError:
        return DataError(f"{self.where}: sample '{sample.id}': {fault}")

    def _image(self, sample: Sample) -> NDArray[Any]:
        image, known = sample.image, get_args(DType)
        if image.dtype.name not in known:
            raise self._fault(sample, f"pixels are {image.dtype.name}; stssl stores {', '.join(known)}")
        if image.ndim != 3 or image.shape[0] != len(self.bands) or 0 in image.shape:
            raise self._fault(sample, f"shape is {image.shape}; expected ({len(self.bands)} bands, height, width)")
        if self.shape is None:
            self.shape, self.dtype = image.shape, image.dtype.name  # type: ignore[assignment]
        if image.shape != self.shape or image.dtype.name != self.dtype:
            raise self._fault(
                sample,
                f"is {image.dtype.name} of shape {image.shape}, the ones before it are {self.dtype} of {self.shape}; "
                "all images of a data set must agree",
            )
        image = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
        if self.dtype == "float32" and not np.isfinite(image).all():
            raise self._fault(sample, "has pixels that are NaN or infinite; fill or leave out such images")
        return image

    def _labels(self, sample: Sample) -> list[str] | None:
        if sample.labels is None:
            return None
        for name in sample.labels:
            if name not in self._rank:
                raise self._fault(sample, f"unknown class '{name}'; {did_you_mean(name, self.classes)}")
        if len(set(sample.labels)) < len(sample.labels) or (self.task == "single" and len(sample.labels) != 1):
            wanted = "exactly one label" if self.task == "single" else "each label once"
            raise self._fault(sample, f"expected {wanted}, got {list(sample.labels)}; None means unlabeled")
        return sorted(sample.labels, key=self._rank.__getitem__)

    def _degrees(self, sample: Sample, name: str, value: float | None, limit: float) -> float | None:
        if value is None or math.isnan(value):
            return None
        if not -limit <= value <= limit:
            raise self._fault(sample, f"{name} is {value}; expected degrees from -{limit:g} to {limit:g}")
        return float(value)

    def _time(self, sample: Sample) -> int | None:
        if sample.time is None or math.isnan(sample.time):
            return None
        if not -1e6 < sample.time < 1e6:  # the years -767 to 4707: beyond them the unit is wrong
            raise self._fault(sample, f"time is {sample.time}; expected days since 1970-01-01")
        return round(sample.time * US_PER_DAY)

    def _measure(self, image: NDArray[Any]) -> None:
        flat = image.reshape(len(self.bands), -1)
        if self.dtype != "float32":
            wide = flat.astype(np.int64)
            for band, (total, squares) in enumerate(zip(wide.sum(1), (wide * wide).sum(1), strict=True)):
                self._sum[band] += int(total)
                self._squares[band] += int(squares)
            return
        wide_float = flat.astype(np.float64)
        mean = wide_float.mean(1)
        size, delta = flat.shape[1], mean - self._mean
        before = self.count * size
        self._m2 += ((wide_float - mean[:, None]) ** 2).sum(1) + delta**2 * before * size / (before + size)
        self._mean += delta * size / (before + size)
