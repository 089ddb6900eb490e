"""Searches on clusters of several real raylets on this machine: submitted, drained, killed node by node, their head lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stssl.search.state import SearchState
from tests.cli.conftest import ROOT, events, inject, processes, search_of, wait_for
from tests.cli.raylets import Raylets

pytestmark = pytest.mark.soak

# Slows down what a node may be killed in: training, and the saving of a checkpoint before it takes its place.
SLOW = """
def _slow(self, *arguments, original=Trainer.run_interval, **more):
    if not Path({path!r}).exists():
        time.sleep(0.25)
    return original(self, *arguments, **more)
Trainer.run_interval = _slow

from pathlib import Path
from stssl import files
import os as system
class Os:
    def __getattr__(self, name):
        return getattr(system, name)
    def replace(self, source, target):
        if "checkpoint.pt" in str(target):
            time.sleep(0 if Path({path!r}).exists() else 0.15)
        system.replace(source, target)
files.os = Os()
"""


@pytest.fixture
def raylets(tmp_path: Path) -> Iterator[Raylets]:
    cluster = Raylets(tmp_path / "raylets")
    yield cluster
    cluster.close()


def start(cluster: Raylets, *arguments: Any) -> Any:
    """Start `launch.py` where it can reach the cluster."""
    return subprocess.Popen(
        [sys.executable, ROOT / "launch.py", *map(str, arguments)],
        env=os.environ | cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: Any, seconds: float = 200) -> tuple[str, str]:
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in out + err, out + err
    return out, err


def check_whole(run: Path, before: list[bytes]) -> list[dict[str, Any]]:
    """Nothing that was on record is gone, nothing is there twice, and the search has come to its end."""
    ledger = (run / "ledger.jsonl").read_bytes()
    assert all(ledger.startswith(part[: part.rfind(b"\n") + 1]) for part in before)
    log = events(run)
    results = Counter((e["trial"], e["step"]) for e in log if e["event"] == "result")
    assert results and max(results.values()) == 1
    state = SearchState.replay(log)
    assert state.finished and state.winner is not None and not state.count("running") and not state.count("failed")
    return log


def test_submitted_and_submitted_again_when_the_head_was_lost(
    shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    run, space = tmp_path / "run", write(search_of(shards))
    command = ["submit", space, "--out", run, "--python", sys.executable, "--address"]
    first = Raylets(tmp_path / "first")
    first.environment |= {"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}  # not for loopback
    try:
        first.add(num_cpus=1)
        first.add(num_cpus=1)
        out, err = ended(start(first, *command, first.jobs, "--dry-run"))
        assert "cluster: 2 nodes with 1 CPUs, 0 GPUs, 1 node with 0 CPUs, 0 GPUs: each reads the shards" in out, (
            out + err
        )
        assert "a step of the base recipe, timed just now" in out and not run.exists()
        out, err = ended(start(first, *command, first.jobs))
        assert f"python launch.py status {run}" in out, out + err
        wait_for(run, lambda log: sum(e["event"] == "result" for e in log) >= 4, first)
        out, err = ended(start(first, *command, first.jobs))
        assert "is at work in" in err and "ray job logs --follow --address" in err
        before = (run / "ledger.jsonl").read_bytes()
    finally:
        first.close()  # the head, its GCS, and the driver there
    second = Raylets(tmp_path / "second")
    try:
        second.add(num_cpus=1)
        out, err = ended(start(second, *command, second.jobs, "--follow"))
        assert "What to type next" in out and "trials:" in out, out + err
        check_whole(run, [before])
        process = start(second, *command, second.jobs, "--follow", "--set", "trials=7")
        out, err = ended(process)
        assert process.returncode == 2 and "trials was 6" in out, out + err
    finally:
        second.close()


@pytest.mark.timeout(900)
def test_twenty_nodes_lost(raylets: Raylets, shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    inject(raylets.faults, "stssl.training.trainer", SLOW.format(path=str(tmp_path / "fast")))
    config = search_of(shards, trials=12, resources={"retries": 0}, scheduler={"grace_steps": 4})
    config["recipe"]["training"] |= {"steps": 36}
    for _ in range(2):
        raylets.add(num_cpus=1)
    process = start(raylets, "search", write(config), "--out", run, "--address", raylets.address)
    chance, seen, lost = random.Random(2), [], 0
    while lost < 20:
        count = len(events(run))
        wait_for(run, lambda log, count=count: len(log) > count, process)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.5))
        if process.poll() is not None:
            break
        seen.append((run / "ledger.jsonl").read_bytes())
        raylets.kill(chance.choice(raylets.nodes))
        lost += 1
        raylets.add(num_cpus=1)
    (tmp_path / "fast").touch()
    out, err = ended(process, 400)
    assert lost == 20, "the search was over before the last loss"
    assert process.returncode == 0, out + err
    log = check_whole(run, seen)
    assert {e["kind"] for e in log if e["event"] == "lost"} == {"node"}


def test_a_node_that_is_drained_with_notice(
    raylets: Raylets, shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """As a spot node is: what runs there has some seconds, nothing new comes, and nothing counts as a fault."""
    run = tmp_path / "run"
    inject(raylets.faults, "stssl.training.trainer", SLOW.format(path=str(tmp_path / "fast")))
    config = search_of(shards, resources={"retries": 0})
    spot, _ = raylets.add(num_cpus=1), raylets.add(num_cpus=1)
    process = start(raylets, "search", write(config), "--out", run, "--address", raylets.address)
    wait_for(run, lambda log: sum(e["event"] == "result" for e in log) >= 3, process)
    raylets.drain(spot, seconds=3)
    time.sleep(4)
    raylets.kill(spot)
    (tmp_path / "fast").touch()
    out, err = ended(process)
    assert process.returncode == 0, out + err
    log = check_whole(run, [])
    assert not any(e["event"] == "lost" for e in log), "it had time enough to leave"


def test_a_frozen_worker_is_ended(raylets: Raylets, shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    """Its watchdog is frozen with it; what the driver hears of it no more are heartbeats."""
    run = tmp_path / "run"
    inject(raylets.faults, "stssl.training.trainer", SLOW.format(path=str(tmp_path / "fast")))
    config = search_of(shards, trials=2, scheduler={"name": "none"}, resources={"hang_minutes": 0.2, "code_retries": 1})
    config["replicates"] = {"top": 1, "seeds": 2}
    raylets.add(num_cpus=1)
    process = start(raylets, "search", write(config), "--out", run, "--address", raylets.address)
    wait_for(run, lambda log: sum(e["event"] == "result" for e in log) >= 3, process)
    workers = [pid for pid, name in processes(raylets.pid).items() if name.startswith("ray::ResourceTrainable")]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGSTOP)
    (tmp_path / "fast").touch()
    out, err = ended(process)
    assert process.returncode == 0, out + err
    (lost,) = (e for e in check_whole(run, []) if e["event"] == "lost")
    assert lost["kind"] == "hung" and lost["reason"] == "no sign of life from its worker for 0.2 minutes"


def test_workers_that_leak_are_retired(
    raylets: Raylets, shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    run, pids = tmp_path / "run", tmp_path / "pids"
    code = f"""
LEAK_BYTES = -(1 << 40)  # everything leaks
def _noted(self, config, original=RecipeTrial._make_trainer):
    with open({str(pids)!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{config['trial']}}\\n")
    return original(self, config)
RecipeTrial._make_trainer = _noted
"""
    inject(raylets.faults, "stssl.search.trial", code)
    raylets.add(num_cpus=1)
    config = search_of(
        shards, trials=3, scheduler={"name": "none"}, resources={"retries": 0}, replicates={"top": 1, "seeds": 2}
    )
    process = start(raylets, "search", write(config), "--out", run, "--address", raylets.address)
    out, err = ended(process)
    assert process.returncode == 0, out + err
    assert not any(e["event"] == "lost" for e in check_whole(run, [])), "nobody's fault"
    began = [line.split() for line in pids.read_text().splitlines()]
    assert len({pid for pid, _ in began}) >= 3 and max(Counter(pid for pid, _ in began).values()) <= 3


def test_two_gpus_a_trial_and_nodes_of_different_kinds(
    raylets: Raylets, shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """GPUs that Ray only believes in, so that a trial trains in two processes on CPUs; one of these is lost on the way.

    A node without what a trial asks for gets none; a slow one takes part, and the search ends all the same.
    """
    run, notes = tmp_path / "run", tmp_path / "notes"
    code = f"""
import os
def _noted(self, *arguments, original=Trainer.run_interval):
    kind = os.environ["KIND"]
    time.sleep(0 if os.path.exists({str(tmp_path / "fast")!r}) else 2 if kind == "slow" else 0.5)
    with open({str(notes)!r}, "a") as file:
        file.write(f"{{kind}} {{self.team.size}}\\n")
    return original(self, *arguments)
Trainer.run_interval = _noted
"""
    inject(raylets.faults, "stssl.training.trainer", code)
    for kind, resources in (("other", {}), ("slow", {"training": 1}), ("fast", {"training": 1})):
        raylets.add(num_cpus=2, num_gpus=2, resources=resources, env_vars={"KIND": kind})
    config = search_of(
        shards, trials=3, resources={"gpus": 2, "custom": {"training": 1}}, scheduler={"name": "none"},
        replicates={"top": 1, "seeds": 2},
    )  # fmt: skip
    config["recipe"]["training"] |= {"steps": 6}
    process = start(raylets, "search", write(config), "--out", run, "--address", raylets.address)
    both = lambda: notes.exists() and {"slow 2", "fast 2"} <= set(notes.read_text().splitlines())  # noqa: E731
    wait_for(run, lambda log: sum(e["event"] == "result" for e in log) >= 2 and both(), process)
    others = [pid for pid, name in processes(raylets.pid).items() if "multiprocessing.spawn import spawn_main" in name]
    os.kill(others[0], signal.SIGKILL)
    (tmp_path / "fast").touch()
    out, err = ended(process)
    assert process.returncode == 0, out + err
    assert len([e for e in check_whole(run, []) if e["event"] == "lost"]) == 1
    assert not [name for name in processes(raylets.pid).values() if "spawn_main" in name]
    intervals = notes.read_text().splitlines()
    assert set(intervals) == {"slow 2", "fast 2"}, (
        "the node without the resource got a trial, or one of the others none"
    )
