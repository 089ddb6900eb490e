"""From shards to files that can be mapped: pixels, labels, places, times, ids."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from stssl.data import shards
from stssl.data.parquet import label_tensor, place_tensor, time_tensor
from stssl.data.schema import Card, ShardFile
from stssl.errors import DataError
from stssl.storage import Folder

IMAGES, LABELS, PLACE, TIME, ROWS = "images.bin", "labels.npy", "place.npy", "time.npy", "rows.arrow"
FILES = (IMAGES, LABELS, PLACE, TIME, ROWS)
_READERS = 2  # shards that are read at once; each is in memory, packed and a part of it unpacked


class _Column:
    """A file of one fixed-size value for each row, written in any order.

    Plain writes, not a memory map: on a full disk they raise, where a map would kill the process.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...], rows: int, header: bool) -> None:
        self.file: BinaryIO = path.open("wb")
        self.dtype, self.shape = np.dtype(dtype), shape
        self.row_bytes = self.dtype.itemsize * int(np.prod(shape))
        if header:
            about = {"descr": dtype, "fortran_order": False, "shape": (rows, *shape)}
            np.lib.format.write_array_header_1_0(self.file, about)  # type: ignore[arg-type]
            self.file.flush()
        self.start = self.file.tell()

    def put(self, row: int, data: Any) -> None:
        """Write the bytes of one or more rows, the first of which is `row`."""
        view, offset = memoryview(data).cast("B"), self.start + row * self.row_bytes
        while len(view):
            written = os.pwrite(self.file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def close(self) -> None:
        """Make sure that it is on the disk."""
        with self.file:
            os.fsync(self.file.fileno())


def unpack_shards(folder: Folder, card: Card, target: Path) -> list[tuple[int, str]]:
    """Write `FILES` into an empty folder, a few shards at a time.

    Args:
        folder: The prepared folder.
        card: Its card.
        target: Where to.

    Returns:
        Size and SHA-256 of the parts of `images.bin`, one a shard.

    Raises:
        DataError: A shard is missing, damaged, or not what the card says.
        OSError: The disk is full.
    """
    n = card.count
    label_type, label_shape = ("<i8", ()) if card.task == "single" else ("<f4", (len(card.classes),))
    columns = {
        IMAGES: _Column(target / IMAGES, np.dtype(card.dtype).newbyteorder("<").str, card.shape, n, header=False),
        LABELS: _Column(target / LABELS, label_type, label_shape, n, header=True),
        PLACE: _Column(target / PLACE, "<f4", (2,), n, header=True),
        TIME: _Column(target / TIME, "<f8", (), n, header=True),
    }
    starts = [0, *accumulate(shard.rows for shard in card.shards)]
    if starts[-1] != n:
        raise _disagree(folder)
    schema = pa.schema([("id", pa.string()), ("split", pa.string())])
    sums = []
    pool = ThreadPoolExecutor(_READERS)
    try:
        with pa.OSFile(str(target / ROWS), "wb") as sink, pa.ipc.new_file(sink, schema) as rows:
            for size, sha256, table in pool.map(partial(_unpack_shard, folder, card, columns), card.shards, starts):
                sums.append((size, sha256))
                rows.write_table(table.cast(schema))
        for column in columns.values():
            column.close()
    finally:
        pool.shutdown(cancel_futures=True)
    return sums


def _unpack_shard(
    folder: Folder, card: Card, columns: dict[str, _Column], shard: ShardFile, start: int
) -> tuple[int, str, pa.Table]:
    pixels, tables, row = hashlib.sha256(), [], start
    images = columns[IMAGES]
    for batch in shards.batches(shards.read_shard(folder, shard)):
        if row + len(batch) > start + shard.rows:
            raise _disagree(folder)
        for number, image in enumerate(batch["image"]):
            view = memoryview(image.as_buffer())
            if len(view) != images.row_bytes:
                raise _disagree(folder)
            pixels.update(view)
            images.put(row + number, view)
        table = pa.Table.from_batches([batch])
        columns[LABELS].put(row, label_tensor(table["labels"], card.classes, card.task).numpy())
        columns[PLACE].put(row, place_tensor(table["lat"], table["lng"]).numpy())
        columns[TIME].put(row, time_tensor(table["time"]).numpy())
        tables.append(table.select(["id", "split"]))
        row += len(batch)
    if row != start + shard.rows:
        raise _disagree(folder)
    return shard.rows * images.row_bytes, pixels.hexdigest(), pa.concat_tables(tables)


def _disagree(folder: Folder) -> DataError:
    return DataError(f"{folder}: shards and dataset.json disagree; make it anew: `python launch.py prepare ...`")
