"""The ledger: whatever is killed at whatever moment, it holds every event that anyone acted on, and nothing by halves."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stssl.errors import RunError
from stssl.search.ledger import NAME, Ledger, read

HOLD = """
import sys, pathlib
from stssl.search.ledger import Ledger
ledger = Ledger(pathlib.Path(sys.argv[1]))
ledger.append("held")
print("held", flush=True)
sys.stdin.read()
"""
FILL = """
import pathlib, resource, sys
from stssl.errors import RunError
from stssl.search.ledger import Ledger
folder, room = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with Ledger(folder) as ledger:
    ledger.append("first", text="x" * 50)
    size, (_, hard) = ledger.path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        ledger.append("second", text="y" * 50)
    except RunError as error:
        print(error)
    assert ledger.path.stat().st_size == size and len(ledger.events) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    ledger.append("third")
with Ledger(folder) as ledger:
    print([event["event"] for event in ledger.events])
"""

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=8
)


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@given(st.lists(st.dictionaries(st.text("abcd", min_size=1), values, max_size=3), max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, entries: list[dict]) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    with Ledger(folder) as ledger:
        written = [ledger.append(f"e{i}", **fields) for i, fields in enumerate(entries)]
        assert read(folder / NAME) == written == ledger.events
    assert [{k: v for k, v in e.items() if k not in ("event", "time")} for e in written] == entries
    with Ledger(folder) as ledger:
        assert ledger.events == written
        last = ledger.append("more")
    assert read(folder / NAME) == [*written, last]


def test_one_line_an_event(ledger: Path) -> None:
    lines = ledger.read_bytes().split(b"\n")
    assert len(lines) == 4 and lines[-1] == b""
    assert [json.loads(line)["event"] for line in lines[:-1]] == ["started", "created", "result"]


def test_a_torn_last_line_is_dropped_wherever_it_is_torn(ledger: Path) -> None:
    whole = ledger.read_bytes()
    events = read(ledger)
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole)):
        ledger.write_bytes(whole[:end])
        assert read(ledger) == events[:-1]
        assert ledger.read_bytes() == whole[:end], "a reader changed the file"
        with Ledger(ledger.parent) as again:
            assert again.events == events[:-1] and ledger.read_bytes() == whole[:start]
            next_event = again.append("next")
        assert read(ledger) == [*events[:-1], next_event]
    for damage in (b"\0" * 20, b"\0" * 20 + b"\n", b"{]\n", b"[1]\n", b"{}\n", b'"event"\n', b"\xff\xfe\n", b"\n"):
        ledger.write_bytes(whole + damage)
        assert read(ledger) == events
        with Ledger(ledger.parent) as again:
            assert again.events == events and ledger.read_bytes() == whole


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b"{}", b"\0\0\0", b'{"event": "a"'])
def test_damage_in_the_middle_is_named(ledger: Path, number: int, damage: bytes) -> None:
    lines = ledger.read_bytes().split(b"\n")
    lines[number - 1] = damage
    damaged = b"\n".join(lines)
    ledger.write_bytes(damaged)
    said = f"^{re.escape(str(ledger))}, line {number}: damaged .*; restore the file from a backup, or delete the line"
    with pytest.raises(RunError, match=said):
        read(ledger)
    with pytest.raises(RunError, match=said) as first:
        Ledger(ledger.parent)
    with pytest.raises(RunError, match=said) as second:  # the lock is free again, whoever still holds the first error
        Ledger(ledger.parent)
    assert first.value is not second.value
    assert ledger.read_bytes() == damaged


def test_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such ledger; is this the folder of a search"):
        read(tmp_path / NAME)
    with pytest.raises(RunError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="file: cannot be written"):
        Ledger(tmp_path / "file")
    (tmp_path / NAME).mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        Ledger(tmp_path)


def test_one_writer_many_readers(tmp_path: Path) -> None:
    with Ledger(tmp_path) as first:
        event = first.append("a")
        for _ in range(2):
            with pytest.raises(RunError, match=f"{tmp_path}: another driver is at work .*launch.py status {tmp_path}$"):
                Ledger(tmp_path)
        assert read(tmp_path / NAME) == [event]
        assert read(tmp_path / NAME) == [event, first.append("b")][:1]
        assert len(read(tmp_path / NAME)) == 2
    with Ledger(tmp_path) as second:
        assert len(second.events) == 2


def test_a_killed_writer_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen(python(HOLD, tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(RunError, match="another driver"):
                Ledger(tmp_path)
            assert [e["event"] for e in read(tmp_path / NAME)] == ["held"]
        finally:
            holder.send_signal(signal.SIGKILL)
    with Ledger(tmp_path) as ledger:
        assert [e["event"] for e in ledger.events] == ["held"]


def test_numbers_that_are_none_are_never_written(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append("a", x=1.5)
        before = ledger.path.read_bytes()
        for value in (float("nan"), float("inf"), -float("inf"), {"deep": [float("nan")]}):
            with pytest.raises(ValueError, match="Out of range float"):
                ledger.append("b", x=value)
        with pytest.raises(TypeError):
            ledger.append("b", x={1, 2})
        assert ledger.path.read_bytes() == before and len(ledger.events) == 1
        ledger.append("c")
    assert [e["event"] for e in read(tmp_path / NAME)] == ["a", "c"]


def test_on_the_disk_before_anyone_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(tmp_path) as ledger:
        synced: list[bytes] = []

        def sync(file: int) -> None:
            assert os.fstat(file).st_ino == ledger.path.stat().st_ino
            assert len(ledger.events) == len(synced), "the event was taken in before it was on the disk"
            synced.append(ledger.path.read_bytes())

        monkeypatch.setattr(os, "fsync", sync)
        for number in range(3):
            ledger.append("a", number=number)
            assert len(synced) == number + 1 and synced[-1] == ledger.path.read_bytes()
        assert len(synced[-1].splitlines()) == 3


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int) -> None:
        raise OSError(5, "Input/output error")

    with Ledger(tmp_path) as ledger:
        event = ledger.append("a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(
                RunError, match=f"{NAME}: cannot be written: .*error; make room, then resume the search"
            ):
                ledger.append("b")
        assert ledger.events == [event] == read(ledger.path)
        last = ledger.append("c")
    assert read(tmp_path / NAME) == [event, last]


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk(tmp_path: Path, room: int) -> None:
    done = subprocess.run(python(FILL, tmp_path, room), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, events = done.stdout.splitlines()
    assert re.search("cannot be written: .*; make room, then resume the search", said)
    assert events == "['first', 'third']"
