"""What algorithms remember of single images: folds that rest in turn, and an image twice in a batch."""

import pytest
import torch

from stssl.algorithms.base import Logits
from tests.algorithms.asking import BOTH, make, one, say, seen, several

# Folds


@pytest.mark.parametrize("name", ["metric_threshold", "precision_weight"])
@pytest.mark.parametrize("task", BOTH)
def test_folds_take_turns(name: str, task: str) -> None:
    algorithm = make(name, task, folds=3, rest_steps=2, labeled=7)
    labeled = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    y = torch.ones(7, dtype=torch.int64) if task == "single" else torch.ones(7, 2)
    turns = []
    for step in range(12):
        logits = labeled.clone().requires_grad_()
        targets = algorithm.believe(seen(labeled, labeled, y, rows=torch.arange(7)), step)
        turns.append(targets.resting.tolist())
        algorithm.losses(Logits(logits, labeled), y, targets, "student", step)["supervised"].backward()
        assert logits.grad is not None
        assert ((logits.grad == 0).all(1) == targets.resting).all()
        recorded = (algorithm.record.p >= 0).all(1)
        assert recorded.tolist() == [any(column) for column in zip(*turns, strict=True)]
    assert [turns[i] == turns[i + 1] for i in range(0, 12, 2)] == [True] * 6
    assert turns[:6] == turns[6:]
    assert [sum(column) for column in zip(*turns[:6], strict=True)] == [2] * 7  # each rests in one turn of the three
    assert {sum(turn) for turn in turns} == {2, 3}


def test_folds_go_through_all_classes() -> None:
    """A pool in the order of its classes: as many labels of a class rest in one turn as in another, within chance."""
    fold = make("metric_threshold", folds=5, labeled=500).record.fold
    assert torch.bincount(fold).tolist() == [100] * 5
    counts = torch.stack([torch.bincount(fold[start : start + 50], minlength=5) for start in range(0, 500, 50)])
    assert counts.min() >= 3 and counts.max() <= 20  # 10 expected
    assert torch.equal(fold, make("precision_weight", folds=5, labeled=500).record.fold)  # the same in every training


def test_a_resting_label_is_recorded() -> None:
    """Hidden from the loss, not from the record; an unresting image keeps what was recorded before."""
    algorithm = make("precision_weight", folds=2, rest_steps=1, labeled=2)
    y = torch.tensor([0, 1])
    for step, p in ((0, 0.7), (1, 0.8), (2, 0.9)):
        algorithm.believe(seen(one([0.5, 0.5]), one([p, 1 - p], [p, 1 - p]), y), step)
    assert sorted(algorithm.record.p[:, 0].tolist()) == say([0.8, 0.9])
    assert algorithm.record.y.tolist() == [[1, 0], [0, 1]]


def test_all_rest() -> None:
    """A batch of resting images only: no supervised loss, and a gradient of 0."""
    algorithm = make("metric_threshold", folds=2, rest_steps=1, labeled=4)
    y = torch.tensor([0, 1])
    for step in (0, 1):
        logits = one([0.6, 0.4], [0.3, 0.7]).requires_grad_()
        rows = (algorithm.record.fold == 0).nonzero().flatten()
        targets = algorithm.believe(seen(logits.detach(), logits.detach(), y, labeled_rows=rows), step)
        loss = algorithm.losses(Logits(logits, logits.detach()), y, targets, "teacher", step)["supervised"]
        loss.backward()
        assert logits.grad is not None
        rests = bool(targets.resting.all())
        assert rests != (not targets.resting.any())
        assert (loss.item() == 0) == rests == bool((logits.grad == 0).all())


# An image twice in a batch


def test_flexmatch_twice() -> None:
    algorithm = make("flexmatch", threshold=0.8, unlabeled=3)
    rows = torch.tensor([1, 0, 1])
    algorithm.believe(seen(one([0.9, 0.1], [0.1, 0.9], [0.1, 0.9]), rows=rows), 0)
    assert algorithm.learned.tolist() == [1, 1, -1]
    algorithm.believe(seen(one([0.1, 0.9], [0.9, 0.1], [0.9, 0.1]), rows=rows), 1)
    assert algorithm.learned.tolist() == [0, 0, -1]


@pytest.mark.parametrize("task", BOTH)
def test_flexmatch_twice_and_once_confident(task: str) -> None:
    """The latest CONFIDENT prediction counts: an unsure one does not erase it, in the same batch neither."""
    algorithm = make("flexmatch", task, threshold=0.8, unlabeled=3)
    weak = one([0.1, 0.9], [0.45, 0.55]) if task == "single" else several([0.9, 0.1], [0.55, 0.45])
    algorithm.believe(seen(weak, rows=torch.tensor([1, 1])), 0)
    assert algorithm.learned.tolist() == ([-1, 1, -1] if task == "single" else [[-1, -1], [1, 0], [-1, -1]])


@pytest.mark.parametrize("folds", [0, 2])
def test_crossfit_twice(folds: int) -> None:
    algorithm = make("precision_weight", folds=folds, rest_steps=1, labeled=2)
    labeled, y = one([0.7, 0.3], [0.8, 0.2], [0.9, 0.1]), torch.tensor([0, 0, 0])
    for step in (0, 1):
        algorithm.believe(seen(labeled, labeled, y, labeled_rows=torch.tensor([1, 0, 1])), step)
    assert algorithm.record.p[:, 0].tolist() == say([0.8, 0.9])
