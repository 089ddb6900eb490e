"""One shard as a job: sample by sample from the source into a file, then a note that the file is whole."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from stssl.data.content import Content, Form
from stssl.data.parquet import ShardWriter
from stssl.data.schema import Sample, ShardFile
from stssl.data.shards import PROGRESS
from stssl.data.sources.base import Source
from stssl.errors import DataError
from stssl.files import new_file
from stssl.storage import Folder

OnError = Literal["raise", "skip"]
Note = dict[str, Any]  # what is in a shard, as plain data
TEMPORARY = ".shard-"


class Skipped(NamedTuple):
    """A sample that was left out, and why."""

    id: str
    reason: str


class Job(NamedTuple):
    """One shard: its file name, and which samples go into it."""

    name: str
    start: int
    stop: int


class Task(NamedTuple):
    """What all jobs share."""

    source: Source
    target: Folder
    form: Form
    on_error: OnError


# Runs `write_shard(task, job)` for all jobs, here or elsewhere, and yields their notes in any order.
Spread = Callable[[Task, list[Job], Callable[[int], None]], Iterator[Note]]


def in_turn(task: Task, jobs: list[Job], on_rows: Callable[[int], None]) -> Iterator[Note]:
    """Run jobs one by one in this process."""
    for job in jobs:
        yield write_shard(task, job, on_rows)


def write_shard(task: Task, job: Job, on_rows: Callable[[int], None] | None = None) -> Note:
    """Write one shard and the note that tells that it is whole.

    Returns:
        The note: `job` (its name), `shard` (None if every sample was left out), `content`, `skipped`.

    Raises:
        DataError: A sample is damaged, and that is not to be skipped.
        OSError: The target cannot be written.
    """
    source, target = task.source, task.target
    content = Content(source.task, source.classes, source.bands, f"source '{source.name}'", task.form)
    temporary = new_file(target.path or tempfile.gettempdir(), TEMPORARY)  # beside its place, or in the system's own
    writer, skipped = None, []
    try:
        with source.session():
            for index in range(job.start, job.stop):
                try:
                    row = content.add(_read(source, index))
                except DataError as error:
                    if task.on_error == "raise":
                        raise
                    skipped.append(Skipped(source.ids[index], str(error)))
                else:
                    writer = writer or ShardWriter(temporary, source.name, row.image)
                    writer.add(row)
                if on_rows:
                    on_rows(1)
        note: Note = {"job": job.name, "shard": None, "content": content.state(), "skipped": skipped}
        if writer is not None:
            writer.close(content)
            with temporary.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = temporary.stat().st_size
            target.put(temporary, job.name)
            note["shard"] = {"file": job.name, "rows": writer.rows, "bytes": size, "sha256": sha256}
            writer = None
        (target / PROGRESS).write(f"{job.name}.json", json.dumps(note, ensure_ascii=False).encode())
        return note
    finally:
        if writer is not None:
            writer.abort()
        temporary.unlink(missing_ok=True)


def _read(source: Source, index: int) -> Sample:
    sample = source.read(index)
    if sample.id != source.ids[index]:
        raise DataError(f"source '{source.name}': read '{sample.id}' for '{source.ids[index]}'")
    return sample


def finished(target: Folder, jobs: list[Job], on_error: OnError) -> dict[str, Note]:
    """The notes of shards that an earlier run finished, by shard name."""
    notes: dict[str, Note] = {}
    progress = target / PROGRESS
    there = set(progress.names())
    if not there:
        return notes
    sizes = {entry.name: entry.bytes for entry in target.entries()}
    for job in jobs:
        if f"{job.name}.json" not in there:
            continue
        try:
            note = json.loads(progress.read(f"{job.name}.json"))
            if on_error == "raise" and note["skipped"]:
                continue  # it left out what must not be left out now
            shard = ShardFile(**note["shard"]) if note["shard"] is not None else None
            if shard is None or (shard.file, shard.bytes) == (job.name, sizes.get(job.name)):
                notes[job.name] = note
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # torn by a power cut, or another shard's: this one is written again
    return notes
