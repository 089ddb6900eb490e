"""Scores, by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl.data.dataset import Dataset
from stssl.data.store import ImageStore
from stssl.errors import ConfigError
from stssl.training.evaluate import METRICS, Diverged, evaluate, predict, scores
from stssl.training.recipe import Recipe


def one_hot(classes: list[int], k: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), k).float() * 10


def test_single_label_by_hand() -> None:
    # class 0: 2 of 3 right; class 1: 1 of 1; class 2: 0 of 1
    result = scores(one_hot([0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 2]), "single")
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert result["f1_macro"] == pytest.approx((2 * 2 / (3 + 3) + 2 * 1 / (2 + 1) + 0) / 3)
    right = math.log(1 + 2 * math.exp(-10))
    assert result["loss"] == pytest.approx((3 * right + 2 * (10 + right)) / 5, rel=1e-5)
    assert result["count"] == 5 and result["classes_absent"] == 0


def test_single_label_absent_class_is_reported_not_scored() -> None:
    result = scores(one_hot([0, 1, 1, 0], 5), torch.tensor([0, 1, 1, 1]), "single")
    assert result["classes_absent"] == 3
    assert result["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_single_label_unknown_is_ignored() -> None:
    known = scores(one_hot([0, 1]), torch.tensor([0, 0]), "single")
    assert scores(one_hot([0, 1, 2, 2]), torch.tensor([0, 0, -1, -1]), "single") == known
    assert known["count"] == 2


def test_multi_label_by_hand() -> None:
    # ranks of class 0: + - + -, AP = (1/1 + 2/3) / 2; of class 1: - + + -, AP = (1/2 + 2/3) / 2
    logits = torch.tensor([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0], [-1.0, -1.0]])
    labels = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    result = scores(logits, labels, "multi")
    assert result["map_macro"] == pytest.approx(((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    # both together, ties merged: 1 of 2, 2 of 4, 4 of 6
    assert result["map_micro"] == pytest.approx(1 / 4 * 1 / 2 + 1 / 4 * 2 / 4 + 2 / 4 * 4 / 6)
    assert result["f1_macro"] == pytest.approx(2 * 2 / (3 + 2))  # three above p = 0.5, two of them right, both classes
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert result["loss"] == pytest.approx(float(expected))
    assert result["count"] == 4 and result["classes_absent"] == 0


def test_f1_cuts_probabilities_not_logits() -> None:
    logits = torch.tensor([[0.2], [-0.2]])  # 0.2 is p = 0.55
    assert scores(logits, torch.tensor([[1.0], [0.0]]), "multi")["f1_macro"] == 1


def test_multi_label_best_and_worst() -> None:
    labels = (torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    best, worst = scores(20 * labels - 10, labels, "multi"), scores(10 - 20 * labels, labels, "multi")
    assert best["map_macro"] == best["map_micro"] == best["f1_macro"] == 1
    assert best["loss"] < 1e-3
    assert worst["f1_macro"] == 0 and worst["map_micro"] == pytest.approx(float(labels.mean()))  # all tied, all wrong
    assert worst["loss"] > 9


def test_multi_label_absent_class_is_reported_not_scored() -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    labels = (torch.rand(20, 3, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    labels[:, 1] = 0
    result, present = scores(logits, labels, "multi"), scores(logits[:, [0, 2]], labels[:, [0, 2]], "multi")
    assert result["classes_absent"] == 1
    assert result["map_macro"] == present["map_macro"] and result["f1_macro"] == present["f1_macro"]


def test_multi_label_unknown_entries_are_ignored() -> None:
    random = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(30, 3, generator=random), (torch.rand(30, 3, generator=random) < 0.5).float()
    whole = scores(logits, labels, "multi")
    more_logits = torch.cat([logits, torch.randn(10, 3, generator=random)])
    unknown = torch.cat([labels, torch.full((10, 3), -1.0)])
    assert scores(more_logits, unknown, "multi") == pytest.approx(whole)
    assert whole["count"] == 30
    labels[::3, 1] = -1
    other = logits.clone()
    other[::3, 1] = 9
    assert scores(logits, labels, "multi") == scores(other, labels, "multi")
    assert scores(logits, labels, "multi")["count"] == 30  # each image still has a known entry


def test_no_positive_at_all_is_not_a_number_not_zero() -> None:
    result = scores(torch.zeros(4, 3), torch.zeros(4, 3), "multi")
    assert result["classes_absent"] == 3
    assert all(math.isnan(result[key]) for key in ("map_macro", "map_micro", "f1_macro"))


@pytest.mark.parametrize("task", ["single", "multi"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), order=st.permutations(range(4)))
def test_the_order_of_classes_and_images_means_nothing(task: str, seed: int, order: list[int]) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(25, 4, generator=random)
    rows = torch.randperm(25, generator=random)
    if task == "single":
        labels = torch.randint(-1, 4, (25,), generator=random)
        permuted = torch.where(labels >= 0, torch.tensor(order).argsort()[labels.clamp(min=0)], -1)
    else:
        labels = torch.randint(-1, 2, (25, 4), generator=random).float()
        permuted = labels[:, order]
    first, second = scores(logits, labels, task), scores(logits[:, order][rows], permuted[rows], task)
    assert first == pytest.approx(second, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_what_a_search_may_optimise_is_scored(task: str) -> None:
    labels = torch.tensor([0, 1, 2]) if task == "single" else torch.eye(3)
    result = scores(torch.eye(3), labels, task)
    assert METRICS[task].keys() <= result.keys()
    assert METRICS[task]["loss"] is False and all(v for k, v in METRICS[task].items() if k != "loss")


def test_predict_keeps_the_order_and_makes_no_graph(
    stores: dict[str, ImageStore], make_recipe: Callable[..., Recipe]
) -> None:
    dataset = Dataset(make_recipe().data, stores["single"])
    weight = torch.ones(3, requires_grad=True)
    rows = np.array([5, 3, 9, 1, 0])
    logits, labels = predict(
        lambda batch: (batch.images.float().mean((2, 3)) * weight).bfloat16(), dataset.iterate(rows, 2)
    )
    assert not logits.requires_grad and logits.dtype == torch.float32 and logits.shape == (5, 3)
    assert torch.equal(labels, stores["single"].labels[rows])


def test_splits(stores: dict[str, ImageStore], make_recipe: Callable[..., Recipe]) -> None:
    dataset = Dataset(make_recipe().data, stores["single"])
    seen: list[int] = []

    def network(batch: object) -> torch.Tensor:
        seen.append(len(batch.labels))
        return torch.zeros(len(batch.labels), 3)

    for split in ("validation", "test"):
        seen.clear()
        result = evaluate(network, dataset, split, batch_size=4)
        assert sum(seen) == len(getattr(dataset.split, split)) == result["count"] and max(seen) == 4
        assert result["loss"] == pytest.approx(math.log(3))
    for split in ("labeled", "unlabeled", "train"):
        with pytest.raises(ConfigError, match=f"split '{split}' is unknown; known: "):
            evaluate(network, dataset, split)
    with pytest.raises(Diverged, match="not finite"):
        evaluate(lambda batch: torch.full((len(batch.labels), 3), torch.nan), dataset, "validation")


def test_no_test_split(stores: dict[str, ImageStore], make_recipe: Callable[..., Recipe]) -> None:
    dataset = Dataset(make_recipe({"data.split.test": 0}).data, stores["single"])
    with pytest.raises(ConfigError, match=r"the test split is empty; set data.split.test"):
        evaluate(lambda batch: torch.zeros(len(batch.labels), 3), dataset, "test")
