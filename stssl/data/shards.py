"""Parquet shards (GeoParquet 1.1): written once from a source, read everywhere.

A prepared folder holds `part-00000.parquet`, ... and `dataset.json` (the `Card`). It appears by one rename: it is whole
or it is not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from stssl.config import validate
from stssl.data.content import Content
from stssl.data.parquet import ShardWriter
from stssl.data.schema import Card, ShardFile
from stssl.data.sources.base import Source
from stssl.errors import ConfigError, DataError

MANIFEST = "dataset.json"
_PREPARE = "`python launch.py prepare ...`"


def prepare(
    source: Source,
    out: Path,
    rows_per_shard: int = 4096,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Card, bool]:
    """Write a source as shards, or find that this was done already.

    Args:
        source: What to write; read once, sample by sample.
        out: The folder to make.
        rows_per_shard: Most images in one file.
        overwrite: Replace a data set that is there. Only a folder of stssl is ever replaced.
        on_progress: Called with (samples done, samples in all) after each sample.

    Returns:
        The card, and whether anything was written.

    Raises:
        DataError: A sample is damaged; `out` holds something else; another process writes to it; it cannot be written.
    """
    if rows_per_shard < 1:
        raise DataError(f"rows per shard must be at least 1, got {rows_per_shard}")
    if len(source) == 0:
        raise DataError(f"source '{source.name}': there are no images to prepare")
    out = Path(out).expanduser().resolve()  # a link stays one: what it points at is replaced
    partial, aside = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Who holds the lock is alone: whatever temporaries lie there belong to runs that died.
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            if aside.exists() and not out.exists():
                aside.rename(out)  # a run died between the two renames of an overwrite
            _remove(aside)
            signature = source.signature()
            known = _look(out, source.name, signature, overwrite)
            if known:
                return known, False
            _remove(partial)
            partial.mkdir()
            try:
                card = _write(source, signature, partial, rows_per_shard, on_progress)
                if out.exists() and any(out.iterdir()):
                    out.rename(aside)
                partial.rename(out)
                _sync(out.parent)
                _remove(aside)
            finally:
                _remove(partial)
            return card, True
    except Timeout:
        raise DataError(f"{out}: another process is preparing this folder; wait for it or use another --out") from None
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}; make room, or use another --out") from None


def read_card(folder: Path) -> Card:
    """The card of a prepared folder.

    Raises:
        DataError: There is no such folder, it was not prepared, or its card is damaged.
    """
    path = Path(folder) / MANIFEST
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; make it with {_PREPARE}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: no prepared data set (it holds no {MANIFEST}); make one with {_PREPARE}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}; make the folder anew with {_PREPARE}") from None
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > 1:
        raise DataError(f"{path}: format {data['format']} is newer than this stssl; update stssl or use {_PREPARE}")
    try:
        return validate(Card, data, str(path))
    except ConfigError as error:
        raise DataError(f"{error}\n{path}: damaged; make the folder anew with {_PREPARE}") from None


def verify(folder: Path) -> Card:
    """Check size and SHA-256 of every shard.

    Raises:
        DataError: The card or a shard is missing or damaged.
    """
    card = read_card(folder)
    for shard in card.shards:
        _check(Path(folder), shard)
    return card


def read_rows(folder: Path, columns: list[str] | None = None, verified: bool = False) -> Iterator[pa.RecordBatch]:
    """All rows in order, a bounded number at a time; each shard is verified before it is read.

    Args:
        folder: A data set.
        columns: Which columns; None = all.
        verified: The caller has verified the shards, or can do without.

    Raises:
        DataError: The card or a shard is missing or damaged.
    """
    for shard in read_card(folder).shards:
        path = Path(folder) / shard.file if verified else _check(Path(folder), shard)
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):  # groups were sized to fit in memory when they were written
                yield from file.read_row_group(group, columns).to_batches()


def _check(folder: Path, shard: ShardFile) -> Path:
    path = folder / shard.file
    remedy = f"copy it again, or make the folder anew with {_PREPARE} --overwrite"
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise DataError(f"{path}: damaged: {size} bytes, expected {shard.bytes}; {remedy}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                raise DataError(f"{path}: damaged: its SHA-256 is not the one in {MANIFEST}; {remedy}")
    except FileNotFoundError:
        raise DataError(f"{path}: this shard is missing; {remedy}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; {remedy}") from None
    return path


def _look(out: Path, source: str, signature: str, overwrite: bool) -> Card | None:
    """Decide about what lies at `out`: a card if it is what was asked for, None if it may be (over)written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir():
        raise DataError(f"{out}: this is a file; use another --out")
    try:
        card = read_card(out)
    except DataError as error:
        raise DataError(f"{out}: no stssl data set, so it is not replaced; use another --out ({error})") from None
    listed = {MANIFEST, *(shard.file for shard in card.shards)}
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in listed)
    if overwrite:
        if foreign:
            raise DataError(f"{out}: also holds {foreign[0]}, which stssl did not write; move it, or use another --out")
        return None
    choice = "use --overwrite or another --out"
    if (card.source, card.source_signature) != (source, signature):
        raise DataError(f"{out}: holds a data set made from other or since changed files; {choice}")
    for shard in card.shards:
        path = out / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise DataError(f"{path}: this shard is missing or damaged; {choice}")
    return card


def _write(
    source: Source, signature: str, folder: Path, rows_per_shard: int, on_progress: Callable[[int, int], None] | None
) -> Card:
    """Write all shards, then the card, into an empty folder."""
    content = Content(source.task, source.classes, source.bands, f"source '{source.name}'")
    shards: list[ShardFile] = []
    writer: ShardWriter | None = None
    last = ""
    try:
        for sample in source.samples():
            if content.count and sample.id <= last:
                raise DataError(f"source '{source.name}': '{sample.id}' after '{last}': ids must be unique and sorted")
            last = sample.id
            row = content.add(sample)
            if writer is None:
                writer = ShardWriter(folder / f"part-{len(shards):05d}.parquet", source, row.image)
            writer.add(row)
            if writer.rows == rows_per_shard:
                shards.append(writer.close())
                writer = None
            if on_progress:
                on_progress(content.count, len(source))
        if writer is not None:
            shards.append(writer.close())
    except BaseException:
        if writer is not None:
            writer.abort()
        raise
    if content.shape is None or content.dtype is None:
        raise DataError(f"source '{source.name}': there are no images to prepare")
    card = Card(
        name=source.name,
        task=source.task,
        classes=source.classes,
        bands=source.bands,
        shape=content.shape,
        dtype=content.dtype,
        count=content.count,
        mean=content.mean,
        std=content.std,
        licence=source.licence,
        attribution=source.attribution,
        source=source.name,
        source_signature=signature,
        fingerprint=content.fingerprint,
        shards=tuple(shards),
    )
    path = folder / MANIFEST
    path.write_text(json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(path)
    _sync(folder)
    return card


def _remove(folder: Path) -> None:
    """Delete a temporary folder of ours, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
