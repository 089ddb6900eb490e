"""One Parquet shard (GeoParquet 1.1): its columns, how rows are written, how columns become tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssl.data.content import US_PER_DAY, Content, Row
from stssl.data.schema import Task

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # [C, H, W] in C order, little-endian
        pa.field("labels", pa.list_(pa.string())),  # null = unlabeled
        pa.field("lat", pa.float64()),  # degrees
        pa.field("lng", pa.float64()),  # degrees
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("split", pa.string()),
        pa.field("geometry", pa.binary()),  # WKB point (longitude, latitude), OGC:CRS84
    ]
)
_GROUP_BYTES = 32 * 2**20  # pixels in one row group: what a reader holds in memory at once


class ShardWriter:
    """Writes one shard, row group by row group.

    The file's metadata says all that is needed to read it alone: bands, classes, shape, dtype, and mean, standard
    deviation and fingerprint of its own rows.

    Args:
        path: The file to make.
        name: Of the data set.
        image: [C, H, W], an example for the size.
    """

    def __init__(self, path: Path, name: str, image: NDArray[Any]) -> None:
        self.path, self.name, self.rows = path, name, 0
        self._group = max(1, _GROUP_BYTES // image.nbytes)
        self._buffer: list[Row] = []
        self._bbox: list[float] | None = None
        self._writer = pq.ParquetWriter(
            path,
            SCHEMA,
            compression="zstd",
            use_dictionary=["labels", "split"],
            write_statistics=["id"],
        )

    def add(self, row: Row) -> None:
        """Take one row; it reaches the file when its group is full."""
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) == self._group:
            self._flush()

    def close(self, content: Content) -> None:
        """Finish the file; `content` has seen its rows and no others."""
        self._flush()
        column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Point"] if self._bbox else []}
        if self._bbox:
            column["bbox"] = self._bbox
        form = content.form
        about = {
            "geo": {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}},
            "task": content.task,
            "bands": content.bands,
            "classes": content.classes,
            "shape": form.shape if form else None,
            "dtype": form.dtype if form else None,
            "statistics": {"mean": content.mean, "std": content.std},
            "fingerprint": content.fingerprint,
        }
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
        self._writer.add_key_value_metadata({"dataset": self.name, **texts})
        self._writer.close()

    def abort(self) -> None:
        """Let go of the file; what is in it is worthless."""
        self._writer.close()

    def _flush(self) -> None:
        if not self._buffer:
            return
        columns = {
            "id": [row.id for row in self._buffer],
            "image": [row.image.tobytes() for row in self._buffer],
            "labels": [row.labels for row in self._buffer],
            "lat": [row.lat for row in self._buffer],
            "lng": [row.lng for row in self._buffer],
            "time": [row.time_us for row in self._buffer],
            "split": [row.split for row in self._buffer],
            "geometry": [self._point(row) for row in self._buffer],
        }
        arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
        self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self._buffer.clear()

    def _point(self, row: Row) -> bytes | None:
        """WKB of a row's place, which also grows the bounding box [west, south, east, north]."""
        if row.lat is None or row.lng is None:
            return None
        west, south, east, north = self._bbox or [row.lng, row.lat, row.lng, row.lat]
        self._bbox = [min(west, row.lng), min(south, row.lat), max(east, row.lng), max(north, row.lat)]
        return struct.pack("<BIdd", 1, 1, row.lng, row.lat)


def label_tensor(labels: pa.ChunkedArray, classes: tuple[str, ...], task: Task) -> Tensor:
    """Label lists as a tensor: [N] int64, or [N, K] float32; -1 = unknown."""
    column = labels.combine_chunks()
    rows = torch.from_numpy(pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64))
    ranks = pc.index_in(pc.list_flatten(column), value_set=pa.array(classes, pa.string()))
    hits = torch.from_numpy(ranks.to_numpy(zero_copy_only=False).astype(np.int64))
    if task == "single":
        single = torch.full((len(column),), -1, dtype=torch.int64)
        single[rows] = hits
        return single
    known = torch.from_numpy(pc.is_valid(column).to_numpy(zero_copy_only=False).copy())
    multi = torch.full((len(column), len(classes)), -1.0)
    multi[known] = 0.0
    multi[rows, hits] = 1.0
    return multi


def place_tensor(lat: pa.ChunkedArray, lng: pa.ChunkedArray) -> Tensor:
    """[N, 2] float32 degrees (latitude, longitude), NaN = unknown."""
    columns = [column.to_numpy().astype(np.float32) for column in (lat, lng)]  # pyarrow turns null into NaN
    return torch.from_numpy(np.stack(columns, axis=1))


def time_tensor(time: pa.ChunkedArray) -> Tensor:
    """[N] float64 days since 1970-01-01 UTC, NaN = unknown."""
    days = pc.divide(pc.cast(pc.cast(time, pa.int64()), pa.float64()), float(US_PER_DAY))
    return torch.from_numpy(days.to_numpy().astype(np.float64))
