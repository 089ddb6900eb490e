"""What is trained is asked about other data: the exported student and the folder that `train` leaves answer alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stssl.errors import CheckpointError, ConfigError, DataError
from stssl.export import bundle
from stssl.training import checkpoint, deployed
from stssl.training.trainer import Trainer

Score = Callable[..., dict[str, float]]


@pytest.fixture(params=["student", "training"])
def score(request: pytest.FixtureRequest, trainer: Trainer, tmp_path: Path) -> Score:
    """Scores a trainer's network as its users would: `score(shards)`, `score(trainer=another)`."""

    def of(shards: Path | None = None, trainer: Trainer = trainer) -> dict[str, float]:
        where = None if shards is None else str(shards)
        if request.param == "student":
            bundle.write(trainer, tmp_path / "student", "Made by a test.", [])
            return bundle.evaluate(tmp_path / "student", where, "validation")
        checkpoint.save(tmp_path / "checkpoint.pt", trainer.state_dict())
        loaded, correction = deployed.load(tmp_path, where)
        return loaded.evaluate("validation", correction)

    return of


def test_its_own_data(score: Score, trainer: Trainer) -> None:
    own = pytest.approx(trainer.evaluate())
    assert score() == own
    assert score(Path(trainer.recipe.data.shards)) == own


def test_bands_are_taken_by_name(score: Score, trainer: Trainer, shards: Callable[..., Path]) -> None:
    """Shards with the same bands in another order give the same scores, not nonsense."""
    assert score(shards("single", order=(2, 0, 1))) == pytest.approx(trainer.evaluate())


@pytest.mark.parametrize(
    "task, options, said",
    [
        ("single", {"order": (0, 2)}, "has no band B03, which the network was trained on; it has B04, B02"),
        (
            "single",
            {"classes": ("field", "lake", "village")},
            "its 3 classes are not the 3 of the network; the first difference: 'village' there, 'town' here",
        ),
        ("multi", {}, "several labels per image, but the network was trained on one label"),
    ],
)
def test_other_data(score: Score, shards: Callable[..., Path], task: str, options: dict[str, Any], said: str) -> None:
    other = shards(task, **options)
    with pytest.raises(ConfigError) as caught:
        score(other)
    assert str(caught.value).startswith(f"{other}: {said}")


def test_a_budget_of_validation_labels_is_of_the_own_data(
    score: Score, trained: Callable[..., Trainer], shards: Callable[..., Path]
) -> None:
    trainer = trained("single", {"data.validation_budget": {"count": 7}})
    assert score(trainer=trainer)["count"] == 7
    copy = shards("single")  # the same data in another place
    assert score(copy, trainer)["count"] == 7
    assert score(shards("single", order=(2, 1, 0)), trainer)["count"] > 7


def test_what_the_algorithm_adds(score: Score, trained: Callable[..., Trainer]) -> None:
    trainer = trained("single", {"algorithm": "cdmad"})
    correction = trainer.correction()
    assert correction is not None and correction.abs().max() > 0
    assert score(trainer=trainer) == pytest.approx(trainer.evaluate(), abs=1e-5)


def test_shards_that_changed(trainer: Trainer, tmp_path: Path) -> None:
    state = {**trainer.state_dict(), "fingerprint": "0" * 64}
    checkpoint.save(tmp_path / "checkpoint.pt", state)
    with pytest.raises(DataError, match=r"changed since the training .*; if that is meant, say --shards "):
        deployed.load(tmp_path)
    deployed.load(tmp_path, trainer.recipe.data.shards)


STRANGE = {
    "recipe": ["{", "[]", None, 3], "digest": [None, 3], "fingerprint": [None, b"x"], "task": ["both", None],
    "classes": [None, 7, [1]], "bands": [3, ["B04"]], "band_mean": [[1.0], None, ["x"]], "band_std": [[1.0], 2.0],
    "step": ["x", None, -1, True, 1.5], "networks": [None, [1]], "ema": [None, {"a": 1}], "algorithm": [None],
    "correction": [1.0, "x"], "optimizer": [None, []], "history": [None, [1]],
}  # fmt: skip


@pytest.mark.parametrize("key, value", [(key, value) for key, values in STRANGE.items() for value in values])
def test_strange_parts(key: str, value: Any, trainer: Trainer, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoint.pt", {**trainer.state_dict(), key: value})
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: damaged: its "):
        deployed.load(tmp_path)


def test_parts_that_are_missing_or_do_not_fit(trainer: Trainer, tmp_path: Path) -> None:
    state, path = trainer.state_dict(), tmp_path / "checkpoint.pt"
    assert set(state) == set(checkpoint.PARTS)
    for key in state:
        checkpoint.save(path, {k: v for k, v in state.items() if k != key})
        with pytest.raises(CheckpointError, match=f"its part '{key}' is missing"):
            deployed.load(tmp_path)
    checkpoint.save(path, {**state, "ema": {"head": torch.ones(1)}})
    with pytest.raises(CheckpointError, match="its weights are not those of this version"):
        deployed.load(tmp_path)
    recipe = json.loads(state["recipe"])
    checkpoint.save(path, {**state, "recipe": json.dumps({**recipe, "frame": 1})})
    with pytest.raises(ConfigError, match=r"checkpoint.pt: recipe: unknown key 'frame'"):
        deployed.load(tmp_path)
