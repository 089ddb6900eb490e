"""Images of a whole data set in one memory-mapped file, which all processes of a node share (see `cache`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssl.data.cache import cache_home, unpack
from stssl.data.content import Content
from stssl.data.schema import Card, Sample, Task
from stssl.data.shards import read_card
from stssl.data.unpack import IMAGES, LABELS, PLACE, ROWS, TIME
from stssl.errors import DataError
from stssl.storage import Folder


class ImageStore:
    """A data set at hand. Whatever has a value for each image lies in mapped files, so a process stays small.

    Attributes:
        card: What it is.
        images: [N, C, H, W] in stored dtype.
        labels: [N] int64, or [N, K] float32; -1 = unknown.
        place: [N, 2] float32 degrees (latitude, longitude), NaN = unknown.
        time: [N] float64 days since 1970-01-01 UTC, NaN = unknown.
        ids: [N] strings, an Arrow array.
        splits: [N] strings, the authors' splits, null where there is none, an Arrow array.
    """

    def __init__(
        self,
        card: Card,
        images: Tensor,
        labels: Tensor,
        place: Tensor,
        time: Tensor,
        ids: pa.ChunkedArray,
        splits: pa.ChunkedArray,
    ) -> None:
        self.card, self.images, self.labels, self.place, self.time = card, images, labels, place, time
        self.ids, self.splits = ids, splits

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    @classmethod
    def open(cls, shards: Path | str | Folder, cache: Path | str | None = None) -> ImageStore:
        """Open prepared shards; the first call on a node unpacks them, which takes a while.

        Args:
            shards: The prepared folder, on a disk or in a bucket.
            cache: Where unpacked data lies; else $STSSL_CACHE, else $XDG_CACHE_HOME/stssl, else ~/.cache/stssl.

        Raises:
            DataError: The shards are missing or damaged, or the cache has no room or cannot be written.
        """
        folder = Folder(shards)
        card = read_card(folder)
        entry = unpack(folder, card, Path(cache).expanduser() if cache else cache_home())
        images = np.memmap(entry / IMAGES, card.dtype, mode="c", shape=(card.count, *card.shape))
        # "c": torch wants writable memory; should anyone write, the change stays in this process
        labels, place, time = (torch.from_numpy(np.load(entry / name, mmap_mode="c")) for name in (LABELS, PLACE, TIME))
        rows = pa.ipc.open_file(pa.memory_map(str(entry / ROWS))).read_all()
        return cls(card, torch.from_numpy(images), labels, place, time, rows["id"], rows["split"])

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[Any] | Tensor,
        labels: NDArray[Any] | Tensor,
        place: NDArray[Any] | Tensor | None,
        time: NDArray[Any] | Tensor | None,
        classes: Sequence[str],
        task: Task,
        bands: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        splits: Sequence[str | None] | None = None,
    ) -> ImageStore:
        """A store of arrays at hand, without shards or cache.

        Args:
            images: [N, C, H, W] uint8, uint16 or float32.
            labels: [N] class numbers, or [N, K] of 0 and 1; -1 = unknown.
            place: [N, 2] degrees (latitude, longitude), NaN or None = unknown.
            time: [N] days since 1970-01-01 UTC, NaN or None = unknown.
            classes: K class names.
            task: Single- or multi-label.
            bands: C band names; else band1, band2, ...
            ids: N unique names; else counted.
            splits: N split names.

        Raises:
            DataError: Shapes or values do not fit each other.
        """
        pixels, known = np.asarray(images), np.asarray(labels)
        n = len(pixels)
        places = np.full((n, 2), np.nan, np.float32) if place is None else np.asarray(place, np.float32)
        times = np.full(n, np.nan) if time is None else np.asarray(time, np.float64)
        names = list(ids) if ids is not None else [f"{index:08d}" for index in range(n)]
        split_of: list[str | None] = list(splits) if splits is not None else [None] * n
        wanted = (n,) if task == "single" else (n, len(classes))
        if pixels.ndim != 4 or known.shape != wanted or places.shape != (n, 2) or times.shape != (n,):
            raise DataError(
                f"arrays do not fit: images {pixels.shape}, labels {known.shape} (expected {wanted}), "
                f"place {places.shape}, time {times.shape}"
            )
        if len(set(names)) != n or len(split_of) != n:
            raise DataError(f"arrays do not fit: {n} images, {len(set(names))} different ids, {len(split_of)} splits")
        if known.size and (known.min() < -1 or known.max() > (len(classes) - 1 if task == "single" else 1)):
            raise DataError(f"labels lie in {known.min()} to {known.max()}, which does not fit {len(classes)} classes")
        named = bands or [f"band{number + 1}" for number in range(pixels.shape[1])]
        content = Content(task, tuple(classes), tuple(named), "arrays")
        for row in range(n):
            lat, lng = map(float, places[row])
            content.add(Sample(names[row], pixels[row], None, lat, lng, float(times[row]), split_of[row]))
        if content.form is None:
            raise DataError("arrays do not fit: there is no image")
        known = known.astype(np.int64 if task == "single" else np.float32)
        # Labels here may be unknown in part, which samples cannot say, so they enter the fingerprint beside the rows.
        fingerprint = hashlib.sha256(content.fingerprint.encode() + known.tobytes()).hexdigest()
        card = Card(
            name="arrays",
            task=task,
            classes=content.classes,
            bands=content.bands,
            shape=content.form.shape,
            dtype=content.form.dtype,
            count=n,
            mean=content.mean,
            std=content.std,
            licence="",
            attribution="",
            source="arrays",
            source_signature=fingerprint,
            fingerprint=fingerprint,
            shards=(),
        )
        tensors = (
            torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for array in (pixels, known, places, times)
        )
        columns = (pa.chunked_array([pa.array(column, pa.string())]) for column in (names, split_of))
        return cls(card, *tensors, *columns)


def gather(images: Tensor, rows: Tensor, channels: Sequence[int] | None = None, out: Tensor | None = None) -> Tensor:
    """Copy some images.

    Args:
        images: [N, C, H, W], contiguous, on any device.
        rows: [B] row numbers, int64.
        channels: Which bands to take, in this order; None = all.
        out: [B, C', H, W] to copy into, on the CPU; None = new memory, whose fresh pages cost more than the copy.

    Returns:
        [B, C', H, W] in the same dtype and on the same device. uint16 stays torch.uint16, which is exact and half the
        bytes of int32 on the way to a GPU; torch can move and convert it, but not compute with it: convert to float32
        first.
    """
    count, bands, height, width = images.shape
    rows = rows.to(images.device)
    parts, width_of_part = count, bands * height * width
    if channels is not None:  # every band of every image is a part of its own
        rows = (rows[:, None] * bands + torch.tensor(channels, device=images.device)).flatten()
        parts, width_of_part = count * bands, height * width
    shape = (-1, bands if channels is None else len(channels), height, width)
    if images.device.type == "cpu":  # torch's own threads would get into the way of those that train
        into = torch.empty((len(rows), width_of_part), dtype=images.dtype) if out is None else out.view(len(rows), -1)
        # "clip", as numpy buffers what it may have to take back; rows are numbers of images
        np.take(images.view(parts, -1).numpy(), rows.numpy(), axis=0, out=into.numpy(), mode="clip")
        return into.view(shape)
    # torch gathers int16 on every device, uint16 not; the bits are the same
    bits = torch.int16 if images.dtype == torch.uint16 else images.dtype
    return images.view(bits).view(parts, -1).index_select(0, rows).view(images.dtype).view(shape)
