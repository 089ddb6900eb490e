"""What a user does with a search: stops it, goes on, wants more of it, and builds on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stssl.cli.app import main
from tests.cli.conftest import events, gone, inject, launch, processes, recipe_of, search_of, trials_of, wait_for

SLOW = """
def _slow(self, *arguments, original=Trainer.run_interval):
    import time
    time.sleep({seconds})
    return original(self, *arguments)
Trainer.run_interval = _slow
"""

# Damages every checkpoint from which a trial is to go on.
DAMAGE = """
def damaged(folder, device=None, original=load):
    path = folder.path / CHECKPOINT
    if device and path.exists():  # a trial asks; `export` does not name a device
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    return original(folder, device or "cpu")
load = damaged

def noted(folder, original=put_aside):
    original(folder)
    with open({path!r}, "a") as file:
        file.write(str((folder.path / DAMAGED).exists()) + chr(10))
put_aside = noted
"""


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("ray"))
    return folder


def of(log: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in log if event["event"] == kind]


@pytest.mark.soak
def test_stop_from_elsewhere_then_damaged_checkpoints(
    finished: tuple[Path, str],
    shards: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    slow = inject(
        tmp_path / "slow", "stssl.training.trainer", SLOW.format(seconds=2)
    )  # stopped with trials to go on with
    process = launch("search", write(search_of(shards)), "--out", run, "--cpus", "1", wait=False, inject=slow)
    wait_for(run, lambda log: len(of(log, "result")) >= 3, process)
    family = processes(process.pid)
    for command in (["extend", str(run), "--set", "trials=9"], ["resume", str(run)]):
        assert main(command) == 2
        assert "another driver is at work" in capsys.readouterr().err
    assert main(["status", str(run)]) == 0
    assert f"stop it with: python launch.py stop {run}" in capsys.readouterr().out
    assert main(["status", str(run), "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["finished"]

    assert main(["stop", str(run)]) == 0
    assert f"stopped; go on with: python launch.py resume {run}" in capsys.readouterr().out
    _, err = process.communicate(timeout=60)  # it has let go of the folder, and ends
    assert process.returncode == 130 and f"every trial is kept. Go on with: python launch.py resume {run}" in err
    assert "Traceback" not in err and gone(family)
    log = events(run)
    assert log[-1]["event"] == "stopped" and not of(log, "finished")
    assert main(["status", str(run)]) == 0
    assert f"go on with: python launch.py resume {run}" in capsys.readouterr().out
    assert main(["stop", str(run)]) == 0
    assert "no driver is at work" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0 and (run / "report.png").stat().st_size > 1000

    (run / "stop").touch()  # left over, from whatever
    notes = tmp_path / "notes"
    damaging = inject(tmp_path / "damage", "stssl.search.trial_folder", DAMAGE.format(path=str(notes)))
    done = launch("resume", run, "--cpus", "1", inject=damaging)
    assert done.returncode == 0, done.stderr
    assert set(notes.read_text().split()) == {"True"}  # put aside, and trained again
    assert not (run / "stop").exists() and trials_of(run) == trials_of(finished[0])


@pytest.mark.soak
def test_ctrl_c_once_and_a_polite_stop_twice(shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    run, slow = tmp_path / "run", inject(tmp_path / "slow", "stssl.training.trainer", SLOW.format(seconds=4))
    config = search_of(shards, trials=2, replicates={"top": 1, "seeds": 2}, scheduler={"name": "none"})
    command: list[Any] = ["search", write(config), "--out", run]
    terminal = lambda pid: os.killpg(pid, signal.SIGINT)  # noqa: E731 - every process of the foreground gets it
    for times, interrupt in ((1, terminal), (2, lambda pid: os.kill(pid, signal.SIGTERM))):
        count = len(of(events(run), "result"))
        process = launch(*command, "--cpus", "1", wait=False, inject=slow)
        wait_for(run, lambda log, count=count: len(of(log, "result")) > count, process)  # type: ignore[misc]
        time.sleep(0.5)
        family = processes(process.pid)
        for _ in range(times):
            interrupt(process.pid)
            time.sleep(0.5)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and f"launch.py resume {run}" in err and "Traceback" not in err, err
        assert gone(family)
        log = events(run)
        if times == 1:  # the interval that ran is on record
            assert "stopping at the trials' next evaluations; Ctrl-C again: at once" in err
            assert len(of(log, "result")) == count + 2 and log[-1]["event"] == "stopped"
        else:
            assert len(of(log, "result")) == count + 1 and not of(log[-1:], "stopped")
        command = ["resume", run]
    done = launch("resume", run, "--cpus", "1")
    assert done.returncode == 0, done.stderr
    results = [(e["trial"], e["step"]) for e in of(events(run), "result")]
    assert len(results) == len(set(results)) and not of(events(run), "lost")


@pytest.mark.soak
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "stop"])
def test_a_stop_while_the_last_replicates_run(
    how: str, shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    run, slow = tmp_path / "run", inject(tmp_path / "slow", "stssl.training.trainer", SLOW.format(seconds=2))
    config = search_of(shards, trials=1, replicates={"top": 1, "seeds": 2}, scheduler={"name": "none"})
    config["recipe"]["training"] |= {"steps": 3}
    process = launch("search", write(config), "--out", run, "--cpus", "2", wait=False, inject=slow)
    wait_for(run, lambda log: sum(e["event"] == "result" and "-r" in e["trial"] for e in log) >= 1, process)
    assert len(of(events(run), "created")) == 3
    family = processes(process.pid)
    if how == "stop":
        assert main(["stop", str(run)]) == 0
    else:
        os.kill(process.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (
        process.returncode == 130 and f"stopped; every trial is kept. Go on with: python launch.py resume {run}" in err
    )
    assert gone(family)
    log = events(run)
    assert log[-1]["event"] == "stopped" and not any(of(log, kind) for kind in ("winner", "tested", "finished"))
    assert not (run / "best").exists()
    done = launch("resume", run, "--cpus", "2")
    assert done.returncode == 0 and "one replicate, no interval" not in done.stdout, done.stdout + done.stderr
    assert [e["event"] for e in events(run)[-3:]] == ["winner", "tested", "finished"]
    results = [(e["trial"], e["step"]) for e in of(events(run), "result")]
    assert sorted(results) == sorted((t, step) for t in ("t0001", "t0001-r1", "t0001-r2") for step in (1, 2, 3))


def test_what_cannot_be_extended(
    finished: tuple[Path, str], tmp_path: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(finished[0], tmp_path / "run")
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    for key, value in (
        ("metric", "loss"),
        ("second_metric", "loss"),
        ("recipe.training.steps", "27"),
        ("recipe.data.split.seed", "1"),
        ("scheduler.reduction_factor", "2"),
    ):
        assert main(["extend", str(run), "--set", f"{key}={value}"]) == 2
        error = capsys.readouterr().err
        assert f"{key} is " in error and "in the search so far" in error
    for changes in ([], ["--set", "trials=6"]):
        assert main(["extend", str(run), *changes]) == 2
        assert "nothing to change" in capsys.readouterr().err
    config = yaml.safe_load((run / "search.yaml").read_text())
    config["space"]["optimizer.lr"] = {"loguniform": [1e-3, 1e-2]}
    config["space"]["optimizer.weight_decay"] = {"loguniform": [1e-5, 1e-2]}
    assert main(["extend", str(run), str(write(config)), "--set", "trials=12", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert (
        "trials: 6 -> 12" in shown and "[0.0001, 0.01] -> [0.001, 0.01]" in shown and "optimizer.weight_decay" in shown
    )
    inside = sum(e["params"]["optimizer.lr"] >= 1e-3 for e in of(events(run), "created") if e["kind"] == "search")
    assert f"{inside} of 6 trials lie in the space" in shown and inside < 6
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


@pytest.mark.soak
def test_extended_by_more_trials_then_by_another_space(
    finished: tuple[Path, str], write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(finished[0], tmp_path / "run")
    before, kept = (run / "ledger.jsonl").read_bytes(), {p.name for p in (run / "trials").iterdir()}
    done = launch("extend", run, "--set", "trials=18", "--cpus", "1")
    assert done.returncode == 0, done.stderr
    assert "trials: 6 -> 18" in done.stdout and "6 of 6 trials lie in the space" in done.stdout
    assert "read for the 2. time, since the search was extended" in done.stdout
    assert (run / "ledger.jsonl").read_bytes().startswith(before)
    log = events(run)
    assert len([e for e in of(log, "created") if e["kind"] == "search"]) == 18
    assert len(of(log, "winner")) == len(of(log, "tested")) == len(of(log, "finished")) == 2
    results = {(e["trial"], e["step"]): e["score"] for e in of(log, "result")}
    assert len(results) == len(of(log, "result"))
    again = {e["trial"] for e in of(events(run)[len(before.splitlines()) :], "promoted")} - kept
    retrained = [t for t in again if t <= "t0006" and (run / "trials" / t / "checkpoint.pt").exists()]
    assert retrained  # its weights had been deleted
    for trial in retrained:
        history = torch.load(run / "trials" / trial / "checkpoint.pt", weights_only=True)["history"]
        history = json.loads(history) if isinstance(history, str) else history
        assert {e["step"]: e["validation"]["accuracy"] for e in history}.items() >= {
            step: score for (name, step), score in results.items() if name == trial
        }.items()

    config = yaml.safe_load((run / "search.yaml").read_text())
    config["trials"] = 21
    config["space"]["optimizer.lr"] = {"loguniform": [1e-3, 2e-3]}
    config["space"]["optimizer.weight_decay"] = {"loguniform": [1e-5, 1e-2]}
    done = launch("extend", run, write(config), "--cpus", "1")
    assert done.returncode == 0, done.stderr
    created = [e for e in of(events(run), "created") if e["kind"] == "search"][18:]
    assert len(created) == 3 and all(1e-3 <= e["params"]["optimizer.lr"] <= 2e-3 for e in created)
    assert all("optimizer.weight_decay" in e["params"] for e in created)
    assert main(["resume", str(run)]) == 0 and "finished already" in capsys.readouterr().out


@pytest.mark.soak
def test_two_objectives_with_a_region_held_out(
    shards: Path, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(shards)
    recipe["data"]["split"]["holdout"] = {"region": [-12, 34, 1, 60]}
    recipe["data"]["validation_budget"] = {"per_class": 1}
    config = search_of(shards, recipe=recipe, second_metric="holdout/accuracy", replicates={"top": 1, "seeds": 2})
    config["scheduler"] = {"name": "none"}
    run = tmp_path / "run"
    done = launch("search", write(config), "--out", run, "--cpus", "1")
    assert done.returncode == 0, done.stderr
    for event in of(events(run), "result"):
        assert event["second"] == event["validation"]["holdout/accuracy"]
        assert ("validation_full/accuracy" in event["validation"]) == (event["step"] == 9)
    assert main(["report", str(run)]) == 0
    assert "Two objectives" in (run / "report.html").read_text()
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert (
        "Pareto front of the trials trained in full (validation accuracy, holdout/accuracy)" in capsys.readouterr().out
    )


@pytest.mark.soak
def test_warm_start_and_a_budget_of_time(
    finished: tuple[Path, str],
    shards: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = finished[0]
    config = search_of(shards, warm_start=[str(known)], trials=30, budget_hours=1e-4, replicates={"top": 1, "seeds": 2})
    run = tmp_path / "run"
    done = launch("search", write(config), "--out", run, "--cpus", "1")
    assert done.returncode == 0, done.stderr
    assert f"warm start: 6 trials of {known}; 0 more lie outside this space" in done.stdout
    log = events(run)
    imported = of(log, "imported")
    assert [e["trial"] for e in imported] == [f"0:run/t{i:04d}" for i in range(1, 7)]
    params = {e["trial"]: e["params"] for e in of(events(known), "created")}
    assert all(e["params"] == params[e["trial"].removeprefix("0:run/")] for e in imported)
    search = {e["trial"] for e in of(log, "created") if e["kind"] == "search"}
    assert len(search) < 30
    last = max(i for i, e in enumerate(log) if e["event"] == "created" and e["kind"] == "search")
    assert sum(e["seconds"] for e in of(log[:last], "result") if e["trial"] in search) < 3600 * 1e-4
    for key, value in (("metric", "loss"), ("recipe.training.steps", 27), ("recipe.data.validation_budget.count", 12)):
        assert main(["search", str(write(config)), "--set", f"{key}={value}", "--out", str(tmp_path / "other")]) == 2
        text = capsys.readouterr().err
        assert f"{key} is " in text and "cannot be compared" in text
