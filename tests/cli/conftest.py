"""Commands as a user types them; everything that starts Ray does so in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stssl.cli.app import main

ROOT = Path(__file__).parents[2]
PATCHES = ROOT / "data" / "eurosat_ms_103"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("STSSL_CACHE")
    os.environ["STSSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["STSSL_CACHE"]
    if before is not None:
        os.environ["STSSL_CACHE"] = before


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 103 bundled patches, prepared once."""
    folder = tmp_path_factory.mktemp("data") / "eurosat-103"
    assert main(["prepare", "eurosat", str(PATCHES), "--out", str(folder)]) == 0
    return folder


def recipe_of(shards: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that trains in about a second."""
    return {
        "data": {
            "shards": str(shards),
            "bands": ["B04", "B03", "B02"],
            "split": {"validation": 0.3, "test": 0.2},
            "labeled": {"per_class": 2},
        },
        "encoding": {"location": "scaled", "time": "none"},
        "model": {"name": "tiny", "image_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "optimizer": {"lr": 1e-3},
        "training": {"steps": 9, "eval_interval": 1, "batch_labeled": 4, "batch_unlabeled": 4, "ema_decay": 0.9},
        **changes,
    }


def search_of(shards: Path, **changes: Any) -> dict[str, Any]:
    """A search of six trials over three rungs, and two recipes twice."""
    return {
        "name": "mini",
        "trials": 6,
        "recipe": recipe_of(shards),
        "space": {
            "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
            "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
            "distillation.weight": {"loguniform": [0.01, 10.0], "when": {"framework": "teacher_student"}},
        },
        "scheduler": {"grace_steps": 1, "reduction_factor": 3},
        "replicates": {"top": 2, "seeds": 2},
        **changes,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write YAML to a file of that name."""

    def write_yaml(data: Any, name: str = "file.yaml") -> Path:
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
        return path

    return write_yaml


def launch(*arguments: str | Path, wait: bool = True) -> Any:
    """Start `launch.py`; waits for it and returns the completed process, or returns the running one."""
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    if wait:
        return subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )


def events(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a ledger, which may be in the writing."""
    try:
        text = (run / "ledger.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def wait_for(run: Path, condition: Callable[[list[dict[str, Any]]], bool], process: Any, seconds: float = 120) -> None:
    """Wait until the ledger meets a condition."""
    end = time.monotonic() + seconds
    while not condition(events(run)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"waited {seconds} s: {events(run)[-3:]}"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search that ran to its end undisturbed, one trial at a time, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    space = folder / "mini.yaml"
    space.write_text(yaml.safe_dump(search_of(shards), sort_keys=False))
    done = launch("search", space, "--out", folder / "run", "--cpus", "1")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout + done.stderr
