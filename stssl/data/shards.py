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
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown}: damaged: {error}; make the folder anew with {_PREPARE} --overwrite") from None
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > 1:
        raise DataError(f"{shown}: format {data['format']} is newer than this stssl; update stssl or use {_PREPARE}")
    try:
        card = validate(Card, data, shown)
    except ConfigError as error:
        raise DataError(f"{error}\n{shown}: damaged; make the folder anew with {_PREPARE} --overwrite") from None
    if not card.shards:
        raise DataError(f"{shown}: damaged: it lists no shard; make the folder anew with {_PREPARE} --overwrite")
    return card


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


def batches(shard: pa.Buffer) -> Iterator[pa.RecordBatch]:
    """The rows of a shard in order, a bounded number at a time."""
    with pq.ParquetFile(pa.BufferReader(shard)) as file:
        for group in range(file.num_row_groups):  # groups were sized to fit in memory when they were written
            yield from file.read_row_group(group).to_batches()


def read_columns(place: Path | str | Folder, columns: list[str]) -> pa.Table:
    """Some columns of all rows, without the checksums and without reading the others: a quick look.

    Raises:
        DataError: The card or a shard is missing or damaged.
    """
    folder = Folder(place)
    return pa.concat_tables([read_part(folder, shard, columns) for shard in read_card(folder).shards])


def read_part(folder: Folder, shard: ShardFile, columns: list[str], group: int | None = None) -> pa.Table:
    """Some columns of a shard, without its checksum; `group` None = all rows, else the rows of one row group.

    Raises:
        DataError: The shard is missing, damaged, or another one.
    """
    shown, remedy = folder.show(shard.file), f"copy it again, or make the folder anew with {_PREPARE} --overwrite"
    try:
        with folder.open(shard.file) as stream, pq.ParquetFile(stream) as file:
            known = (stream.size(), file.metadata.num_rows) == (shard.bytes, shard.rows)
            if not known or not {*columns} <= {*file.schema_arrow.names}:
                raise DataError(f"{shown}: damaged: it is not the file that {MANIFEST} lists; {remedy}")
            return file.read(columns) if group is None else file.read_row_group(group, columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{shown}: missing or damaged ({str(error).splitlines()[0]}); {remedy}") from None


def _absent(folder: Folder) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; make it with {_PREPARE}"
    if (folder / PROGRESS).exists():
        return f"{folder}: its preparing was interrupted; run the same {_PREPARE} again, it goes on where it was"
    return f"{folder}: no prepared data set (it holds no {MANIFEST}); make one with {_PREPARE}"
