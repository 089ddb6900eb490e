"""The ledger in a bucket, against a real S3 server on loopback that is slow, fails, or forgets who holds it."""

import itertools
import random
import threading
import time
import uuid
from typing import Any

import pytest

from stssl.errors import RunError
from stssl.search import bucket_ledger, lease
from stssl.search.ledger import NAME, events_of, locked, opened
from stssl.storage import Folder

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.fixture
def run(faults: Any, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    return Folder(f"s3://runs/{uuid.uuid4().hex}")


def numbers(run: Folder) -> list[int]:
    return [event["number"] for event in events_of(run)]


def test_events_come_back_in_order_and_few_objects_hold_them(run: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_ledger, "PARTS_AT_LEAST", 5)
    assert events_of(run) == []
    with opened(run) as ledger:
        for number in range(23):
            event = ledger.append("a", number=number)
            assert events_of(run) == ledger.events and ledger.events[-1] == event
            assert len((run / bucket_ledger.PARTS).names()) <= 5
    assert (run / bucket_ledger.PARTS).names() == [], "closed, all is in one object"
    assert set(run.names()) <= {NAME, bucket_ledger.PARTS}, "the lease is gone too"
    with opened(run) as ledger:
        assert [e["number"] for e in ledger.events] == list(range(23))
        ledger.append("a", number=23)
        assert numbers(run) == list(range(24))


def test_readers_beside_a_writer(run: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are written together under a reader's eyes are neither missed nor seen twice."""
    monkeypatch.setattr(bucket_ledger, "PARTS_AT_LEAST", 3)
    monkeypatch.setattr(bucket_ledger, "PART_OF_ALL", 1000)
    seen: list[list[int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(numbers(run))

    with opened(run) as ledger:
        reader = threading.Thread(target=read)
        reader.start()
        for number in range(60):
            ledger.append("a", number=number)
        done.set()
        reader.join()
    assert len(seen) > 3 and all(found == list(range(len(found))) for found in seen)
    assert all(len(a) <= len(b) for a, b in itertools.pairwise(seen))


def test_one_driver(run: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    assert not locked(run)
    with opened(run) as ledger:
        ledger.append("a", number=0)
        assert locked(run)
        with pytest.raises(RunError, match=rf"{run}: another driver is at work .*launch.py status {run}$"):
            opened(run)
        ledger.append("a", number=1)
    assert not locked(run) and numbers(run) == [0, 1]


def test_a_driver_that_died_is_waited_for(run: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "STALE_SECONDS", 3.0)
    first = opened(run)
    first.append("a", number=0)
    first._lease._closed.set()  # type: ignore[attr-defined]  # it beats no more, as if it had died
    assert locked(run)
    start = time.monotonic()
    with opened(run) as second:
        assert 1 < time.monotonic() - start < 10
        second.append("a", number=1)
        monkeypatch.setattr(lease, "STALE_SECONDS", 0.0)  # the first one wakes up, long after
        with pytest.raises(RunError, match="another driver has taken over"):
            first.append("a", number=99)
        second.append("a", number=2)
        first.close()
        second.append("a", number=3)
    assert numbers(run) == [0, 1, 2, 3]


def test_of_two_at_once_one_wins(run: Folder) -> None:
    won: list[Any] = []

    def take() -> None:
        try:
            won.append(opened(run))
        except RunError as error:
            assert "another driver" in str(error)

    for _ in range(3):
        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won.pop().close()


def test_failing_requests(run: Folder, faults: Any) -> None:
    source = random.Random(1)
    faults.answer = lambda environ: 503 if source.random() < 0.4 else None
    with opened(Folder(run, patience=60)) as ledger:
        for number in range(12):
            ledger.append("a", number=number)
    faults.answer = None
    assert numbers(run) == list(range(12))


def test_a_bucket_that_goes_away(run: Folder, faults: Any) -> None:
    with opened(run) as ledger:
        ledger.append("a", number=0)
        faults.answer = lambda environ: 403
        with pytest.raises(
            RunError, match=rf"{run}: the ledger cannot be written: .*every trial is kept.*resume {run}"
        ):
            ledger.append("a", number=1)
        assert len(ledger.events) == 1
        with pytest.raises(RunError, match="the ledger cannot be read"):
            events_of(run)
        faults.answer = None
        ledger.append("a", number=2)
    assert numbers(run) == [0, 2]
    faults.answer = lambda environ: 403
    with pytest.raises(RunError, match="cannot be written"):
        opened(run)


def test_damage_is_named(run: Folder) -> None:
    ledger = opened(run)
    for number in range(3):
        ledger.append("a", number=number)
    ledger._lease.close()  # type: ignore[attr-defined]  # killed
    parts = run / bucket_ledger.PARTS
    kept = parts.read("00000001.jsonl")
    parts.write("00000001.jsonl", b"{}\n")
    with pytest.raises(RunError, match=r"00000001\.jsonl"):
        events_of(run)
    parts.delete("00000001.jsonl")
    with pytest.raises(RunError, match="an event is missing"):
        events_of(run)
    parts.write("00000001.jsonl", kept)
    assert numbers(run) == [0, 1, 2]
