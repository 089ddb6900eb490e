"""Scores, by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from stssl.data.dataset import Dataset
from stssl.data.store import ImageStore
from stssl.errors import ConfigError
from stssl.training.evaluate import Diverged, best_thresholds, calibration_error, evaluate, predict, scores
from stssl.training.metrics import METRICS
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
    # each class ranks two levels, ties merged. 0: 2 of 3 said right, then all 5; 1: 1 of 2; 2: nothing, so 1 of 5
    ap = [2 / 3 * 2 / 3 + 1 / 3 * 3 / 5, 1 / 2, 1 / 5]
    assert result["map_macro"] == pytest.approx(sum(ap) / 3)
    assert result["map_micro"] == pytest.approx(3 / 5 * 3 / 5 + 2 / 5 * 5 / 15)  # 3 of the 5 said, then all 15 entries
    assert result["calibration_error"] == pytest.approx(1 / (1 + 2 * math.exp(-10)) - 3 / 5)  # all in the last bin


def test_single_label_ranks_probabilities_that_float32_cannot_tell_apart() -> None:
    logits = torch.tensor([[0.0, 20.0], [0.0, 21.0], [0.0, 22.0]])
    assert scores(logits, torch.tensor([0, 1, 1]), "single")["map_macro"] == 1


def test_single_label_absent_class_is_reported_not_scored() -> None:
    result = scores(one_hot([0, 1, 1, 0], 5), torch.tensor([0, 1, 1, 1]), "single")
    assert result["classes_absent"] == 3
    assert result["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result["map_macro"] == pytest.approx(((1 / 2) + (2 / 3 * 1 + 1 / 3 * 3 / 4)) / 2)  # classes 0 and 1 alone


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_known_is_not_a_number(task: str, rows: int) -> None:
    unknown = torch.full((rows,) if task == "single" else (rows, 3), -1, dtype=torch.int64)
    result = scores(torch.zeros(rows, 3), unknown if task == "single" else unknown.float(), task, torch.zeros(3), True)
    assert (result.pop("count"), result.pop("classes_absent")) == (0, 3)
    assert len(result) > 5 and all(math.isnan(value) for value in result.values())


def test_one_class_only() -> None:
    result = scores(one_hot([0, 0, 1]), torch.tensor([0, 0, 0]), "single")
    assert result["balanced_accuracy"] == result["accuracy"] == pytest.approx(2 / 3)
    assert result["map_macro"] == 1 and result["classes_absent"] == 2  # nothing there that could rank too high
    result = scores(torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1), "multi")
    assert result["map_macro"] == 1 and result["accuracy"] == 1 / 2 and result["f1_macro"] == pytest.approx(2 / 3)
    assert math.isnan(result["balanced_accuracy"])  # no negative of which a share could be right


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
    assert result["f1_micro"] == pytest.approx(2 * 4 / (6 + 4)) and result["accuracy"] == 6 / 8
    assert result["balanced_accuracy"] == pytest.approx((2 / 2 + 1 / 2) / 2)  # TPR 2 of 2, TNR 1 of 2, both classes
    # σ(3), σ(2), σ(1), σ(-1) lie in bins 15, 14, 11, 5 and are two entries each; 1, 1, 2 and 0 of them positive
    p = [1 / (1 + math.exp(-z)) for z in (3, 2, 1, -1)]
    error = sum(abs(there / 2 - p_) for there, p_ in zip((1, 1, 2, 0), p, strict=True)) / 4
    assert result["calibration_error"] == pytest.approx(error)
    assert "f1_macro_tuned" not in result and "f1_macro_reference" not in result


def test_ties_in_a_ranking_count_together() -> None:
    """Average precision has no order inside a tie, whichever way the rows lie."""
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    logits = torch.tensor([[2.0], [1.0], [1.0], [1.0]])
    for rows in ([0, 1, 2, 3], [2, 3, 1, 0]):
        assert scores(logits[rows], labels[rows], "multi")["map_macro"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 4)


def test_f1_cuts_probabilities_not_logits() -> None:
    logits = torch.tensor([[0.2], [-0.2]])  # 0.2 is p = 0.55
    result = scores(logits, torch.tensor([[1.0], [0.0]]), "multi", parity=True)
    assert result["f1_macro"] == 1 and result["f1_macro_reference"] == 0


def test_the_reference_cuts_at_probability_0_622() -> None:
    cut = math.log(0.622459331 / (1 - 0.622459331))
    logits = torch.tensor([[cut - 1e-3], [cut + 1e-3], [3.0], [-3.0]])
    result = scores(logits, torch.tensor([[0.0], [1.0], [1.0], [0.0]]), "multi", parity=True)
    assert result["f1_macro_reference"] == 1 and result["f1_macro"] == pytest.approx(2 * 2 / (2 + 3))


def test_best_thresholds_by_hand() -> None:
    nan = -1.0
    logits = torch.tensor(
        [[3.0, -5.0, 1.0, 0.5], [2.0, -6.0, 2.0, 0.5], [1.0, -7.0, 3.0, -4.0], [0.0, -8.0, 4.0, -9.0]]
    )
    labels = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [nan, 0.0, nan, 1.0]])
    # 0: between 2 and 1; 1: between -6 and -7; 2: never positive; 3: all are called positive, F1 6/7 (a tie counts as one)
    found = best_thresholds(logits, labels)
    assert found.tolist() == [1.5, -6.5, 0.0, -9.0]
    result = scores(logits, labels, "multi", found)
    assert result["f1_macro_tuned"] == pytest.approx((1 + 1 + 6 / 7) / 3) and result["classes_absent"] == 1


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    logits, labels = torch.tensor([[2.0], [1.0], [0.0], [-1.0]]), torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    assert best_thresholds(logits, labels).tolist() == [1.5]  # 2 · 1 / (2 + 1) and 2 · 2 / (2 + 4) are both 2/3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(1, 25), levels=st.integers(1, 30))
def test_no_threshold_is_better(seed: int, rows: int, levels: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (rows, 3), generator=random) / 7 - 1
    labels = torch.randint(-1, 2, (rows, 3), generator=random).float()
    tuned = scores(logits, labels, "multi", best_thresholds(logits, labels))
    best = []
    for k in range(3):
        known = labels[:, k] >= 0
        y, z = labels[known, k] == 1, logits[known, k]
        if y.any():
            best.append(max(metrics.f1_score(y, z >= cut) for cut in z.unique()))
    assert tuned["f1_macro_tuned"] == pytest.approx(np.mean(best) if best else math.nan, nan_ok=True)
    assert not tuned["f1_macro"] > tuned["f1_macro_tuned"] + 1e-9


def test_neighbours_in_float32_are_told_apart() -> None:
    above = torch.tensor(1.0).nextafter(torch.tensor(2.0))
    logits, labels = torch.stack([torch.tensor(1.0), above])[:, None], torch.tensor([[0.0], [1.0]])
    assert scores(logits, labels, "multi", best_thresholds(logits, labels))["f1_macro_tuned"] == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999))
def test_multi_label_as_scikit_learn_has_it(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(30, 4, generator=random), (torch.rand(30, 4, generator=random) < 0.4).float()
    labels[:2] = torch.tensor([0.0, 1.0])[:, None]  # each class with both labels
    y, p = labels.numpy() == 1, logits.sigmoid().numpy()
    result = scores(logits, labels, "multi")
    for average in ("macro", "micro"):
        assert result[f"f1_{average}"] == pytest.approx(metrics.f1_score(y, p >= 0.5, average=average, zero_division=0))
        assert result[f"map_{average}"] == pytest.approx(metrics.average_precision_score(y, p, average=average))
    each = [metrics.balanced_accuracy_score(y[:, k], p[:, k] >= 0.5) for k in range(4)]
    assert result["balanced_accuracy"] == pytest.approx(np.mean(each))
    assert result["accuracy"] == pytest.approx((y == (p >= 0.5)).mean())


def independent_error(probability: np.ndarray, happened: np.ndarray) -> float:
    total = 0.0
    for b in range(15):
        inside = (probability > b / 15) & (probability <= (b + 1) / 15) | ((b == 0) & (probability == 0))
        if inside.any():
            total += inside.mean() * abs(happened[inside].mean() - probability[inside].mean())
    return total


def test_calibration_error_by_hand() -> None:
    # (0, 1/15] has 0 and 0.05 with one positive; (8/15, 9/15] has 0.6 with one; the last has 0.95 and 1 with one
    probability = np.array([0.0, 0.05, 0.6, 0.95, 1.0])
    happened = np.array([True, False, True, False, True])
    expected = 2 / 5 * abs(1 / 2 - 0.025) + 1 / 5 * abs(1 - 0.6) + 2 / 5 * abs(1 / 2 - 0.975)
    assert calibration_error(probability, happened) == pytest.approx(expected)
    assert independent_error(probability, happened) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(1, 200))
def test_calibration_error_against_another_formula(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    probability = np.concatenate([random.random(rows), np.linspace(0, 1, 16)])  # the edges too
    happened = random.random(rows + 16) < 0.5
    assert calibration_error(probability, happened) == pytest.approx(independent_error(probability, happened))


def test_calibration_error_of_a_network_that_knows_how_sure_it_is() -> None:
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, 3, generator=random)
    drawn = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]
    assert scores(logits, drawn, "single")["calibration_error"] < 0.01
    assert scores(3 * logits, drawn, "single")["calibration_error"] > 0.1  # too sure
    there = (torch.rand(40_000, 3, generator=random) < logits.sigmoid()).float()
    assert scores(logits, there, "multi")["calibration_error"] < 0.01
    assert scores(3 * logits, there, "multi")["calibration_error"] > 0.05


def test_multi_label_best_and_worst() -> None:
    labels = (torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    best, worst = scores(20 * labels - 10, labels, "multi"), scores(10 - 20 * labels, labels, "multi")
    ones = ("map_macro", "map_micro", "f1_macro", "f1_micro", "accuracy", "balanced_accuracy")
    assert all(best[name] == 1 for name in ones) and best["calibration_error"] < 1e-3
    assert (
        worst["accuracy"] == worst["balanced_accuracy"] == worst["f1_micro"] == 0 and worst["calibration_error"] > 0.99
    )
    assert best["loss"] < 1e-3
    assert worst["f1_macro"] == 0 and worst["map_micro"] == pytest.approx(float(labels.mean()))  # all tied, all wrong
    assert worst["loss"] > 9


def test_multi_label_absent_class_is_reported_not_scored() -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    labels = (torch.rand(20, 3, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    labels[:, 1] = 0
    result, present = scores(logits, labels, "multi"), scores(logits[:, [0, 2]], labels[:, [0, 2]], "multi")
    assert result["classes_absent"] == 1
    for name in ("map_macro", "f1_macro", "balanced_accuracy"):  # it has negatives alone
        assert result[name] == present[name]
    assert result["f1_micro"] < present["f1_micro"]  # but what is said there is wrong


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
    assert not {"f1_macro_tuned", "f1_macro_reference", "calibration_error"} & METRICS[task].keys()


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


def test_thresholds_come_from_validation_alone(
    stores: dict[str, ImageStore], make_recipe: Callable[..., Recipe]
) -> None:
    dataset = Dataset(make_recipe().data, stores["multi"])
    random = torch.Generator().manual_seed(5)
    table = torch.randn(len(dataset.store), 3, generator=random) - 1  # a logit for each row of the store
    own = [(table[rows], dataset.store.labels[rows]) for rows in map(torch.as_tensor, dataset.split[2:4])]
    (validation, test), fitted = own, best_thresholds(*own[0])
    assert not torch.equal(fitted, best_thresholds(*test))

    found = {split: evaluate(lambda batch: table[batch.member], dataset, split) for split in ("validation", "test")}
    assert found["validation"] == scores(*validation, "multi", fitted)
    assert found["test"] == scores(*test, "multi", fitted) != scores(*test, "multi", best_thresholds(*test))
    with_parity = evaluate(lambda batch: table[batch.member], dataset, "test", parity=True)
    assert with_parity == scores(*test, "multi", fitted, parity=True) and "f1_macro_reference" in with_parity


def test_no_test_split(stores: dict[str, ImageStore], make_recipe: Callable[..., Recipe]) -> None:
    dataset = Dataset(make_recipe({"data.split.test": 0}).data, stores["single"])
    with pytest.raises(ConfigError, match=r"the test split is empty; set data.split.test"):
        evaluate(lambda batch: torch.zeros(len(batch.labels), 3), dataset, "test")
