"""Several processes train one recipe."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stssl.data.dataset import Dataset
from stssl.data.prepare import prepare
from stssl.training.recipe import Recipe
from stssl.training.team import Leader, Team
from stssl.training.trainer import Trainer
from tests.export.conftest import StoreSource


@pytest.fixture(scope="module")
def folder(whole_stores: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("team")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STSSL_CACHE", str(home / "cache"))  # the other processes inherit it
        prepare(StoreSource(whole_stores["single"]), home / "shards")
        yield home


@pytest.fixture(scope="module")
def team(folder: Path) -> Iterator[Leader]:
    team = Leader(3)
    yield team
    team.close()


@pytest.fixture
def trainer_of(folder: Path, make_recipe: Callable[..., Recipe]) -> Callable[..., Trainer]:
    def make(changes: dict[str, Any], team: Team | None = None) -> Trainer:
        recipe = make_recipe({"data.shards": str(folder / "shards"), **changes})
        return Trainer(recipe, Dataset.open(recipe.data), team=team)

    return make


WAYS: dict[str, dict[str, Any]] = {
    "token, batches that do not divide": {"training.batch_unlabeled": 11, "distillation.rampup_steps": 0},
    "feature, through a predictor": {"injection": {"name": "film"}, "distillation.on": "pooled"},
    "metadata alone": {"framework": "metadata_input", "algorithm": {"name": "freematch"}},
    "targets of the moving average": {"training.target_source": "ema", "algorithm": {"name": "softmatch"}},
}


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_three_processes_train_what_one_trains(
    changes: dict[str, Any], team: Leader, trainer_of: Callable[..., Trainer]
) -> None:
    alone, shared = trainer_of(changes), trainer_of(changes, team)
    for _ in range(2):
        ours, theirs = shared.run_interval(), alone.run_interval()
        assert ours["train"] == pytest.approx(theirs["train"], rel=1e-3, abs=1e-4)
        assert ours["validation"] == pytest.approx(theirs["validation"], rel=1e-3, abs=1e-4, nan_ok=True)
    for name, value in alone.networks.state_dict().items():
        if name.endswith("qkv.bias"):
            continue  # a key's bias has no gradient but rounding, of which Adam makes full steps
        torch.testing.assert_close(shared.networks.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)

    resumed = trainer_of(changes, team)  # from a checkpoint, which knows of no team
    resumed.load_state_dict(copy.deepcopy(alone.state_dict()))
    ours, theirs = resumed.run_interval(), alone.run_interval()
    assert ours["train"] == pytest.approx(theirs["train"], rel=1e-3, abs=1e-4)


def test_each_process_and_pass_drops_other_units(team: Leader) -> None:
    other = Team.__new__(Team)
    other.rank, other.size, other.device = 1, 3, team.device
    drawn = []
    for member in (team, other):
        torch.manual_seed(5)
        for _ in range(2):
            with member._own_randomness():
                drawn.append(torch.rand(3))
        after = torch.rand(3)
    torch.manual_seed(5)
    for _ in range(2):
        with team._own_randomness():
            pass
    assert torch.equal(after, torch.rand(3))
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 4


def test_batch_normalisation_has_one_set_of_statistics(team: Leader, trainer_of: Callable[..., Trainer]) -> None:
    """Each process scores its rows; with statistics of its own it would score them otherwise than the first one alone does."""
    changes = {"model": {"name": "test_resnet", "image_size": 32}, "injection": {"name": "film"}}
    shared, alone = trainer_of(changes, team), trainer_of(changes)
    together = shared.run_interval()["validation"]
    alone.load_state_dict(shared.state_dict())
    assert alone.evaluate() == pytest.approx(together, rel=1e-4, nan_ok=True)


PARENT = """
import sys
from stssl.training import team
team.GRACE_SECONDS = 1.0
if __name__ == "__main__":
    leader = team.Leader(2)
    print(leader._others[0].pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("victim", ["leader", "other"])
def test_none_outlives_the_others(victim: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    leader = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert leader.stdout is not None
    other = int(leader.stdout.readline())
    os.kill(leader.pid if victim == "leader" else other, signal.SIGKILL)
    assert leader.wait(30) != 0
    end = time.monotonic() + 30
    while Path(f"/proc/{other}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{other}").exists()


FAULT = """
import torch
from stssl.training.team import Leader
if __name__ == "__main__":
    leader = Leader(2)
    leader.tell("load", "nowhere.pt")  # before anything was made: it raises
    print(leader.explain(RuntimeError("Connection closed by peer")))
    print(leader.explain(torch.OutOfMemoryError("no room"))[0])
    leader.close()
"""


def test_a_fault_of_another_process_is_told(tmp_path: Path) -> None:
    """The leader only hears that a connection is closed, or nothing at all."""
    (tmp_path / "fault.py").write_text(FAULT)
    done = subprocess.run(
        [sys.executable, tmp_path / "fault.py"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["('raised', 'AssertionError: ')", "out_of_memory"]
