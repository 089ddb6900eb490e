"""The main job, end to end, and what may happen to it on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from stssl.cli.app import main
from tests.cli.conftest import ROOT, events, exposed, launch, processes, recipe_of, search_of, trials_of, wait_for


def test_search_runs_to_its_end(finished: tuple[Path, str]) -> None:
    run, text = finished
    log = events(run)
    created = [e for e in log if e["event"] == "created"]
    search = [e for e in created if e["kind"] == "search"]
    assert len(search) == 6
    assert search[0]["params"] == {"framework": "teacher_student", "optimizer.lr": 1e-3, "distillation.weight": 1.0}
    decisions = {(e["trial"], e["step"]): e["decision"] for e in log if e["event"] == "result"}
    assert {step for (_, step), d in decisions.items() if d == "pause"} <= {1, 3}
    assert {"pause", "complete"} <= set(decisions.values()) and any(e["event"] == "promoted" for e in log)
    replicates = [e for e in created if e["kind"] == "replicate"]
    recipes = {e["of"] for e in replicates}
    assert "t0001" in recipes and len(recipes) in (2, 3) and len(replicates) == 2 * len(recipes)
    seeds = {(e["recipe"]["seed"], e["recipe"]["data"]["labeled"]["seed"]) for e in replicates}
    assert seeds == {(1000, 1000), (2000, 2000)}
    assert all(e["recipe"]["framework"] != "metadata_input" for e in replicates)
    assert [e["event"] for e in log[-3:]] == ["winner", "tested", "finished"]
    assert "overlap" in text or "1." in text
    assert f"launch.py status {run}" in text
    assert "Traceback" not in text and "Warning" not in text


def test_only_weights_of_full_trials_are_kept(finished: tuple[Path, str]) -> None:
    run, _ = finished
    full = {e["trial"] for e in events(run) if e.get("decision") == "complete"}
    assert {p.name for p in (run / "trials").iterdir()} == full


def test_exported_student_loads_in_plain_timm(finished: tuple[Path, str]) -> None:
    run, _ = finished
    code = f"""
import json, sys, timm
from safetensors.torch import load_file
model = json.load(open({str(run / "best" / "model.json")!r}))
student = timm.create_model(**model["timm"])
student.load_state_dict(load_file({str(run / "best" / "student.safetensors")!r}), strict=True)
assert not any(name.startswith("stssl") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=run)


def test_test_split_is_read_once(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = finished
    tested = [e for e in events(run) if e["event"] == "tested"]
    assert len(tested) == 1
    before = (run / "ledger.jsonl").read_bytes()
    assert main(["resume", str(run)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (run / "ledger.jsonl").read_bytes() == before
    # and it is the score of the exported student
    assert main(["evaluate", str(run / "best"), "--split", "test", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["accuracy"] == tested[0]["scores"]["accuracy"]


def test_status_report_export(finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = finished
    assert main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["finished"] and status["trials"]["planned"] == 6 and status["replicates"]["completed"] in (4, 6)
    assert [r["step"] for r in status["rungs"]] == [1, 3, 9] and status["rungs"][0]["reached"] == 6
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert all(trial in shown for trial in trials_of(run))

    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("ray"))
    for name in ("report.html", "report.png", "trials.parquet"):
        (copy / name).unlink()
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    assert all(trial in page for trial in trials_of(run)) and "cdn." not in page.split("</script>")[-1]
    assert (copy / "report.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(copy / "trials.parquet").num_rows == len(trials_of(run))

    full = next(e["trial"] for e in events(run) if e.get("decision") == "complete" and "-r" in e["trial"])
    assert main(["export", str(run), "--trial", full, "--out", str(tmp_path / "one")]) == 0
    assert main(["evaluate", str(tmp_path / "one")]) == 0
    status = {e["trial"]: e["decision"] for e in events(run) if "decision" in e}
    stopped = next(trial for trial, decision in status.items() if decision == "pause")
    capsys.readouterr()
    assert main(["export", str(run), "--trial", stopped, "--out", str(tmp_path / "two")]) == 2
    assert "only trials that ran in full keep their weights" in capsys.readouterr().err
    assert main(["export", str(run), "--trial", "t9", "--out", str(tmp_path / "two")]) == 2
    assert not (tmp_path / "two").exists()


def test_kill_9_and_resume_equals_the_undisturbed_search(
    finished: tuple[Path, str], shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = launch("search", write(search_of(shards)), "--out", run, "--cpus", "1", wait=False)
    wait_for(run, lambda log: len(log) >= 9, process)
    process.kill()
    process.communicate()
    with (run / "ledger.jsonl").open("ab") as file:
        file.write(b'{"event": "result", "tri')  # as if the kill had torn a line
    done = launch("resume", run, "--cpus", "1")
    assert done.returncode == 0, done.stderr
    assert trials_of(run) == trials_of(finished[0])
    log = events(run)
    assert len([e for e in log if e["event"] == "tested"]) == 1
    ended = [e["trial"] for e in log if e.get("decision") in ("stop", "complete")]
    assert len(ended) == len(set(ended))  # no finished trial was run again


def test_failures_are_recorded_and_the_search_goes_on(shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = search_of(shards, trials=5, scheduler={"name": "none"})
    config["space"] = {
        "optimizer.lr": {"loguniform": [1e-4, 1e6]},
        "model.image_size": {"choice": [16, 1024]},
        "training.batch_unlabeled": {"choice": [4, 16384]},
    }
    config["points"] = [
        {"optimizer.lr": 1e6},  # diverges
        {"model.image_size": 1024, "training.batch_unlabeled": 16384},  # 206 GB for one tensor
        {"optimizer.lr": 2e-3},
        {"optimizer.lr": 3e-3},
    ]
    process = launch("search", write(config), "--out", run, "--cpus", "1", wait=False)
    wait_for(run, lambda log: any(e["event"] == "created" for e in log), process)
    family = processes(process.pid)
    assert any("/gcs_server" in name for name in family.values()) and not exposed([process.pid, *family])
    (run / "trials").mkdir(exist_ok=True)
    (run / "trials" / "t0005").write_text("a file where the trial wants its folder")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    failed = {e["trial"]: e for e in events(run) if e["event"] == "failed"}
    assert failed["t0002"]["kind"] == "diverged" and "step" in failed["t0002"]["reason"]
    assert failed["t0003"]["kind"] == "out_of_memory"
    assert (run / "trials" / "t0003" / "error.txt").read_text().startswith("Traceback")
    assert failed["t0005"]["kind"] == "infrastructure" and "tried 3 times" in failed["t0005"]["reason"]
    assert set(failed) == {"t0002", "t0003", "t0005"}
    assert all(f"Failed: {trial}" in out for trial in failed)


def test_a_trial_that_fits_on_no_node_is_refused(shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    config = search_of(shards, resources={"cpus": 512})
    done = launch("search", write(config), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert done.returncode == 2 and "512 CPUs" in done.stderr and "largest node" in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:many", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_listens(
    address: str, shards: Path, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["search", str(write(search_of(shards))), "--out", str(tmp_path / "run"), "--address", address]
    assert main(search) == 2
    assert f"--address {address}: no Ray cluster answers there" in capsys.readouterr().err


def test_an_address_where_something_else_listens(
    shards: Path, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # as the jobs server is one
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        assert (
            main(["search", str(write(search_of(shards))), "--out", str(tmp_path / "run"), "--address", address]) == 2
        )
    assert f"--address {address}: what answers there is no Ray cluster's GCS (port 6379" in capsys.readouterr().err


def test_shards_changed_since_the_search_began(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    config = yaml.safe_load((run / "search.yaml").read_text())
    data, copy = tmp_path / "data", tmp_path / "run"
    shutil.copytree(config["recipe"]["data"]["shards"], data)
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("ray"))
    config["recipe"]["data"]["shards"] = str(data)
    (copy / "search.yaml").write_text(yaml.safe_dump(config))
    shard = next(data.glob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["resume", str(copy)]) == 2
    assert shard.name in capsys.readouterr().err
    patches = tmp_path / "patches"
    shutil.copytree(ROOT / "data" / "eurosat_ms_103", patches)
    next(patches.glob("EuroSAT_MS/*/*.tif")).unlink()
    assert main(["prepare", "eurosat", str(patches), "--out", str(data), "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["resume", str(copy)]) == 2
    assert "have changed since the search began" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_shards_that_vanish_stop_the_driver_and_not_the_search(
    shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(shards, data)
    process = launch("search", write(search_of(data)), "--out", run, "--cpus", "1", wait=False)
    wait_for(run, lambda log: any(e["event"] == "created" for e in log), process)
    data.rename(tmp_path / "elsewhere")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "in a row were lost to the machine" in err and "resume" in err
    assert sum(e["event"] == "failed" for e in events(run)) <= 1
    (tmp_path / "elsewhere").rename(data)
    done = launch("resume", run)
    assert done.returncode == 0, done.stderr


def test_an_edited_search_is_not_resumed(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy, ignore=shutil.ignore_patterns("ray"))
    text = (copy / "search.yaml").read_text()
    (copy / "search.yaml").write_text(text.replace("metric: accuracy", "metric: loss"))
    assert main(["resume", str(copy)]) == 2
    assert "metric was 'accuracy' when the search began and is 'loss' now" in capsys.readouterr().err
    (copy / "search.yaml").write_text(text.replace("note: ''", "note: mine"))
    assert main(["resume", str(copy)]) == 0


def test_weights_by_a_relative_path_reach_the_workers(
    shards: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(shards, framework="plain")
    assert main(["train", str(write(recipe, "r.yaml")), "--out", "first"]) == 0
    recipe["model"]["pretrained"] = "first/best/student.safetensors"
    assert main(["search", str(write(search_of(shards, recipe=recipe))), "--out", "run", "--dry-run"]) == 0
    assert f"pretrained: {tmp_path}/first/best/student.safetensors" in capsys.readouterr().out


def test_first_point_is_the_recipe_file(shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    write(recipe_of(shards, seed=7), "base.yaml")
    done = launch("search", write(search_of(shards, recipe="base.yaml")), "--out", tmp_path / "run", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in done.stdout and "rungs at steps 1, 3, 9" in done.stdout
    assert not (tmp_path / "run").exists()
