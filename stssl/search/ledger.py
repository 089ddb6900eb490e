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

from stssl.errors import RunError, StsslError
from stssl.files import check_file
from stssl.search import events
from stssl.search.events import Event, Order, TornLine
from stssl.storage import Folder

NAME, LOCK = "ledger.jsonl", "driver.lock"
TRIALS = "trials"  # the folder of the checkpoints
READER_SECONDS = 5.0  # for a bucket to answer who only looks: one request that fails is no news


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

        found = bucket_ledger.read(Folder(run, max(run.patience, READER_SECONDS)))[0]
    else:
        found = read(run.path / NAME) if (run.path / NAME).exists() else []
    check_not_emptied(run, found)
    return found


def check_not_emptied(run: Folder, found: list[Event]) -> None:
    """Refuse a run folder without events in which trials have left checkpoints: a search would begin anew there.

    Raises:
        RunError: The ledger is empty or gone.
    """
    if not found and (trials := (run / TRIALS).names()):
        raise RunError(
            f"{run.show(NAME)}: is empty or gone, while {run.show(TRIALS)} holds checkpoints of {len(trials)} trials; restore "
            "the file from a backup, or delete the folder and search anew"
        )


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
        check_file(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path}: no such ledger; is this the folder of a search?") from None
    except StsslError as error:
        raise RunError(str(error)) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def parse(data: bytes, source: str, order: Order | None = None) -> tuple[list[Event], int]:
    """Events, and how many bytes of whole lines they take.

    Args:
        data: Lines; the last one may be torn.
        source: Their name, for messages.
        order: Of the events before; None where these are the first.

    Raises:
        RunError: A line is damaged, but for a last one that is no event at all; or cannot follow those before it.
    """
    lines = data.split(b"\n")
    found, size, order = [], 0, order or Order()
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn or empty
        try:
            event = events.parse_line(line)
        except TornLine as error:
            if number == len(lines) - 1:
                break  # torn by a crash of the file system rather than of the program
            raise damaged(f"{source}, line {number}", f"damaged ({error})") from None
        except ValueError as error:
            raise damaged(f"{source}, line {number}", str(error)) from None
        admit(event, order, f"{source}, line {number}")
        found.append(event)
        size += len(line) + 1
    return found, size


def admit(event: Event, order: Order, place: str) -> None:
    """Take in the next event.

    Raises:
        RunError: It cannot follow those before it.
    """
    try:
        order.check(event)
    except ValueError as error:
        raise damaged(place, str(error)) from None
    order.take(event)


def damaged(place: str, fault: str) -> RunError:
    """The error of a line that cannot be used."""
    return RunError(
        f"{place}: {fault}; restore the file from a backup, or delete the line if you can do without its trial"
    )


class Ledger:
    """The ledger of one run folder, open for writing by one driver.

    Attributes:
        run: The run folder, for messages.
        events: All that is in it.
        order: What may follow them.

    Raises:
        RunError: Another driver has it open.
    """

    run: Folder
    events: list[Event]
    order: Order

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
            self.order = Order()
            data = _bytes_of(self.path) if self.path.exists() else b""
            self.events, self._size = parse(data, str(self.path), self.order)
            check_not_emptied(self.run, self.events)
            self._file = self.path.open("ab", buffering=0)  # a full disk shows in `append`, and `close` cannot fail
            self._file.truncate(self._size)  # else the next event would be glued to a torn line
        except BaseException:
            self._lock.release()
            raise

    def append(self, event: str, **fields: Any) -> Event:
        """Record an event; when this returns, the event is on the disk.

        Raises:
            RunError: The disk refuses.
            ValueError: No reader would take it.
        """
        # names of files that are no UTF-8 come along in reasons, as characters that no JSON has
        fields = {
            k: v.encode(errors="backslashreplace").decode() if isinstance(v, str) else v for k, v in fields.items()
        }
        entry = {"event": event, "time": round(time.time(), 3), **fields}
        events.check(entry)
        self.order.check(entry)
        self._write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self.events.append(entry)
        self.order.take(entry)
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
