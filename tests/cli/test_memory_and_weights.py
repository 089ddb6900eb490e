"""A training without memory; and weights that are not to be exported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stssl.cli.app import main
from stssl.search.ledger import NAME, read
from stssl.search.state import SearchState
from tests.cli.conftest import recipe_of

LITTLE = """
import resource, sys
import torch
from stssl.cli.app import main
from stssl.training import trainer  # and what it imports
torch.set_num_threads(1)
torch.zeros(10) @ torch.zeros(10)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""


def test_no_memory_is_one_sentence(shards: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    recipe = recipe_of(shards)
    recipe["model"] |= {"embed_dim": 1024, "depth": 12, "num_heads": 8}
    command = ["train", write(recipe), "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", LITTLE, *map(str, command)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1, done.stderr
    assert "error: out of memory (" in done.stderr and "take smaller batches" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def run(finished: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("ray")))


def replicates(run: Path) -> list[str]:
    """Of the winner, the best first."""
    state = SearchState.replay(read(run / NAME))
    found = [t for t in state.of_kind("replicate", "completed") if t.of == state.winner]
    return [t.id for t in sorted(found, key=lambda t: -t.score)]


def spoil(run: Path, trial: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = run / "trials" / trial / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def nan(state: dict[str, Any]) -> None:
    for tensor in state["networks"].values():
        tensor.fill_(torch.nan)


def test_weights_that_are_no_numbers_are_not_exported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = replicates(run)
    spoil(run, first, nan)
    assert main(["export", str(run), "--out", str(run / "next")]) == 0
    assert capsys.readouterr().out.startswith(f"{others[0]} -> ")
    assert main(["export", str(run), "--trial", first, "--out", str(run / "this")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{first}/checkpoint.pt: networks." in said and "holds NaN or infinity" in said
    for name in others:
        spoil(run, name, nan)
    assert main(["export", str(run), "--out", str(run / "none")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the weights of all replicates of" in said and "holds NaN or infinity" in said
    assert not (run / "this").exists() and not (run / "none").exists()


def test_weights_of_another_trial_are_not_exported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = replicates(run)[:2]
    shutil.copy(run / "trials" / second / "checkpoint.pt", run / "trials" / first / "checkpoint.pt")
    assert main(["export", str(run), "--trial", first, "--out", str(run / "this")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{first}/checkpoint.pt: a checkpoint of another recipe (" in said and "seed: " in said
    assert main(["export", str(run), "--out", str(run / "next")]) == 0
    model = json.loads((run / "next" / "model.json").read_text())
    assert model and capsys.readouterr().out.startswith(f"{second} -> ")
