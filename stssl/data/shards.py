"""Parquet shards (GeoParquet 1.1) as they are read: a card, and files with checksums. `prepare` writes them.

A prepared folder holds `part-00000-1a2b3c4d.parquet`, ... and `dataset.json` (the `Card`), which is written last: without
it there is no data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stssl.config import validate
from stssl.data.schema import Card, ShardFile
from stssl.errors import ConfigError, DataError
from stssl.storage import Folder

MANIFEST = "dataset.json"
PROGRESS = "_progress"  # what is written so far, while there is no manifest
_PREPARE = "`python launch.py prepare ...`"


def read_card(place: Path | str | Folder) -> Card:
    """The card of a prepared folder.

    Raises:
        DataError: There is no such folder, it was not prepared, or its card is damaged.
    """
    folder = Folder(place)
    shown = folder.show(MANIFEST)
    try:
        data = json.loads(folder.read(MANIFEST))
    except FileNotFoundError:
        raise DataError(_absent(folder)) from None
    except NotADirectoryError:
        raise DataError(f"{folder}: this is a file; name a folder made with {_PREPARE}") from None
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error}") from None
    except ValueError as error:
        raise DataError(f"{shown}: damaged: {error}; make the folder anew with {_PREPARE}") from None
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > 1:
        raise DataError(f"{shown}: format {data['format']} is newer than this stssl; update stssl or use {_PREPARE}")
    try:
        return validate(Card, data, shown)
    except ConfigError as error:
        raise DataError(f"{error}\n{shown}: damaged; make the folder anew with {_PREPARE}") from None


def verify(place: Path | str | Folder) -> Card:
    """Check size and SHA-256 of every shard.

    Raises:
        DataError: The card or a shard is missing or damaged.
    """
    card = read_card(place)
    for shard in card.shards:
        read_shard(Folder(place), shard)
    return card


def read_shard(folder: Folder, shard: ShardFile) -> pa.Buffer:
    """A whole shard in memory, which is checked.

    Raises:
        DataError: It is missing or damaged.
    """
    shown = folder.show(shard.file)
    remedy = f"copy it again, or make the folder anew with {_PREPARE} --overwrite"
    try:
        data = folder.read(shard.file)
    except FileNotFoundError:
        raise DataError(f"{shown}: this shard is missing; {remedy}") from None
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error}; {remedy}") from None
    if len(data) != shard.bytes:
        raise DataError(f"{shown}: damaged: {len(data)} bytes, expected {shard.bytes}; {remedy}")
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise DataError(f"{shown}: damaged: its SHA-256 is not the one in {MANIFEST}; {remedy}")
    return pa.py_buffer(data)


def batches(shard: pa.Buffer, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a shard in order, a bounded number at a time; `columns` None = all."""
    with pq.ParquetFile(pa.BufferReader(shard)) as file:
        for group in range(file.num_row_groups):  # groups were sized to fit in memory when they were written
            yield from file.read_row_group(group, columns).to_batches()


def read_rows(place: Path | str | Folder, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """All rows in order, a bounded number at a time; each shard is checked before it is read.

    Raises:
        DataError: The card or a shard is missing or damaged.
    """
    for shard in read_card(place).shards:
        yield from batches(read_shard(Folder(place), shard), columns)


def read_columns(place: Path | str | Folder, columns: list[str]) -> pa.Table:
    """Some columns of all rows, without the checksums and without reading the others: a quick look.

    Raises:
        DataError: The card or a shard is missing or damaged.
    """
    folder, tables = Folder(place), []
    for shard in read_card(folder).shards:
        try:
            with folder.open(shard.file) as stream, pq.ParquetFile(stream) as file:
                tables.append(file.read(columns))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{folder.show(shard.file)}: missing or damaged ({reason}); copy it again") from None
    return pa.concat_tables(tables)


def _absent(folder: Folder) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; make it with {_PREPARE}"
    if (folder / PROGRESS).exists():
        return f"{folder}: its preparing was interrupted; run the same {_PREPARE} again, it goes on where it was"
    return f"{folder}: no prepared data set (it holds no {MANIFEST}); make one with {_PREPARE}"
