"""What may happen to a search on its way: kills, workers that hang or raise, damaged files, full disks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stssl.search.state import SearchState
from tests.cli.conftest import events, inject, launch, processes, search_of, trials_of, wait_for

TRAINER = "stssl.training.trainer"
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


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_thirty_kills_change_nothing(shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    """Driver, worker or node, at random moments: every event stays, every result is the undisturbed one, and comes once."""
    config = search_of(shards, trials=9, resources={"retries": 99}, scheduler={"grace_steps": 4})
    config["recipe"]["training"] |= {"steps": 36}
    space, run, notes = write(config), tmp_path / "run", tmp_path / "notes"
    noting = inject(tmp_path / "inject", TRAINER, NOTE.format(path=str(notes)))
    done = launch("search", space, "--out", tmp_path / "undisturbed", "--cpus", "1")
    assert done.returncode == 0, done.stderr

    chance, victims = random.Random(1), ["driver"] * 4 + ["worker"] * 25 + ["node"]
    chance.shuffle(victims)
    command: list[Any] = ["search", space, "--out", run, "--cpus", "1"]
    process: Any = None
    kills, seen = len(victims), []
    while victims:
        if process is None or process.poll() is not None:
            if process is not None:
                err = process.communicate()[1]
                assert process.returncode in (1, -signal.SIGKILL) and "Traceback" not in err, err
            if (run / "search.yaml").exists():
                command = ["resume", run, "--cpus", "1"]
            process = launch(*command, wait=False, inject=noting)
        count, waited = len(events(run)), time.monotonic()
        patience = chance.choice([chance.uniform(0, 15), 60, 60, 60])  # some kills come before anything has happened
        while process.poll() is None and len(events(run)) <= count and time.monotonic() < waited + patience:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        victim = victims[-1]
        family = processes(process.pid)
        workers = [p for p, name in family.items() if name.startswith("ray::ResourceTrainable")]
        raylets = [p for p, name in family.items() if "/raylet --" in name]  # Ray's daemon, one a node
        # a worker that outlives its node works on for a while, and is no child of the driver any more
        pids = {"driver": [process.pid], "worker": workers, "node": raylets and workers and raylets + workers}[victim]
        if process.poll() is None and pids:
            if (run / "ledger.jsonl").exists():
                seen.append((run / "ledger.jsonl").read_bytes())
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            victims.pop()
            if victim == "driver":
                process.wait()
    process.kill()
    process.communicate()
    Path(f"{notes}.fast").touch()
    done = launch("resume", run, "--cpus", "1", inject=noting)
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
    assert len(trained) >= len(results) and trained.total() - len(trained) <= kills + 1


# What becomes of a trial depends on its learning rate.
FAULTS = """
def _step(self, original=Trainer._train_step):
    lr = self.recipe.optimizer.lr
    if lr == 2e-3 and self.step == 1:
        raise KeyError("no such thing")
    if lr == 3e-3 and self.step == 1:
        time.sleep(3600)
    if lr == 5e-3 and self.step == 1:
        raise Diverged("the loss became nan")
    original(self)
Trainer._train_step = _step

def _evaluate(self, split, original=Trainer.evaluate):
    return {"loss": 1.0} if self.recipe.optimizer.lr == 4e-3 else original(self, split)
Trainer.evaluate = _evaluate
"""


@pytest.mark.soak
def test_every_way_to_fail(shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = search_of(shards, trials=6, space={"optimizer.lr": {"loguniform": [1e-4, 1e-2]}})
    config["points"] = [{"optimizer.lr": lr} for lr in (2e-3, 3e-3, 4e-3, 5e-3, 6e-3)]
    config["resources"] = {"hang_minutes": 0.1, "code_retries": 1}
    config["scheduler"] = {"name": "none"}
    done = launch(
        "search", write(config), "--out", run, "--cpus", "1", inject=inject(tmp_path / "faults", TRAINER, FAULTS)
    )
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr
    log = events(run)
    failed = {e["trial"]: e for e in log if e["event"] == "failed"}
    assert {t: e["kind"] for t, e in failed.items()} == {
        "t0002": "raised", "t0003": "hung", "t0004": "silent", "t0005": "diverged"
    }  # fmt: skip
    assert [(e["trial"], e["kind"]) for e in log if e["event"] == "lost"] == [("t0002", "raised"), ("t0003", "hung")]
    assert "KeyError: 'no such thing'" in failed["t0002"]["reason"] and "tried 2 times" in failed["t0002"]["reason"]
    assert "KeyError" in (run / "trials" / "t0002" / "error.txt").read_text()
    assert "nothing moved for 0.1 minutes" in failed["t0003"]["reason"] and "tried 2 times" in failed["t0003"]["reason"]
    assert "in _step" in (run / "trials" / "t0003" / "error.txt").read_text()
    assert "accuracy is not reported at step 1" in failed["t0004"]["reason"]
    assert all((t, 1) in {(e["trial"], e["step"]) for e in log if e["event"] == "result"} for t in ("t0002", "t0003"))
    assert {e["trial"] for e in log if e.get("decision") == "complete"} >= {"t0001", "t0006"}
    for trial in ("t0002", "t0003"):
        assert [p.name for p in (run / "trials" / trial).iterdir()] == ["error.txt"]


# Takes a fifth of the memory when it trains, and holds it.
GREEDY = """
def _greedy(self, *arguments, original=Trainer.run_interval):
    import os, time
    _greedy.held = b"x" * (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 5)
    time.sleep(10)
    return original(self, *arguments)
Trainer.run_interval = _greedy
"""


@pytest.mark.soak
def test_workers_that_the_node_has_no_memory_for(
    shards: Path, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy, config = inject(tmp_path / "greedy", "stssl.training.trainer", GREEDY), write(search_of(shards, trials=2))
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(meminfo[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    monkeypatch.setenv(
        "RAY_memory_usage_threshold", str(1.15 - available / total)
    )  # at which Ray's monitor ends workers
    run = tmp_path / "run"
    done = launch("search", config, "--out", run, "--cpus", "1", inject=greedy)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    failed = [e for e in events(run) if e["event"] == "failed"]
    assert [e["kind"] for e in failed] == ["out_of_memory"] * 2, failed
    assert "more memory than the node has" in failed[0]["reason"]


@pytest.mark.soak
def test_a_disk_that_is_full(
    finished: tuple[Path, str], shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("needs leave to mount")
    try:
        process = launch("search", write(search_of(shards)), "--out", disk / "run", "--cpus", "1", wait=False)
        wait_for(disk / "run", lambda log: len(log) >= 6, process)
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2 and "resume" in err and "Traceback" not in err, err
        (disk / "filler").unlink()
        done = launch("resume", disk / "run", "--cpus", "1")
        assert done.returncode == 0, done.stderr
        log = events(disk / "run")
        assert SearchState.replay(log).count("failed") == 0  # what was given up for the disk's sake is back
        scores = {(e["trial"], e["step"]): e["score"] for e in log if e["event"] == "result"}
        assert len(scores) == sum(e["event"] == "result" for e in log)
        undisturbed = {(e["trial"], e["step"]): e["score"] for e in events(finished[0]) if e["event"] == "result"}
        first = [(trial, step) for trial, step in scores if trial <= "t0003"]  # made before the disk was full
        assert first and all(scores[k] == undisturbed[k] for k in first if k in undisturbed)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
