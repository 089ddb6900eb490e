"""The ledger: the append-only record of a search, and the search's only truth.

One JSON object a line, flushed and synced before anything acts on it. Whatever is killed at whatever moment, the file
holds every event that anyone acted on; a torn last line is an event that nobody acted on, and is dropped. A bucket has no
file to which a line could be added; how the ledger lies there says `stssl.search.bucket_ledger`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from stssl.errors import RunError
from stssl.storage import Folder

NAME, LOCK = "ledger.jsonl", "driver.lock"
READER_SECONDS = 5.0  # for a bucket to answer who only looks: one request that fails is no news
Event = dict[str, Any]
KEYS: dict[str, tuple[str, ...]] = {  # what the state cannot do without
    "created": ("trial", "kind", "params", "recipe", "time"),
    "result": ("trial", "step", "score", "decision", "seconds", "time"),
    "failed": ("trial", "reason", "time"),
    "lost": ("trial",),
    "promoted": ("trial",),
    "dropped": ("trial", "round", "reason"),
    "imported": ("trial", "params", "scores", "status"),
    "winner": ("trial",),
    "tested": ("trial", "scores"),
}


def read(path: Path | str) -> list[Event]:
    """All events, oldest first; anyone may read at any time.

    Raises:
        RunError: The file is missing, or damaged before its last line.
    """
    path = Path(path)
    return parse(_bytes_of(path), str(path))[0]


def events_of(run: Folder | Path) -> list[Event]:
    """All events of a run folder, on a disk or in a bucket; none before its first driver.

    Raises:
        RunError: The ledger is damaged, or cannot be read.
    """
    run = Folder(run)
    if run.path is None:
        from stssl.search import bucket_ledger

        return bucket_ledger.read(Folder(run, max(run.patience, READER_SECONDS)))[0]
    return read(run.path / NAME) if (run.path / NAME).exists() else []


def opened(run: Folder | Path, wait: float = 1.0) -> Ledger:
    """The ledger of a run folder, on a disk or in a bucket, for one driver to write.

    Args:
        run: The folder.
        wait: Seconds for another driver to let go of a disk's lock, which a file server holds for a while for a dead machine. In
            a bucket the lease tells by itself who is dead.

    Raises:
        RunError: Another driver has it open, it is damaged, or cannot be written.
    """
    run = Folder(run)
    if run.path is None:
        from stssl.search import bucket_ledger

        return bucket_ledger.BucketLedger(run)
    return Ledger(run.path, wait)


def locked(run: Folder | Path) -> bool:
    """Whether a driver is at work in a run folder."""
    run = Folder(run)
    if run.path is None:
        from stssl.search import lease

        return lease.held(run)
    lock = FileLock(run.writable_path(LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False  # nobody may write there
    lock.release()
    return False


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path}: no such ledger; is this the folder of a search?") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def parse(data: bytes, source: str) -> tuple[list[Event], int]:
    """Events, and how many bytes of whole lines they take.

    Args:
        data: Lines; the last one may be torn.
        source: Their name, for messages.

    Raises:
        RunError: A line before the last one is damaged.
    """
    lines = data.split(b"\n")
    events, size = [], 0
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn or empty
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError("not an event")
            missing = [key for key in KEYS.get(event["event"], ()) if key not in event]
            if missing:
                raise ValueError(f"an event '{event['event']}' without {', '.join(missing)}")
        except ValueError as error:
            if number == len(lines) - 1:
                break  # torn by a crash of the file system rather than of the program
            raise RunError(
                f"{source}, line {number}: damaged ({error}); restore the file from a backup, or delete the line "
                "if you can do without its trial"
            ) from None
        events.append(event)
        size += len(line) + 1
    return events, size


class Ledger:
    """The ledger of one run folder, open for writing by one driver.

    Attributes:
        run: The run folder, for messages.
        events: All that is in it.

    Raises:
        RunError: Another driver has it open.
    """

    run: Folder
    events: list[Event]

    def __init__(self, run: Path, wait: float = 1.0) -> None:
        self.run = Folder(run)
        self.path = self.run.writable_path(NAME)
        self._lock = FileLock(self.run.writable_path(LOCK))
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=wait)  # who looks whether it is `locked` holds it for a moment
        except Timeout:
            raise RunError(
                f"{run}: another driver is at work in this folder; wait for it, stop it, "
                f"or watch it with: python launch.py status {run}"
            ) from None
        except OSError as error:
            raise RunError(f"{run}: cannot be written: {error}") from None
        try:
            self.events, self._size = parse(_bytes_of(self.path), str(self.path)) if self.path.exists() else ([], 0)
            self._file = self.path.open("ab", buffering=0)  # a full disk shows in `append`, and `close` cannot fail
            self._file.truncate(self._size)  # else the next event would be glued to a torn line
        except BaseException:
            self._lock.release()
            raise

    def append(self, event: str, **fields: Any) -> Event:
        """Record an event; when this returns, the event is on the disk.

        Raises:
            RunError: The disk refuses.
        """
        entry = {"event": event, "time": round(time.time(), 3), **fields}
        self._write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self.events.append(entry)
        return entry

    def _write(self, line: bytes) -> None:
        try:
            if self._file.write(line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)  # take back what is there of the line
            raise RunError(f"{self.path}: cannot be written: {error}; make room, then resume the search") from error
        self._size += len(line)

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
