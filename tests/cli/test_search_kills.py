"""Kills of every kind at random moments: nothing is lost or repeated, no decision changes, and nothing is left running."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stssl.cli.app import main
from tests.cli.conftest import events, inject, launch, processes, search_of, trials_of

# Notes every interval that was trained, with its recipe; slows it down, so that no machine is done before the last kill.
NOTE = """
from pathlib import Path
def _noted(self, *arguments, original=Trainer.run_interval):
    if not Path({path!r} + ".fast").exists():
        time.sleep(0.3)
    original(self, *arguments)
    with open({path!r}, "a") as file:
        file.write(f"{{self.recipe.digest()}} {{self.step}}\\n")
Trainer.run_interval = _noted
"""
MARK = "STSSL_TEST_MARK"  # in the environment of all that a search starts, whoever its parent is by now
KINDS = {  # how many of each, with one trial at a time and with two; 29 in all
    "driver": (3, 2), "group": (2, 2), "worker": (4, 4), "raylet": (2, 1), "gcs": (1, 1), "SIGTERM": (2, 1),
    "SIGINT": (1, 1), "stop": (1, 1),
}  # fmt: skip


def marked(mark: str) -> dict[int, str]:
    """Living processes with a mark, and their commands."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found[int(folder.name)] = command
        except OSError:
            continue
    return found


def check_ended(process: Any, mark: str) -> None:
    """A driver's last words and exit code; 30 seconds later nothing that it started is left."""
    err = process.communicate(timeout=120)[1]
    assert process.returncode in (1, 130, -signal.SIGKILL), (process.returncode, err)
    assert "Traceback" not in err, err
    assert process.returncode < 0 or any(word in err for word in ("launch.py resume", "began", "begun")), err
    until = time.monotonic() + 30
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left, left


def strike(kind: str, process: Any, run: Path) -> bool:
    """Do to a search what the kind says; False if there is nothing yet to which it could be done."""
    family = processes(process.pid)
    if kind in ("SIGTERM", "SIGINT"):
        os.kill(process.pid, signal.Signals[kind])
        return True
    if kind == "stop":
        return (run / "search.yaml").exists() and main(["stop", str(run), "--no-wait"]) == 0
    if kind == "group":
        os.killpg(process.pid, signal.SIGKILL)
        return True
    signs = {"worker": "ray::ResourceTrainable", "raylet": "/raylet --", "gcs": "/gcs_server"}
    pids = [process.pid] if kind == "driver" else [p for p, name in family.items() if signs[kind] in name]
    if kind == "worker":
        pids = pids[:1]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return bool(pids)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("at_a_time", [1, 2])
def test_kills_change_nothing(
    at_a_time: int, shards: Path, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two trials at a time the order of results is chance, so there all trials are trained in full."""
    scheduler = {"grace_steps": 4} if at_a_time == 1 else {"name": "none"}
    config = search_of(shards, trials=6, resources={"retries": 99}, scheduler=scheduler)
    config["recipe"]["training"] |= {"steps": 24}
    space, run, notes, cpus = write(config), tmp_path / "run", tmp_path / "notes", ("--cpus", str(at_a_time))
    mark = f"{os.getpid()}-{at_a_time}"
    monkeypatch.setenv(MARK, mark)
    noting = inject(tmp_path / "inject", "stssl.training.trainer", NOTE.format(path=str(notes)))
    done = launch("search", space, "--out", tmp_path / "undisturbed", *cpus)
    assert done.returncode == 0, done.stderr

    chance = random.Random(at_a_time)
    faults = [kind for kind, counts in KINDS.items() for _ in range(counts[at_a_time - 1])]
    chance.shuffle(faults)
    monkeypatch.setenv(MARK, "none")  # of this process, which is to be killed with no one
    command: list[Any] = ["search", space, "--out", run, *cpus]
    process, seen, count = None, [], len(faults)
    while faults:
        if process is None or process.poll() is not None:
            if process is not None:
                check_ended(process, mark)
            if (run / "search.yaml").exists():
                command = ["resume", run, *cpus]
            monkeypatch.setenv(MARK, mark)
            process = launch(*command, wait=False, inject=noting)
            monkeypatch.setenv(MARK, "none")
        known, waited = len(events(run)), time.monotonic()
        patience = chance.choice([chance.uniform(0, 15), 60, 60, 60])  # some come before anything has happened
        while process.poll() is None and len(events(run)) <= known and time.monotonic() < waited + patience:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        if process.poll() is None:
            if (run / "ledger.jsonl").exists():
                seen.append((run / "ledger.jsonl").read_bytes())
            if strike(faults[-1], process, run) and faults.pop() not in ("worker",):
                process.wait(120)
    if process.poll() is None:
        process.kill()
    process.communicate()
    Path(f"{notes}.fast").touch()
    done = launch("resume", run, *cpus, inject=noting)
    assert done.returncode == 0, done.stderr
    assert trials_of(run) == trials_of(tmp_path / "undisturbed")
    ledger = (run / "ledger.jsonl").read_bytes()
    assert all(ledger.startswith(before[: before.rfind(b"\n") + 1]) for before in seen)
    log, other = events(run), events(tmp_path / "undisturbed")
    results = [(e["trial"], e["step"]) for e in log if e["event"] == "result"]
    assert len(results) == len(set(results))
    for kind in ("promoted", "winner", "tested", "finished"):
        strip = [[{k: v for k, v in e.items() if k != "time"} for e in x if e["event"] == kind] for x in (log, other)]
        assert strip[0] == strip[1]
    trained = Counter(notes.read_text().splitlines())
    # only what was under way was trained again
    assert len(trained) >= len(results) and trained.total() - len(trained) <= at_a_time * (count + 1)
