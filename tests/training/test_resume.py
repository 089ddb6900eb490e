"""A run that is stopped and resumed is the run that was not, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stssl import plugins
from stssl.algorithms.base import Algorithm
from stssl.errors import ConfigError
from stssl.training import checkpoint
from stssl.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]
ALGORITHMS = plugins.find("stssl.algorithms", Algorithm)
RECIPES: dict[str, dict[str, Any]] = {
    "drop path": {"model.drop_path_rate": 0.5, "model.depth": 2},
    "warm-up, cosine distillation": {"optimizer.warmup_steps": 3, "distillation.loss": "cosine"},
    "soft labels": {"algorithm.hard_labels": False},
    "no token": {"distillation.weight": 0},
    "half precision": {"training.precision": "bfloat16"},
    "no augmentation": {"views.strong_ops": 0, "views.flips": False, "views.crop_ratio": 1},
}


def run_in_one(trainer: Trainer) -> dict[str, Any]:
    while not trainer.finished:
        trainer.run_interval()
    return trainer.state_dict()


def run_in_pieces(make: Callable[[], Trainer], path: Path) -> dict[str, Any]:
    """Save after every interval and go on in a fresh trainer, as after a kill."""
    checkpoint.save(path, make().state_dict())  # nothing done yet: a checkpoint too
    state: dict[str, Any] = {"step": 0}
    while True:
        trainer = make()
        trainer.load_state_dict(checkpoint.load(path))
        assert trainer.step == state["step"]
        if trainer.finished:
            return trainer.state_dict()
        trainer.run_interval()
        state = trainer.state_dict()
        checkpoint.save(path, state)


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_in_every_framework(
    name: str, framework: str, task: str, make_trainer: MakeTrainer, tmp_path: Path, assert_same: Callable[..., None]
) -> None:
    overrides = {"algorithm.name": name, "framework": framework, "model.drop_path_rate": 0.3, "model.depth": 2}
    try:
        whole = run_in_one(make_trainer(task, overrides))
    except ConfigError as error:
        pytest.skip(str(error))
    assert_same(run_in_pieces(lambda: make_trainer(task, overrides), tmp_path / "c.pt"), whole)
    assert [entry["step"] for entry in whole["history"]] == [2, 4, 6]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_kind_of_recipe(
    recipe: str, make_trainer: MakeTrainer, tmp_path: Path, assert_same: Callable[..., None]
) -> None:
    overrides = RECIPES[recipe]
    whole = run_in_one(make_trainer("single", overrides))
    assert_same(run_in_pieces(lambda: make_trainer("single", overrides), tmp_path / "c.pt"), whole)


def test_evaluation_in_between_disturbs_nothing(make_trainer: MakeTrainer, assert_same: Callable[..., None]) -> None:
    overrides = {"model.drop_path_rate": 0.5, "model.depth": 2}
    quiet, watched = make_trainer("single", overrides), make_trainer("single", overrides)
    quiet.train(4)
    for step in range(1, 5):
        first = watched.evaluate()
        assert first == watched.evaluate()
        watched.evaluate("test")
        watched.train(step)
    assert_same(watched.state_dict(), quiet.state_dict())


def test_another_training_in_the_same_process_disturbs_nothing(
    make_trainer: MakeTrainer, assert_same: Callable[..., None]
) -> None:
    """All randomness is of (seed, step), none of it of torch's global generator."""
    overrides = {"model.drop_path_rate": 0.5, "model.depth": 2}
    alone, other, shared = make_trainer("single", overrides), make_trainer("multi"), make_trainer("single", overrides)
    for step in range(1, 4):
        other.train(step)
        shared.train(step)
    alone.train(3)
    assert_same(shared.state_dict(), alone.state_dict())


def test_the_seed_decides(make_trainer: MakeTrainer, assert_same: Callable[..., None]) -> None:
    first, again, other = (make_trainer("single", {"seed": seed}) for seed in (5, 5, 6))
    assert_same(first.networks.state_dict(), again.networks.state_dict())
    assert not same_tensors(first.networks, other.networks)
    for trainer in (first, again, other):
        trainer.train(3)
    assert_same(first.state_dict(), again.state_dict())
    assert not same_tensors(first.networks, other.networks)


def same_tensors(a: Any, b: Any) -> bool:
    key = "student.backbone.blocks.0.attn.qkv.weight"
    return bool((a.state_dict()[key] == b.state_dict()[key]).all())


def test_the_seed_decides_what_each_step_draws(make_trainer: MakeTrainer) -> None:
    """Seeds differ in batches and views too, not only in the weights they start from."""
    first, other = (make_trainer("single", {"seed": seed, "model.drop_path_rate": 0.5}) for seed in (5, 6))
    other.networks.load_state_dict(first.networks.state_dict())
    first.train(1)
    other.train(1)
    assert not same_tensors(first.networks, other.networks)


def test_every_view_has_randomness_of_its_own(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two views of a step, of two steps, or of two seeds share their random numbers."""
    keys: list[tuple[str, tuple[int, ...]]] = []
    for seed in (5, 6):
        trainer = make_trainer("single", {"seed": seed})
        for kinds in (("weak",), ("weak", "strong")):
            name = "pair" if len(kinds) == 2 else "weak"
            original = getattr(trainer.views, name)

            def spy(images: Any, *given: tuple[int, ...], kinds: Any = kinds, original: Any = original) -> Any:
                keys.extend(zip(kinds, given, strict=True))
                return original(images, *given)

            monkeypatch.setattr(trainer.views, name, spy)
        trainer.train(2)
    assert len(keys) == len(set(keys)) == 2 * 2 * 3  # labeled weak, unlabeled weak, unlabeled strong


def test_a_loaded_state_is_all_that_counts(
    make_trainer: MakeTrainer, tmp_path: Path, assert_same: Callable[..., None]
) -> None:
    """Also a trainer that has already trained takes over the state whole."""
    saved = make_trainer()
    saved.run_interval()
    checkpoint.save(tmp_path / "c.pt", saved.state_dict())
    used = make_trainer()
    used.run_interval()
    used.run_interval()
    used.load_state_dict(checkpoint.load(tmp_path / "c.pt"))
    assert_same(used.state_dict(), saved.state_dict())
    assert_same(run_in_one(used), run_in_one(saved))
