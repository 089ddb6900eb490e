"""Unpacked data sets on a node: built once under a lock, found again by fingerprint, rebuilt when damaged.

Shards are made to be carried; reading single images from them at random is slow. So the first process that opens a
data set on a node unpacks it into the cache, and all others map the same files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
from filelock import FileLock

from stssl.data.schema import Card
from stssl.data.unpack import FILES, IMAGES, unpack_shards
from stssl.errors import ConfigError, DataError
from stssl.files import named_faults, write_text
from stssl.storage import Folder

_ROW_BYTES = 256  # about what a row takes beside its pixels


def cache_home() -> Path:
    """$STSSL_CACHE, else $XDG_CACHE_HOME/stssl, else ~/.cache/stssl."""
    if os.environ.get("STSSL_CACHE"):
        return Path(os.environ["STSSL_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stssl"


def unpack(folder: Folder, card: Card, home: Path) -> Path:
    """Unpack shards into the cache, unless that was done already.

    Args:
        folder: The prepared folder.
        card: Its card.
        home: The folder of caches.

    Returns:
        A folder with `images.bin`, [N, C, H, W] raw little-endian pixels; `labels.npy`, `place.npy`, `time.npy`; and
        `rows.arrow`, ids and splits.

    Raises:
        DataError: A shard is missing or damaged, or the cache has no room or cannot be written.
        ConfigError: $STSSL_CACHE_LIMIT_GB is no number.
    """
    entry = home / card.fingerprint
    if _is_whole(entry, card, look_inside=False):
        return entry
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "build.lock"):  # the others wait for the one that builds, and room is given away once
            if not _is_whole(entry, card, look_inside=True):
                _build(folder, card, entry)
    except OSError as error:
        raise DataError(f"{home}: the cache cannot be written: {error}; set STSSL_CACHE to another folder") from None
    return entry


def check_room(card: Card, home: Path) -> None:
    """Refuse a data set that is not unpacked on this machine and would not fit.

    Raises:
        DataError: The disk, or what the user allows, is too small, or cannot be written.
        ConfigError: $STSSL_CACHE_LIMIT_GB is no number.
    """
    if _is_whole(home / card.fingerprint, card, look_inside=False):
        return
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{home}: the cache cannot be written: {error}; set STSSL_CACHE to another folder") from None
    _check_room(card, home)


def _is_whole(entry: Path, card: Card, look_inside: bool) -> bool:
    """Whether a cache entry is there, complete and unchanged.

    Size and date of each file tell, which costs nothing. A file whose date changed (touched, copied, written to) counts
    as changed, unless it is to be looked inside (by who holds the lock) and still has its SHA-256: then its date is noted.
    """
    try:
        seal = json.loads((entry / "seal.json").read_text(encoding="utf-8"))
        for name in FILES:
            status, known = (entry / name).stat(), seal[name]
            if status.st_size != known["bytes"]:
                return False
            if status.st_mtime_ns != known["mtime_ns"]:
                sizes, sums = zip(*known["chunks"], strict=True)
                if not look_inside or _sums(entry / name, list(sizes)) != list(sums):
                    return False
                known["mtime_ns"] = status.st_mtime_ns
                write_text(entry / "seal.json", json.dumps(seal))
        return bool(seal[IMAGES]["bytes"] == pixel_bytes(card))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def pixel_bytes(card: Card) -> int:
    """Bytes of all images of a data set."""
    return card.count * int(np.prod(card.shape)) * np.dtype(card.dtype).itemsize


def _build(folder: Folder, card: Card, entry: Path) -> None:
    """Unpack shards into a cache entry; the caller holds its lock."""
    partial = entry.with_name(f"{entry.name}.partial")
    for leftover in (partial, entry):  # a run that died; a damaged entry (who maps it keeps its file)
        if leftover.exists():
            shutil.rmtree(leftover)
    _check_room(card, entry.parent)
    partial.mkdir()
    try:
        with named_faults(partial):
            chunks = {**dict.fromkeys(FILES), IMAGES: unpack_shards(folder, card, partial)}
            seal = {}
            for name, sums in chunks.items():
                status = (partial / name).stat()
                sums = sums or [(status.st_size, _sums(partial / name, [status.st_size])[0])]
                seal[name] = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "chunks": sums}
            (partial / "seal.json").write_text(json.dumps(seal), encoding="utf-8")
        partial.rename(entry)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def _sums(path: Path, sizes: list[int]) -> list[str]:
    """SHA-256 (hex) of a file's chunks, one after the other."""
    sums = []
    with path.open("rb") as file:
        for size in sizes:
            digest = hashlib.sha256()
            while size and (data := file.read(min(size, 2**20))):
                digest.update(data)
                size -= len(data)
            sums.append(digest.hexdigest())
    return sums


def _check_room(card: Card, home: Path) -> None:
    """Refuse what does not fit, before anything is written.

    Raises:
        DataError: The disk, or what the user allows, is too small.
    """
    need = pixel_bytes(card) + card.count * _ROW_BYTES
    free = shutil.disk_usage(home).free
    if need > free:
        raise DataError(
            f"{home}: the cache needs {_gb(need)} for '{card.name}', and {_gb(free)} are free; make room, or set "
            "STSSL_CACHE to a folder on a larger disk"
        )
    limit = os.environ.get("STSSL_CACHE_LIMIT_GB")
    if not limit:
        return
    try:
        allowed = float(limit) * 1e9
        if not 0 < allowed < math.inf:
            raise ValueError
    except ValueError:
        raise ConfigError(f"STSSL_CACHE_LIMIT_GB: expected a number of gigabytes, got '{limit}'") from None
    sizes = {
        other.name: sum(file.stat().st_size for file in other.iterdir())
        for other in home.iterdir()
        if other.is_dir() and (other / "seal.json").exists()
    }
    if need + sum(sizes.values()) > allowed:
        there = ", ".join(f"{name[:12]} ({_gb(size)})" for name, size in sorted(sizes.items())) or "nothing"
        raise DataError(
            f"{home}: '{card.name}' needs {_gb(need)}, STSSL_CACHE_LIMIT_GB allows {_gb(allowed)}, and there is "
            f"{there}; raise the limit, or delete folders there that no run uses"
        )


def _gb(size: float) -> str:
    return f"{size / 1e9:.3f} GB"
