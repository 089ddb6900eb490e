"""Ray lost, or a command stopped, at any moment: one sentence, what to type next, and nothing of ours left running."""

from __future__ import annotations

import os
import re
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import (
    PATCHES,
    events,
    gone,
    inject,
    launch,
    processes,
    recipe_of,
    search_of,
    trials_of,
    wait_for,
)
from tests.cli.raylets import Raylets
from tests.cli.test_cluster import start

SECONDS = 30.0  # after which nothing is to be left
STOP = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
NOTHING, GO_ON = "interrupted before anything began", "python launch.py resume {run}"


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Says which processes live that descend from what the test has started: they inherit its environment."""
    mark = f"STSSL_TEST={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))

    def list_them() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark.encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                pass
        return found

    def after_a_while() -> list[str]:
        until = time.monotonic() + SECONDS
        while (found := list_them()) and time.monotonic() < until:
            time.sleep(0.2)
        return found

    return after_a_while


def running(process: Any, program: str, seconds: float = 0) -> list[int]:
    """Wait until a program runs below a process, and so many seconds more; ids of what runs it."""
    until = time.monotonic() + 60
    while not (found := [pid for pid, name in processes(process.pid).items() if re.search(rf"/{program} --", name)]):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    time.sleep(seconds)
    return found


def check_end(process: Any, code: int, *said: str, family: Any = (), seconds: float = 40) -> None:
    """It ends in time, with one sentence (but for the lines of progress), and takes its family along."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code and all(part in err for part in said), (process.returncode, err)
    assert not re.search(r"Traceback|Exception|\[\d{4}-\d\d-\d\d .* [EWF] ", out + err), out + err
    assert sum(bool(line) and " trials: " not in line for line in err.splitlines()) == 1, err
    assert gone(family, SECONDS)


@pytest.mark.parametrize(
    ("command", "module"),
    [("search", "stssl.cli.common"), ("search", "stssl.training.trainer"), ("train", "stssl.models.backbone")],
)
def test_a_stop_before_anything_began(
    command: str, module: str, shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """While modules are imported, the heavy ones too."""
    space = write(search_of(shards) if command == "search" else recipe_of(shards))
    done = launch(command, space, "--out", tmp_path / "run", inject=inject(tmp_path / "stop", module, STOP))
    assert done.returncode == 130 and done.stderr.strip() == NOTHING and not (tmp_path / "run").exists(), done.stderr


def test_a_stop_when_all_is_done(tmp_path: Path) -> None:
    late = inject(tmp_path / "late", "stssl.cli.common", f"import atexit; atexit.register(lambda: exec({STOP!r}))")
    done = launch("plugins", inject=late)
    assert done.returncode == 0 and "fixmatch" in done.stdout and not done.stderr, done.stderr


@pytest.mark.soak
@pytest.mark.parametrize(
    ("program", "seconds", "number"),
    [("gcs_server", 0.2, signal.SIGTERM), ("raylet", 0.2, signal.SIGTERM), ("raylet", 0.7, signal.SIGINT)],
)
def test_a_stop_while_ray_starts(
    program: str,
    seconds: float,
    number: int,
    shards: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    left: Callable[[], list[str]],
) -> None:
    process = launch("search", write(search_of(shards)), "--out", tmp_path / "run", "--cpus", "1", wait=False)
    running(process, program, seconds)
    process.send_signal(number)
    check_end(process, 130, NOTHING)
    assert not left()


@pytest.mark.soak
def test_prepare_stopped_while_ray_starts_and_ray_lost(tmp_path: Path, left: Callable[[], list[str]]) -> None:
    command: list[Any] = ["prepare", "eurosat", PATCHES, "--out", tmp_path / "shards", "--workers", "2"]
    process = launch(*command, wait=False)
    running(process, "raylet", 0.2)
    process.send_signal(signal.SIGTERM)
    check_end(process, 130, "interrupted; nothing is lost, the same command goes on where it was")
    process = launch(*command, wait=False)
    os.kill(running(process, "raylet")[0], signal.SIGKILL)
    check_end(process, 1, "Ray's raylet died (killed, or out of memory?); nothing is lost, the same command goes on")
    assert not left()


@pytest.mark.soak
@pytest.mark.parametrize(("program", "seconds"), [("gcs_server", 0.1), ("raylet", 0.0), ("raylet", 0.7)])
def test_ray_lost_while_it_starts(
    program: str,
    seconds: float,
    shards: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    left: Callable[[], list[str]],
) -> None:
    process = launch("search", write(search_of(shards)), "--out", tmp_path / "run", "--cpus", "1", wait=False)
    os.kill(running(process, program, seconds)[0], signal.SIGKILL)
    check_end(process, 1, "died (killed, or out of memory?); ")
    assert not left()


@pytest.mark.soak
def test_ray_lost_while_trials_run_then_stops_at_the_end(
    finished: tuple[Path, str],
    shards: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    left: Callable[[], list[str]],
) -> None:
    run, command = tmp_path / "run", list[Any](["search", write(search_of(shards)), "--out", tmp_path / "run"])
    for program in ("gcs_server", "raylet"):
        count = len(events(run))
        process = launch(*command, "--cpus", "1", wait=False)
        wait_for(run, lambda log, count=count: len(log) > count + 2, process)  # type: ignore[misc]
        family = processes(process.pid)
        before = (run / "ledger.jsonl").read_bytes()
        os.kill(running(process, program)[0], signal.SIGKILL)
        check_end(process, 1, f"every trial is kept. Go on with: {GO_ON.format(run=run)}", family=family)
        assert (run / "ledger.jsonl").read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        command = ["resume", run]
    leaving = f"\ndef end_descendants(but=(), original=end_descendants):\n    {STOP}\n    original(but)\n"
    for name, module, code in (("a", "stssl.search.ray_processes", leaving), ("b", "stssl.analysis.report", STOP)):
        process = launch("resume", run, "--cpus", "1", wait=False, inject=inject(tmp_path / name, module, code))
        check_end(process, 130, f"interrupted; nothing is lost. Go on with: {GO_ON.format(run=run)}", seconds=120)
        assert events(run)[-1]["event"] != "finished"
    done = launch("resume", run, "--cpus", "1")
    assert done.returncode == 0 and trials_of(run) == trials_of(finished[0]), done.stderr
    assert not left()


@pytest.mark.soak
def test_a_stop_of_the_whole_process_group(
    shards: Path, write: Callable[..., Path], tmp_path: Path, left: Callable[[], list[str]]
) -> None:
    """As some batch systems do it: Ray's processes end with the same signal."""
    run = tmp_path / "run"
    process = launch("search", write(search_of(shards)), "--out", run, "--cpus", "1", wait=False)
    wait_for(run, lambda log: len(log) > 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    check_end(process, 130, GO_ON.format(run=run))
    assert not left()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("program", "code", "said"),
    [("gcs_server", 1, "has not answered for 8 s"), ("raylet", 2, "the Ray node on which this driver runs died")],
)
def test_a_cluster_of_others_lost(
    program: str, code: int, said: str, shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Its GCS, or the node beside the driver; another node goes on."""
    run, raylets = tmp_path / "run", Raylets(tmp_path / "raylets")
    try:
        inject(raylets.faults, "stssl.search.ray_processes", "SILENT_SECONDS = 8.0")
        head = running(raylets, program)
        raylets.add(num_cpus=1)
        process = start(raylets, "search", write(search_of(shards)), "--out", run, "--address", raylets.address)
        wait_for(run, lambda log: len(log) > 3, process)
        os.kill(head[0], signal.SIGKILL)
        check_end(process, code, f"every trial is kept. Go on with: {GO_ON.format(run=run)}", said)
        assert running(raylets, "raylet")  # it is theirs
    finally:
        raylets.close()
