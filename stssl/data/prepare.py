"""Writing shards: in parallel, the same bytes for the same input, and never twice what is written already.

Each shard is a job of its own. When it is done, `_progress/` gets a note of what is in it; the shard's name holds a hash
of the source's settings and of the names, sizes and dates of its own files. So a run that was killed goes on with the
shards that are missing, and where one file was mended since, only its shard is written again. The manifest comes last, by
one atomic write, and only then are the shards of an earlier data set deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import Timeout

from stssl.data import target as place
from stssl.data.content import Content, Form
from stssl.data.jobs import Job, Note, OnError, Skipped, Spread, Task, finished, in_turn
from stssl.data.schema import Card, ShardFile
from stssl.data.sources.base import Source
from stssl.errors import DataError
from stssl.storage import Folder

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much

_SHARD_BYTES = 64 * 2**20  # of pixels; a reader holds a shard in memory
_STAMP = 16  # bytes that stand for a sample's files


class Prepared(NamedTuple):
    """What `prepare` did: the data set's card, whether anything was written, and what was left out."""

    card: Card
    written: bool
    skipped: tuple[Skipped, ...]


def prepare(
    source: Source,
    out: Path | str | Folder,
    rows_per_shard: int | None = None,
    overwrite: bool = False,
    on_error: OnError = "raise",
    spread: Spread | None = None,
    on_progress: Progress | None = None,
) -> Prepared:
    """Write a source as shards, or find that this was done already.

    Args:
        source: What to write.
        out: The folder to make, on a disk or in a bucket. In a bucket no lock keeps two runs apart: start one.
        rows_per_shard: Most images in one file; None = as many as make 64 MiB of pixels.
        overwrite: Replace a data set that is there. Only files of stssl are ever replaced or deleted.
        on_error: "raise" at the first damaged sample, or "skip" and list it.
        spread: Runs the jobs; None = one by one in this process.
        on_progress: Called now and then.

    Raises:
        DataError: A sample is damaged; `out` holds something else; another process writes to it; it cannot be written.
    """
    if rows_per_shard is not None and rows_per_shard < 1:
        raise DataError(f"rows per shard must be at least 1, got {rows_per_shard}")
    _check_ids(source)
    target = Folder(out)
    empty = target.path is not None and not target.path.exists()
    try:
        with place.locked(target):
            stamps = _stamps(source, on_progress)
            signature = hashlib.sha256(source.head().encode() + stamps).hexdigest()
            old = place.look(target, source.name, signature, overwrite)
            if old and not overwrite:
                if old.skipped and on_error == "raise":
                    raise DataError(
                        f"{target}: is up to date, but without {old.skipped} damaged image(s), which skipped.csv lists; mend "
                        "them and use --overwrite, or use --on-error skip"
                    )
                place.sweep(target, old)
                return Prepared(old, False, place.read_skipped(target) if old.skipped else ())
            form = _probe(source, on_error)
            jobs = _plan(source, stamps, rows_per_shard or max(1, _SHARD_BYTES // _size(form)))
            if target.path is not None:
                target.path.mkdir(parents=True, exist_ok=True)
                place.sweep_temporaries(target.path)
            notes = finished(target, jobs, on_error)
            _run(Task(source, target, form, on_error), jobs, notes, spread or in_turn, on_progress)
            card, skipped = _card(source, signature, [notes[job.name] for job in jobs])
            place.check_there(target, card, "vanished while the others were written; run the same again")
            place.write_manifest(target, card, skipped)
            place.sweep(target, card, old)
            return Prepared(card, True, skipped)
    except Timeout:
        empty = False  # the folder is the other process's
        raise DataError(
            f"{target}: another process is preparing this folder; wait for it or use another --out"
        ) from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{target}: cannot be written: {reason}; make room or get leave, then run the same again (it goes on "
            "where it was), or use another --out"
        ) from None
    finally:
        if empty and target.path is not None:
            with contextlib.suppress(OSError):  # there is something in it now, which is as it should be
                target.path.rmdir()


def _check_ids(source: Source) -> None:
    if len(source) == 0:
        raise DataError(f"source '{source.name}': there are no images to prepare")
    for name in source.ids:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"source '{source.name}': the name {name!a} is no UTF-8; rename that file") from None
    for last, this in pairwise(source.ids):
        if this <= last:
            raise DataError(f"source '{source.name}': '{this}' after '{last}': ids must be unique and sorted")


def _stamps(source: Source, on_progress: Progress | None) -> bytearray:
    """16 bytes for each sample, which change when its files do."""
    stamps, total = bytearray(), len(source)
    for index in range(total):
        stamps += hashlib.sha256(source.stamp(index).encode()).digest()[:_STAMP]
        if on_progress and (index % 1000 == 999 or index + 1 == total):
            on_progress("looking at files", index + 1, total)
    return stamps


def _probe(source: Source, on_error: OnError, most: int = 100) -> Form:
    """The form of the first sample that can be read."""
    first: DataError | None = None
    for index in range(min(len(source), most)):
        try:
            sample = source.read(index)
            Content(source.task, source.classes, source.bands, f"source '{source.name}'").check(sample)
            return Form.like(sample)
        except DataError as error:
            if on_error == "raise":
                raise
            first = first or error
    raise DataError(f"none of the first {min(len(source), most)} samples can be read; the first one: {first}")


def _size(form: Form) -> int:
    return math.prod(form.shape) * np.dtype(form.dtype).itemsize


def _plan(source: Source, stamps: bytearray, rows: int) -> list[Job]:
    jobs = []
    for number, start in enumerate(range(0, len(source), rows)):
        stop = min(start + rows, len(source))
        mark = hashlib.sha256(source.head().encode() + stamps[start * _STAMP : stop * _STAMP])
        jobs.append(Job(f"part-{number:05d}-{mark.hexdigest()[:8]}.parquet", start, stop))
    return jobs


def _run(task: Task, jobs: list[Job], notes: dict[str, Note], spread: Spread, on_progress: Progress | None) -> None:
    """Run the jobs that have no note yet."""
    total = len(task.source)
    todo = [job for job in jobs if job.name not in notes]
    done = total - sum(job.stop - job.start for job in todo)

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if on_progress:
            on_progress("preparing", done, total)

    count(0)
    for note in spread(task, todo, count) if todo else ():
        notes[note["job"]] = note


def _card(source: Source, signature: str, notes: list[Note]) -> tuple[Card, tuple[Skipped, ...]]:
    """Join what the shards' notes say.

    Raises:
        DataError: More was left out than is in.
    """
    content = Content(source.task, source.classes, source.bands, f"source '{source.name}'")
    for note in notes:
        content.join(note["content"])
    skipped = tuple(Skipped(*entry) for note in notes for entry in note["skipped"])
    if content.form is None or len(skipped) > content.count:
        raise DataError(
            f"source '{source.name}': {len(skipped)} of {len(source)} samples cannot be read, which is too many to "
            f"leave out; the first one: {skipped[0].reason}"
        )
    card = Card(
        name=source.name,
        task=source.task,
        classes=source.classes,
        bands=source.bands,
        shape=content.form.shape,
        dtype=content.form.dtype,
        count=content.count,
        mean=content.mean,
        std=content.std,
        licence=source.licence,
        attribution=source.attribution,
        source=source.name,
        source_signature=signature,
        fingerprint=content.fingerprint,
        shards=tuple(ShardFile(**note["shard"]) for note in notes if note["shard"]),
        skipped=len(skipped),
    )
    return card, skipped
