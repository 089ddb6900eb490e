"""The folder that `prepare` writes to: who may write there, what lies there, what may be deleted."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from stssl.data.jobs import TEMPORARY, Skipped
from stssl.data.schema import Card
from stssl.data.shards import MANIFEST, PROGRESS, read_card
from stssl.errors import DataError
from stssl.storage import Folder

SKIPPED = "skipped.csv"
_OURS = re.compile(r"part-\d{5,}-[0-9a-f]{8}\.parquet")
_TORN = re.compile(rf"\.({re.escape(MANIFEST)}|{re.escape(SKIPPED)})\..*\.partial")


def locked(target: Folder) -> AbstractContextManager[Any]:
    """Who holds the lock is alone: whatever temporaries lie there belong to runs that died."""
    if target.path is None:
        return nullcontext()
    place = target.path.resolve()  # a link to a folder and the folder itself are one place
    if place.exists() and not place.is_dir():
        raise DataError(f"{target}: this is a file; use another --out")
    if not place.name:
        raise DataError(f"{target}: no folder to write to; use another --out")
    place.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(place.with_name(f".{place.name}.lock"), timeout=0)


def look(target: Folder, source: str, signature: str, overwrite: bool) -> Card | None:
    """Decide about what lies there: the card of a data set that is whole or to be replaced, None if it may be written.

    Raises:
        DataError: It is something else, or a data set that is not to be replaced.
    """
    names = target.names()
    if MANIFEST not in names and all(_is_ours(name) for name in names):
        return None  # nothing, or what runs that died have left
    try:
        card = read_card(target)
    except DataError as error:
        if overwrite and any(map(_OURS.fullmatch, names)) and all(name == MANIFEST or _is_ours(name) for name in names):
            return None  # a damaged manifest among shards of ours
        raise DataError(f"{target}: no stssl data set, so it is not replaced; use another --out ({error})") from None
    if overwrite:
        return card
    choice = "use --overwrite or another --out"
    if (card.source, card.source_signature) != (source, signature):
        raise DataError(f"{target}: holds a data set made from other or since changed files; {choice}")
    check_there(target, card, f"this shard is missing or damaged; {choice}")
    return card


def check_there(target: Folder, card: Card, fault: str) -> None:
    """See that every shard is there in its full size.

    Raises:
        DataError: One is not; `fault` says what that means and what can be done.
    """
    there = {entry.name: entry.bytes for entry in target.entries()}
    for shard in card.shards:
        if there.get(shard.file) != shard.bytes:
            raise DataError(f"{target.show(shard.file)}: {fault}")


def write_manifest(target: Folder, card: Card, skipped: tuple[Skipped, ...]) -> None:
    """Say that the data set is whole; what was left out is listed beside it."""
    if skipped:
        text = io.StringIO()
        rows = [[_as_text(cell) for cell in entry] for entry in skipped]
        csv.writer(text, lineterminator="\n").writerows([Skipped._fields, *rows])
        target.write(SKIPPED, text.getvalue().encode())
    data = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    target.write(MANIFEST, data.encode())


def read_skipped(target: Folder) -> tuple[Skipped, ...]:
    """What an earlier run left out."""
    try:
        rows = csv.reader(io.StringIO(target.read(SKIPPED).decode()))
        return tuple(Skipped(*map(_as_read, row)) for row in list(rows)[1:])
    except (OSError, ValueError, TypeError):
        return ()


def _is_formula(cell: str) -> bool:
    return cell.lstrip("' \n").startswith(("=", "+", "-", "@", "\t", "\r"))


def _as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, as names of files and messages may be."""
    return f"'{cell}" if _is_formula(cell) else cell


def _as_read(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def sweep(target: Folder, card: Card, earlier: Card | None = None) -> None:
    """Delete what belongs to earlier data sets and to runs that died; nothing that stssl did not write.

    Args:
        target: The folder.
        card: What is to stay.
        earlier: The data set that it replaced.
    """
    kept = {shard.file for shard in card.shards} | ({SKIPPED} if card.skipped else set())
    stale = {shard.file for shard in earlier.shards} if earlier else set()
    for name in target.names():
        if name == PROGRESS:
            target.delete_folder(name)
        elif name not in kept and (name in stale or _is_ours(name)):
            target.delete(name)


def sweep_temporaries(path: Path) -> None:
    """Delete the temporary files of runs that died."""
    for leftover in path.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    """Whether stssl writes files of that name: shards, lists, and what a run that died leaves of them."""
    return (
        name in (PROGRESS, SKIPPED)
        or name.startswith(TEMPORARY)
        or bool(_OURS.fullmatch(name) or _TORN.fullmatch(name))
    )
