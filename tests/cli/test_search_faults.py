"""What may happen to a search on its way: kills, workers that hang or raise, damaged files, full disks."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stssl.search.state import SearchState
from tests.cli.conftest import events, inject, launch, search_of, wait_for

TRAINER = "stssl.training.trainer"
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
