"""A search whose shards and run folder lie in a bucket: a real S3 server on loopback, slow and failing."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import load_file

from stssl.cli.app import main
from stssl.search.ledger import events_of
from stssl.storage import Folder
from tests.cli.conftest import PATCHES, launch, search_of, trials_of, without_clock

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.mark.soak
def test_a_search_in_a_bucket(
    finished: tuple[Path, str],
    faults: Any,
    write: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is the search on a disk, result by result: with every request 20 ms slower and one in twenty refused, the bucket out
    of reach for eight seconds, and the driver killed."""
    assert main(["prepare", "eurosat", str(PATCHES), "--out", "s3://patches/eurosat-103"]) == 0
    source = random.Random(1)
    faults.delay, faults.answer = 0.02, lambda environ: 503 if source.random() < 0.05 else None
    run = "s3://runs/mini"
    config = search_of(Path("unused"))
    config["recipe"]["data"]["shards"] = "s3://patches/eurosat-103"
    space = write(config)
    process = launch("search", space, "--out", run, "--cpus", "1", wait=False)
    place = Folder(run, patience=60)
    sometimes, until = faults.answer, time.monotonic() + 120
    for results in (2, 4):
        while sum(event["event"] == "result" for event in events_of(place)) < results:
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.1)
        if results == 2:
            faults.answer = lambda environ: 503
            time.sleep(8)
            faults.answer = sometimes
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = events_of(place)
    done = launch("search", space, "--out", run, "--cpus", "1", "--go-on")  # as a cluster would try it again
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    faults.delay, faults.answer = 0.0, None

    log = events_of(place)
    assert log[: len(before)] == before
    assert without_clock(log) == trials_of(finished[0])
    names = {entry.name for entry in place.entries(recursive=True) if not entry.is_folder}
    assert {"ledger.jsonl", "search.yaml", "manifest.json", "report.html", "trials.parquet"} <= names
    assert {f"best/{name}" for name in ("recipe.yaml", "student.safetensors", "model.json", "README.md")} <= names
    assert not any(name.startswith(("ledger/", "driver.json", ".clock")) for name in names), names

    # from a laptop
    capsys.readouterr()
    assert main(["status", run, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["finished"] and main(["stop", run]) == 0
    assert "no driver is at work" in capsys.readouterr().out
    assert main(["report", run, "--out", str(tmp_path / "report")]) == 0 and main(["report", run]) == 0
    assert (tmp_path / "report" / "report.html").stat().st_size > 100_000
    assert "s3://runs/mini/report.html" in capsys.readouterr().out
    assert main(["export", run, "--out", str(tmp_path / "best")]) == 0
    model = json.loads((tmp_path / "best" / "model.json").read_text())
    timm.create_model(**model["timm"]).load_state_dict(
        load_file(tmp_path / "best" / "student.safetensors"), strict=True
    )
    assert main(["search", str(space), "--out", run]) == 2
    assert f"{run}: exists and is not empty; resume it with" in capsys.readouterr().err
    assert main(["search", str(space), "--out", run, "--go-on", "--set", "trials=7"]) == 2
    assert "trials was 6" in capsys.readouterr().err
    secrets = b"".join(
        place.read(name) for name in names if name.endswith((".json", ".jsonl", ".yaml", ".html", ".md"))
    )
    assert b"hush" not in secrets and b"someone" not in secrets
