"""The loop: what a step uses, what it must not touch, and that it learns."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stssl.data.store import gather
from stssl.errors import ConfigError
from stssl.training.evaluate import Diverged
from stssl.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
def test_it_learns(framework: str, task: str, make_trainer: MakeTrainer, whole_stores: dict[str, Any]) -> None:
    overrides = {
        "framework": framework,
        "algorithm.name": "supervised",
        "training": {"steps": 60, "eval_interval": 60, "batch_labeled": 16, "ema_decay": 0.8},
        "data.labeled.count": None,
    }
    trainer = make_trainer(task, overrides, whole_stores[task])
    metric = "accuracy" if task == "single" else "map_macro"
    before = trainer.evaluate()[metric]
    after = trainer.run_interval()["validation"][metric]
    assert after > 0.9 and after > before


def test_it_learns_from_unlabeled_images(make_trainer: MakeTrainer, whole_stores: dict[str, Any]) -> None:
    """Two labels a class are enough when the pseudo-labels are right."""
    overrides = {"framework": "plain", "data.labeled": {"per_class": 2}, "algorithm.threshold": 0.8}
    overrides["training"] = {
        "steps": 60,
        "eval_interval": 60,
        "batch_labeled": 6,
        "batch_unlabeled": 24,
        "ema_decay": 0.8,
    }
    result = make_trainer("single", overrides, whole_stores["single"]).run_interval()
    assert result["validation"]["accuracy"] > 0.9
    assert 0.1 < result["train"]["mask_rate"] <= 1


def test_losses_are_means_over_the_steps(make_trainer: MakeTrainer) -> None:
    whole, single = make_trainer(), make_trainer()
    means, *each = (
        {key: value for key, value in losses.items() if "pseudo" not in key}  # which are no means: see test_quality.py
        for losses in (whole.train(3), single.train(1), single.train(2), single.train(3))
    )
    assert means.keys() == each[0].keys()
    for key, value in means.items():
        assert value == pytest.approx(sum(losses[key] for losses in each) / 3, rel=1e-5)
    total = sum(value for key, value in means.items() if "/" in key)  # distillation weight 1
    assert means["loss"] == pytest.approx(total, rel=1e-5)


def test_history(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    seen: list[int] = []
    entry = trainer.run_interval(seen.append)
    assert seen == [1, 2] and trainer.history == [entry]
    assert entry["step"] == 2 and entry["seconds"] > 0
    assert entry["validation"] == trainer.evaluate("validation")
    assert "loss" in entry["train"]
    trainer.train(5)
    assert not trainer.finished
    assert trainer.run_interval()["step"] == 6 and trainer.finished  # the last interval ends at the last step


def test_beyond_the_end(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ConfigError, match=r"step 7 is beyond training.steps 6"):
        make_trainer().train(7)


# --- who sees what --------------------------------------------------------------------------------------------------


def parts(trainer: Trainer, role: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in trainer.networks.state_dict().items() if key.startswith(role)}


def test_distillation_never_reaches_the_teacher(make_trainer: MakeTrainer, assert_same: Callable[..., None]) -> None:
    weak, strong = (make_trainer("single", {"distillation.weight": weight}) for weight in (0.001, 100))
    assert_same(parts(weak, "student"), parts(strong, "student"))
    weak.train(3)
    strong.train(3)
    assert_same(parts(weak, "teacher"), parts(strong, "teacher"))
    moved = [
        key for key, value in parts(weak, "student").items() if not torch.equal(value, parts(strong, "student")[key])
    ]
    assert moved


def test_distillation_brings_the_students_features_to_the_teachers(make_trainer: MakeTrainer) -> None:
    base = {"training": {"steps": 30, "eval_interval": 30}, "algorithm.name": "supervised"}
    far, near = (make_trainer("single", {**base, "distillation.weight": weight}) for weight in (1e-6, 10))
    for trainer in (far, near):
        trainer.train(25)
    assert near.train(30)["student/distillation"] < 0.7 * far.train(30)["student/distillation"]


def test_supervised_draws_no_unlabeled_images(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, set[int]] = {}
    for name in ("supervised", "fixmatch"):
        trainer = make_trainer("single", {"algorithm.name": name})
        rows = drawn[name] = set()
        original = trainer.dataset.batch

        def spy(indices: Any, out: Any = None, original: Any = original, rows: set[int] = rows) -> Any:
            rows.update(int(index) for index in indices)
            return original(indices, out)

        monkeypatch.setattr(trainer.dataset, "batch", spy)
        trainer.train(4)
        split = trainer.dataset.split
        assert not rows & {*split.validation.tolist(), *split.test.tolist()}
    labeled = set(trainer.dataset.split.labeled.tolist())
    assert drawn["supervised"] <= labeled and drawn["fixmatch"] - labeled


def test_only_evaluate_reads_the_test_split(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    seen: set[int] = set()
    monkeypatch.setattr(
        "stssl.data.dataset.gather",
        lambda images, rows, *rest: (seen.update(rows.tolist()), gather(images, rows, *rest))[1],
    )
    for _ in range(3):
        trainer.run_interval()
    test = set(trainer.dataset.split.test.tolist())
    assert seen and not seen & test
    trainer.evaluate("test")
    assert test <= seen


def test_the_deployed_students_score_does_not_depend_on_metadata(
    make_trainer: MakeTrainer, stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for framework, same in (("teacher_student", True), ("plain", True), ("metadata_input", False)):
        trainer = make_trainer("single", {"framework": framework})
        trainer.train(6)
        before = trainer.evaluate()["loss"]
        with monkeypatch.context() as patch:
            patch.setattr(stores["single"], "place", -stores["single"].place)
            patch.setattr(stores["single"], "time", stores["single"].time + 100)
            after = trainer.evaluate()["loss"]
        assert (before == after) is same


def test_evaluation_uses_the_moving_average(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train(2)
    before = trainer.evaluate()
    with torch.no_grad():
        for parameter in trainer.networks.parameters():
            parameter.zero_()
    assert trainer.evaluate() == before
    with torch.no_grad():
        for parameter in trainer.ema.module.parameters():
            parameter.zero_()
    assert trainer.evaluate()["loss"] == pytest.approx(math.log(3))


def test_drop_path_is_off_in_evaluation_and_on_in_training(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("single", {"model.drop_path_rate": 0.9, "model.depth": 3})
    torch.manual_seed(0)
    first = trainer.evaluate()
    torch.manual_seed(1)
    assert trainer.evaluate() == first
    trainer.train(1)
    assert trainer.networks.training and not trainer.ema.module.training


# --- what may go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["single", "multi"])
def test_divergence_is_noticed(task: str, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(task)
    trainer.train(1)
    with torch.no_grad():
        trainer.networks.student.backbone.head.weight[0, 0] = math.inf
    with pytest.raises(Diverged, match=r"student/supervised became (nan|inf) between steps 1 and 3"):
        trainer.run_interval()
    assert not trainer.history


def test_a_huge_learning_rate_diverges(make_trainer: MakeTrainer) -> None:
    plain = {"framework": "plain", "algorithm.name": "supervised"}
    trainer = make_trainer("single", {**plain, "optimizer.lr": 1e6, "training": {"steps": 200, "eval_interval": 200}})
    with pytest.raises(Diverged):
        trainer.run_interval()


def test_divergence_is_seen_every_hundred_steps(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        "single",
        {"algorithm.name": "supervised", "framework": "plain", "training": {"steps": 1000, "eval_interval": 1000}},
    )
    trainer.train(95)
    with torch.no_grad():
        trainer.networks.student.backbone.head.bias[0] = math.nan
    with pytest.raises(Diverged):
        trainer.run_interval()
    assert trainer.step == 100


@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
def test_half_precision(framework: str, make_trainer: MakeTrainer) -> None:
    half, whole = (
        make_trainer("single", {"framework": framework, "training.precision": p}) for p in ("bfloat16", "float32")
    )
    losses, expected = half.train(2), whole.train(2)
    assert losses.keys() == expected.keys()
    assert losses["loss"] == pytest.approx(expected["loss"], rel=0.05) and losses != expected
    assert all(parameter.dtype == torch.float32 for parameter in half.networks.parameters())
    assert all(math.isfinite(value) for value in half.evaluate().values())


def test_an_algorithm_that_refuses_the_task(make_trainer: MakeTrainer) -> None:
    pair = {"algorithm.threshold_negative": 0.05, "algorithm.threshold_positive": 0.7}
    make_trainer("multi", pair)
    with pytest.raises(ConfigError, match=r"algorithm.threshold_positive: only for data with several labels"):
        make_trainer("single", pair)
