"""Run folders that came from somebody else: nothing beside them is touched, and one sentence says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stssl.data.shards import read_card
from stssl.search import run_folder
from stssl.search.config import SearchConfig
from tests.cli.conftest import launch, search_of

FOREIGN = "../../victim"


@pytest.fixture
def run(shards: Path, write: Callable[..., Path], tmp_path: Path) -> Path:
    """A search that has not begun, beside a folder of somebody's."""
    run_folder.create(tmp_path / "run", SearchConfig.read(write(search_of(shards))), read_card(shards))
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.tex").write_text("years of work")
    (tmp_path / "run" / "trials").mkdir()
    return tmp_path / "run"


def test_two_foreign_lines_delete_nothing(run: Path) -> None:
    """A failed trial's weights go, at every start of a driver."""
    created = {
        "event": "created",
        "trial": FOREIGN,
        "kind": "search",
        "params": {},
        "recipe": {"framework": "plain"},
        "time": 1.0,
    }
    failed = {"event": "failed", "trial": FOREIGN, "kind": "raised", "reason": "", "time": 2.0}
    (run / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in (created, failed)))
    done = launch("resume", run, "--cpus", "1")
    assert (run.parent / "victim" / "thesis.tex").read_text() == "years of work"
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert f"{run}/ledger.jsonl, line 1: " in done.stderr and f"'{FOREIGN}'" in done.stderr


@pytest.mark.soak
def test_a_link_in_place_of_the_trials_deletes_nothing(run: Path) -> None:
    (run / "trials").rmdir()
    (run / "trials").symlink_to(run.parent)
    (run.parent / "victim").rename(run.parent / "t0001")
    created = {
        "event": "created",
        "trial": "t0001",
        "kind": "search",
        "params": {"framework": "plain", "optimizer.lr": 0.001},
        "recipe": {**run_folder.load(run)[0].recipe, "framework": "plain"},
        "time": 1.0,
    }
    failed = {"event": "failed", "trial": "t0001", "kind": "raised", "reason": "", "time": 2.0}
    (run / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in (created, failed)))
    done = launch("resume", run, "--cpus", "1")
    assert (run.parent / "t0001" / "thesis.tex").read_text() == "years of work"
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "run/trials/t0001: leads out of" in done.stderr and "through a symbolic link" in done.stderr
