"""How right pseudo-labels are, by hand; and that looking changes nothing."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl.algorithms.base import Targets
from stssl.training.quality import Quality, hard, judge, quality
from stssl.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]


def numbers(found: Quality) -> tuple[float, ...]:
    return tuple(float(value) for value in found)


def test_single_label_by_hand() -> None:
    labels, truth = torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([0, 2, 2, -1, 1, 1])
    # believed in full: 0 (right), 1 (wrong), 3 (unknown); by half: 2 (right); not at all: 4 (right), 5 (wrong)
    weights = torch.tensor([1.0, 1.0, 0.5, 1.0, 0.0, 0.0])
    assert numbers(quality(labels, weights, truth, "single")) == (1.5, 2.5, 5)


def test_multi_label_by_hand() -> None:
    labels = torch.tensor([[True, True, False], [True, False, False]])
    weights = torch.tensor([[1.0, 0.5, 1.0], [0.25, 1.0, 1.0]])
    truth = torch.tensor([[1.0, 0.0, 1.0], [1.0, -1.0, 1.0]])
    # true positives 1 and 0.25; the positive of weight 0.5 is wrong; two of the four that are there are called negative
    assert numbers(quality(labels, weights, truth, "multi")) == (1.25, 1.75, 4)
    truth[0, 0] = -1  # believed positive, and nobody knows
    assert numbers(quality(labels, weights, truth, "multi")) == (0.25, 0.75, 3)


def test_soft_labels_count_as_their_hard_ones() -> None:
    soft = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])
    assert hard(soft, "single").tolist() == hard(torch.tensor([1, 0]), "single").tolist() == [1, 0]
    assert hard(torch.tensor([[0.5, 0.49]]), "multi").tolist() == [[True, False]]
    assert hard(torch.tensor([[0.0, -0.01]]), "multi", cut=0).tolist() == [[True, False]]


def test_judge_by_hand() -> None:
    targets = Targets(torch.tensor([0, 1, 1, 0]), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    labels, hidden = torch.tensor([0, 0, 1, 0]), torch.tensor([True, True, True, False])  # the last is a labeled image
    student = torch.eye(2)[[0, 0, 0, 1]]
    found = judge(targets, {"student": student}, labels, hidden, "single")
    assert {name: numbers(pair) for name, pair in found.items()} == {
        "pseudo/precision": (1, 2), "pseudo/recall": (1, 3),
        "student/pseudo_precision": (2, 2), "student/pseudo_recall": (2, 3),
    }  # fmt: skip


@pytest.mark.parametrize("task", ["single", "multi"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999))
def test_shares(task: str, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    if task == "single":
        labels, truth = (torch.randint(low, 3, (20,), generator=random) for low in (0, -1))
        weights = torch.rand(20, generator=random)
    else:
        labels = torch.rand(20, 3, generator=random) < 0.5
        truth, weights = torch.randint(-1, 2, (20, 3), generator=random).float(), torch.rand(20, 3, generator=random)
    found = quality(labels, weights, truth, task)
    assert 0 <= found.right <= found.believed and found.right <= found.there
    none, all_ = quality(labels, 0 * weights, truth, task), quality(labels, 0 * weights + 1, truth, task)
    assert numbers(none) == (0, 0, found.there)
    known = truth >= 0
    if task == "single":
        assert all_.right == (labels == truth).sum() and all_.believed == all_.there == known.sum()
    else:
        assert all_.right == (labels & (truth == 1)).sum() and all_.believed == (labels & known).sum()
    perfect = quality(truth.clamp(min=0) if task == "single" else truth == 1, 0 * weights + 1, truth, task)
    assert perfect.right == perfect.believed == perfect.there
    half = [quality(labels[part], weights[part], truth[part], task) for part in (slice(0, 7), slice(7, None))]
    assert numbers(found) == pytest.approx([float(a + b) for a, b in zip(*half, strict=True)], rel=1e-5)


@pytest.mark.parametrize("framework, roles", [("plain", 1), ("metadata_input", 1), ("teacher_student", 2)])
@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_record_of_a_training(task: str, framework: str, roles: int, make_trainer: MakeTrainer) -> None:
    train = make_trainer(task, {"framework": framework, "algorithm.threshold": 0.0}).run_interval()["train"]
    judged = {name: value for name, value in train.items() if "pseudo" in name}
    assert len(judged) == 2 + 2 * roles and all(0 <= value <= 1 for value in judged.values())
    assert train["mask_rate"] == 1
    if task == "single":  # all are believed
        assert train["pseudo/precision"] == train["pseudo/recall"]


def test_an_interval_is_a_ratio_of_sums(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    for right, of in ((1.0, 1.0), (0.0, 3.0)):
        trainer._note("x", torch.tensor(right), torch.tensor(of))
        trainer._note("nothing", torch.tensor(0.0), torch.tensor(0))
        trainer._note("mean", torch.tensor(right))
    assert trainer.record() == {"x": 1 / 4, "mean": 1 / 2}


def test_what_is_not_defined_is_left_out(make_trainer: MakeTrainer) -> None:
    train = make_trainer(overrides={"algorithm.threshold": 1.0}).run_interval()["train"]
    assert train["mask_rate"] == train["pseudo/recall"] == 0 and "pseudo/precision" not in train
    assert all(math.isfinite(value) for value in json.loads(json.dumps(train, allow_nan=False)).values())
    everything = {"data.labeled.count": None, "data.split.test": 0}  # no label is hidden but the unknown ones
    train = make_trainer(overrides=everything).run_interval()["train"]
    assert "mask_rate" in train and not any("pseudo" in name for name in train)


def test_hidden_labels_change_nothing_but_the_record(
    make_trainer: MakeTrainer, stores: dict[str, Any], assert_same: Callable[..., None]
) -> None:
    plain = make_trainer()
    hidden = torch.as_tensor(plain.dataset.split.unlabeled)[plain._hidden.cpu()]
    assert len(hidden) > 10
    labels = stores["single"].labels.clone()
    labels[hidden] = torch.where(labels[hidden] >= 0, (labels[hidden] + 1) % 3, -1)
    other = make_trainer()
    other.dataset.store = other.dataset.store.__class__(**{**vars(other.dataset.store), "labels": labels})
    first, second = plain.run_interval(), other.run_interval()
    assert first["train"]["pseudo/recall"] != second["train"]["pseudo/recall"]
    assert first["validation"] == second["validation"]
    for name in ("networks", "ema", "optimizer", "algorithm"):
        assert_same(plain.state_dict()[name], other.state_dict()[name], name)
