"""Unpacked data sets on a node: built once under a lock, found again by fingerprint, rebuilt when damaged.

Shards are made to be carried; reading single images from them at random is slow. So the first process that opens a
data set on a node unpacks it into the cache, and all others map the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from stssl.data.schema import Card
from stssl.data.shards import read_rows
from stssl.errors import DataError

_SPARE = 16 * 2**20  # bytes beside the pixels: ids, labels, places


def cache_home() -> Path:
    """$STSSL_CACHE, else $XDG_CACHE_HOME/stssl, else ~/.cache/stssl."""
    if os.environ.get("STSSL_CACHE"):
        return Path(os.environ["STSSL_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stssl"


def unpack(shards: Path, card: Card, home: Path) -> Path:
    """Unpack shards into the cache, unless that was done already.

    Args:
        shards: The prepared folder.
        card: Its card.
        home: The folder of caches.

    Returns:
        A folder with `images.bin`, [N, C, H, W] raw little-endian pixels, and `rows.parquet`, all other columns.

    Raises:
        DataError: A shard is missing or damaged, or the cache has no room or cannot be written.
    """
    folder = home / card.fingerprint
    if _is_whole(folder, card):
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f"{card.fingerprint}.lock"):  # the others wait for the one that builds
            if not _is_whole(folder, card):
                _build(shards, card, folder)
    except OSError as error:
        raise DataError(f"{home}: the cache cannot be written: {error}; set STSSL_CACHE to another folder") from None
    return folder


def _is_whole(folder: Path, card: Card) -> bool:
    """Whether a cache entry is there, complete and unchanged.

    Size and date of each file tell, which costs nothing. A file whose date changed (touched, copied, written to) is
    compared with its SHA-256.
    """
    try:
        seal = json.loads((folder / "seal.json").read_text(encoding="utf-8"))
        for name in ("images.bin", "rows.parquet"):
            status, known = (folder / name).stat(), seal[name]
            if status.st_size != known["bytes"]:
                return False
            if status.st_mtime_ns != known["mtime_ns"]:
                with (folder / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                        return False
        return bool(seal["images.bin"]["bytes"] == _pixel_bytes(card))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _pixel_bytes(card: Card) -> int:
    return card.count * int(np.prod(card.shape)) * np.dtype(card.dtype).itemsize


def _build(shards: Path, card: Card, folder: Path) -> None:
    """Unpack shards into a cache entry; the caller holds its lock."""
    partial = folder.with_name(f"{folder.name}.partial")
    for leftover in (partial, folder):  # a run that died; a damaged entry (who maps it keeps its file)
        if leftover.exists():
            shutil.rmtree(leftover)
    need, have = _pixel_bytes(card) + _SPARE, shutil.disk_usage(folder.parent).free
    if need > have:
        raise DataError(
            f"{folder.parent}: the cache needs {need / 2**30:.2f} GiB for '{card.name}', "
            f"and {have / 2**30:.2f} GiB are free; make room, or set STSSL_CACHE to a folder on a larger disk"
        )
    partial.mkdir()
    try:
        pixels, rows = hashlib.sha256(), []
        # Plain writes, not a memory map: on a full disk they raise, where a map would kill the process.
        with (partial / "images.bin").open("wb") as file:
            for batch in read_rows(shards):
                for image in batch.column("image"):
                    view = memoryview(image.as_buffer())
                    file.write(view)
                    pixels.update(view)
                rows.append(batch.drop_columns(["image", "geometry"]))
            file.flush()
            os.fsync(file.fileno())
        table = pa.Table.from_batches(rows)
        if table.num_rows != card.count or (partial / "images.bin").stat().st_size != _pixel_bytes(card):
            raise DataError(f"{shards}: shards and dataset.json disagree; make it anew: `python launch.py prepare ...`")
        pq.write_table(table, partial / "rows.parquet")
        sums = {
            "images.bin": pixels.hexdigest(),
            "rows.parquet": hashlib.sha256((partial / "rows.parquet").read_bytes()).hexdigest(),
        }
        seal = {}
        for name, sha256 in sums.items():
            status = (partial / name).stat()
            seal[name] = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
        (partial / "seal.json").write_text(json.dumps(seal), encoding="utf-8")
        partial.rename(folder)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
