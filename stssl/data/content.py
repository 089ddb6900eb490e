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


class Form(NamedTuple):
    """What all images of a data set share: shape (C, H, W), dtype, and the id of the image that set them."""

    shape: tuple[int, int, int]
    dtype: DType
    of: str

    @classmethod
    def like(cls, sample: Sample) -> Form:
        """The form of a sample that has been checked."""
        return cls(sample.image.shape, sample.image.dtype.name, sample.id)  # type: ignore[arg-type]


class Content:
    """Running checks, pixel statistics and fingerprint over a stream of samples.

    Streams that were measured apart, such as the shards of a data set, can be joined.

    Args:
        task: Whether a sample has exactly one label or any number.
        classes: All class names; their order is the order of labels in tensors.
        bands: Band names, one for each channel.
        where: What to call the data in an error.
        form: What the images must look like; None = like the first one.

    Raises:
        DataError: No class or no band, or a name twice.
    """

    def __init__(
        self, task: Task, classes: tuple[str, ...], bands: tuple[str, ...], where: str, form: Form | None = None
    ) -> None:
        for kind, names in (("class", classes), ("band", bands)):
            if not names or len(set(names)) < len(names):
                raise DataError(f"{where}: expected at least one {kind} and each name once, got {list(names)}")
        self.task, self.classes, self.bands, self.where = task, classes, bands, where
        self.form = form
        self.count = 0
        self._rank = {name: rank for rank, name in enumerate(classes)}
        self._digests = bytearray()  # 32 bytes a row, so that the fingerprint can be made in parts
        # Integer pixels are summed exactly (Python integers), so that the result depends on no order and no rounding.
        self._sum: list[int] = [0] * len(bands)
        self._squares: list[int] = [0] * len(bands)
        self._mean, self._m2 = np.zeros(len(bands)), np.zeros(len(bands))  # float32 images: Chan's pairwise update

    def add(self, sample: Sample) -> Row:
        """Check one sample and take it into the statistics.

        Raises:
            DataError: The sample does not fit the ones before it, or is not what `Sample` promises.
        """
        row = self.check(sample)
        self.form = self.form or Form.like(sample)
        self._measure(row.image)
        self.count += 1
        head = json.dumps([row.id, row.labels, row.lat, row.lng, row.time_us, row.split], ensure_ascii=False)
        digest = hashlib.sha256(head.encode())
        digest.update(row.image.data.cast("B"))
        self._digests += digest.digest()
        return row

    def check(self, sample: Sample) -> Row:
        """Check one sample.

        Raises:
            DataError: The sample does not fit `form`, or is not what `Sample` promises.
        """
        return Row(
            sample.id,
            self._image(sample),
            self._labels(sample),
            self._degrees(sample, "lat", sample.lat, 90.0),
            self._degrees(sample, "lng", sample.lng, 180.0),
            self._time(sample),
            sample.split or None,
        )

    def state(self) -> dict[str, Any]:
        """What was measured, as plain data for JSON."""
        return {
            "count": self.count,
            "form": list(self.form) if self.form else None,
            "sum": self._sum,
            "squares": self._squares,
            "mean": self._mean.tolist(),
            "m2": self._m2.tolist(),
            "digests": self._digests.hex(),
        }

    def join(self, state: dict[str, Any]) -> None:
        """Take in what another stream measured; its samples come after the ones here.

        Raises:
            KeyError: The state is none (likewise TypeError, ValueError).
        """
        if not state["count"]:
            return
        shape, dtype, of = state["form"]
        form = Form(tuple(shape), dtype, of)
        self.form = self.form or form
        if self.form[:2] != form[:2]:
            raise ValueError(f"images are {form[:2]} and {self.form[:2]}")
        self._sum = [a + b for a, b in zip(self._sum, state["sum"], strict=True)]
        self._squares = [a + b for a, b in zip(self._squares, state["squares"], strict=True)]
        self._merge(state["count"], np.asarray(state["mean"]), np.asarray(state["m2"]))
        self.count += state["count"]
        self._digests += bytes.fromhex(state["digests"])

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each band, in stored units."""
        if self._known.dtype == "float32":
            return tuple(map(float, self._mean))
        return tuple(total / self._pixels for total in self._sum)

    @property
    def std(self) -> tuple[float, ...]:
        """Population standard deviation of each band, in stored units."""
        if self._known.dtype == "float32":
            return tuple(map(float, np.sqrt(self._m2 / self._pixels)))
        n, sums = self._pixels, zip(self._sum, self._squares, strict=True)
        return tuple(math.sqrt(n * squares - total**2) / n for total, squares in sums)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of task, classes, bands, shape, dtype and all rows in order."""
        shape, dtype, _ = self._known
        head = [self.task, self.classes, self.bands, shape, dtype, self.count]
        return hashlib.sha256(json.dumps(head, ensure_ascii=False).encode() + self._digests).hexdigest()

    @property
    def _known(self) -> Form:
        if self.form is None or not self.count:
            raise DataError(f"{self.where}: there is no image")
        return self.form

    @property
    def _pixels(self) -> int:
        _, height, width = self._known.shape
        return self.count * height * width

    def _fault(self, sample: Sample, fault: str) -> DataError:
        return DataError(f"{self.where}: sample '{sample.id}': {fault}")

    def _image(self, sample: Sample) -> NDArray[Any]:
        image, known = sample.image, get_args(DType)
        if image.dtype.name not in known:
            raise self._fault(sample, f"pixels are {image.dtype.name}; stssl stores {', '.join(known)}")
        if image.ndim != 3 or image.shape[0] != len(self.bands) or 0 in image.shape:
            raise self._fault(sample, f"shape is {image.shape}; expected ({len(self.bands)} bands, height, width)")
        if self.form is not None and (image.shape, image.dtype.name) != self.form[:2]:
            raise self._fault(
                sample,
                f"is {image.dtype.name} of shape {image.shape}, '{self.form.of}' is {self.form.dtype} of "
                f"{self.form.shape}; all images of a data set must agree",
            )
        image = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
        if image.dtype.kind == "f" and not np.isfinite(image).all():
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
        if not abs(sample.time) < 104_000:  # beyond, a float64 has no room for microseconds
            raise self._fault(
                sample, f"time is {sample.time}; expected days since 1970-01-01, of the years 1686 to 2254"
            )
        return round(sample.time * US_PER_DAY)

    def _measure(self, image: NDArray[Any]) -> None:
        flat = image.reshape(len(self.bands), -1)
        if image.dtype.kind == "f":
            wide = flat.astype(np.float64)
            mean = wide.mean(1)
            self._merge(1, mean, ((wide - mean[:, None]) ** 2).sum(1))
            return
        for start in range(0, flat.shape[1], 2**20):  # 2^20 squares of 16 bits fit into a float64 exactly
            wide = flat[:, start : start + 2**20].astype(np.float64)
            sums, squares = wide.sum(1), np.einsum("bp,bp->b", wide, wide)
            self._sum = [a + int(b) for a, b in zip(self._sum, sums, strict=True)]
            self._squares = [a + int(b) for a, b in zip(self._squares, squares, strict=True)]

    def _merge(self, count: int, mean: NDArray[Any], m2: NDArray[Any]) -> None:
        """Means and summed squared deviations of `count` more images (Chan et al. 1983)."""
        shape = self.form.shape if self.form else (0, 0, 0)
        size, before = count * shape[1] * shape[2], self.count * shape[1] * shape[2]
        delta = mean - self._mean
        self._m2 = self._m2 + m2 + delta**2 * (before * size / (before + size))
        self._mean = self._mean + delta * (size / (before + size))
