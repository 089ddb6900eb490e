"""The ledger in a bucket: `ledger.jsonl`, which is whole, and `ledger/00000042.jsonl`, what came after it.

An object can be replaced, but not added to. So every event is an object of its own, named by its number, and there when
`append` returns. Now and then all are written into `ledger.jsonl` and the single ones deleted, ever more seldom as it
grows: so it is copied some dozens of times in the life of a search, and a reader has few objects to fetch.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from stssl.errors import RunError
from stssl.search.events import Event, Order
from stssl.search.lease import Lease
from stssl.search.ledger import NAME, Ledger, admit, check_not_emptied, parse
from stssl.storage import Folder, patiently

PARTS = "ledger"
PARTS_AT_LEAST, PART_OF_ALL = 64, 8  # written together when there are 64 parts, and an eighth of all events
READERS = 16


def read(run: Folder) -> tuple[list[Event], int, Order]:
    """All events, oldest first, how many of them are not in `ledger.jsonl` yet, and what may follow; anyone may read at any time.

    Raises:
        RunError: Damaged, or the bucket does not answer.
    """
    for _ in range(5):
        try:
            found = _read(run)
        except OSError as error:
            raise RunError(f"{run}: the ledger cannot be read: {error}") from None
        if found is not None:
            return found
    raise RunError(f"{run / PARTS}: an event is missing; restore it from a backup, or start the search anew")


def _read(run: Folder) -> tuple[list[Event], int, Order] | None:
    """None if the driver has written parts together meanwhile, so that some were not there any more."""
    order = Order()
    numbers = _numbers(run)  # before the whole: what is deleted after this is in it
    try:
        events = parse(run.read(NAME), run.show(NAME), order)[0]
    except FileNotFoundError:
        events = []
    new = [n for n in numbers if n >= len(events)]
    if new != list(range(len(events), len(events) + len(new))):
        return None

    def part(number: int) -> Event | None:
        name = _name(number)
        try:
            found, _ = parse((run / PARTS).read(name), (run / PARTS).show(name))
        except FileNotFoundError:
            return None
        if len(found) != 1:
            raise RunError(f"{(run / PARTS).show(name)}: damaged; restore it from a backup")
        return found[0]

    with ThreadPoolExecutor(READERS) as pool:
        parts = list(pool.map(part, new))
    if None in parts:
        return None
    for number, event in zip(new, parts, strict=True):
        assert event is not None
        admit(event, order, (run / PARTS).show(_name(number)))
        events.append(event)
    return events, len(new), order


def _numbers(run: Folder) -> list[int]:
    names = (run / PARTS).names()
    return sorted(int(name.removesuffix(".jsonl")) for name in names if name.removesuffix(".jsonl").isdigit())


def _name(number: int) -> str:
    return f"{number:08d}.jsonl"


class BucketLedger(Ledger):
    """The ledger of a run folder in a bucket, open for writing by one driver.

    Raises:
        RunError: Another driver has it open, or the bucket cannot be read or written.
    """

    def __init__(self, run: Folder) -> None:
        self.run, self._once = run, Folder(run, patience=0)
        try:
            self._lease = Lease(run)
        except OSError as error:
            raise RunError(f"{run}: cannot be written: {error}") from None
        try:
            self.events, self._parts, self.order = read(run)
            check_not_emptied(run, self.events)
        except BaseException:
            self._lease.close()
            raise

    def _write(self, line: bytes) -> None:
        def attempt() -> None:
            self._lease.check()  # before each attempt: meanwhile another driver may have taken over
            if self._parts >= max(PARTS_AT_LEAST, len(self.events) // PART_OF_ALL):
                self._join()
            (self._once / PARTS).write(_name(len(self.events)), line)

        try:
            patiently(attempt, self.run.patience)
        except OSError as error:
            raise RunError(
                f"{self.run}: the ledger cannot be written: {error}; every trial is kept. Go on with: "
                f"python launch.py resume {self.run}"
            ) from error
        self._parts += 1

    def _join(self) -> None:
        """Write all events into `ledger.jsonl`, then delete the parts."""
        self._once.write(NAME, b"".join(json.dumps(event).encode() + b"\n" for event in self.events))
        old = [n for n in _numbers(self._once) if n < len(self.events)]
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(lambda n: (self._once / PARTS).delete(_name(n)), old))
        self._parts = 0

    def close(self) -> None:
        """Write everything together, as far as the bucket lets us, and let go of the folder."""
        try:
            if self._parts:
                self._lease.check()
                self._join()
        except (OSError, RunError):
            pass  # the parts say the same, or the folder is another's
        finally:
            self._lease.close()
