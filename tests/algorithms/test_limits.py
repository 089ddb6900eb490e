"""Small cases with the numbers written out, and the edges of every algorithm."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stssl.algorithms.base import Logits, Seen, Setting, Targets
from stssl.algorithms.losses import asymmetric_loss
from tests.algorithms.asking import plugin, seen

BOTH = ("single", "multi")
LN2 = math.log(2)
ALL = [
    (name, task)
    for name in (
        "fixmatch",
        "defixmatch",
        "freematch",
        "softmatch",
        "udal",
        "cap",
        "cdmad",
        "flexmatch",
        "adamatch",
        "metric_threshold",
        "precision_weight",
    )
    for task in BOTH
    if (name, task) != ("cap", "single")
]
EVERY = pytest.mark.parametrize(("name", "task"), ALL)
PARITY = pytest.mark.parametrize("parity", [False, True], ids=["right", "parity"])


def make(name: str, task: str = "single", classes: int = 2, /, **options: Any) -> Any:
    """An algorithm; options that the setting knows go there, the others to the configuration."""
    fields = {key: options.pop(key) for key in Setting._fields if key in options}
    if name in ("metric_threshold", "precision_weight"):
        options = {"folds": 0, **options}
    if isinstance(fields.get("frequencies"), list):
        fields["frequencies"] = torch.tensor(fields["frequencies"], dtype=torch.float64)
    setting = Setting(task, classes, **{"labeled": 6, "unlabeled": 8, "steps": 10, **fields})  # type: ignore[arg-type]
    return plugin(name)(plugin(name).Config(**options), setting)


def one(*rows: list[float]) -> Tensor:
    """Logits whose softmax is given."""
    return torch.tensor(rows, dtype=torch.float64).log().float()


def several(*rows: list[float]) -> Tensor:
    """Logits whose sigmoid is given."""
    return torch.tensor(rows, dtype=torch.float64).logit().float()


def say(rows: list[Any]) -> Any:
    return pytest.approx(rows, abs=1e-5)


def values(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


# Small cases


def test_supervised() -> None:
    losses = make("supervised").losses(Logits(one([0.25, 0.75], [0.5, 0.5])), torch.tensor([1, -1]), None, "teacher", 0)
    assert values(losses) == say({"supervised": math.log(4 / 3)})


def test_fixmatch_single() -> None:
    algorithm = make("fixmatch", threshold=0.8, unlabeled_weight=3)
    targets = algorithm.believe(seen(one([0.9, 0.1], [0.6, 0.4], [0.15, 0.85])), 0)
    assert targets.labels.tolist() == [0, 0, 1]
    assert targets.weights.tolist() == [1, 0, 1]
    logits = Logits(one([0.25, 0.75]), one([0.5, 0.5], [0.1, 0.9], [0.75, 0.25]))
    losses = algorithm.losses(logits, torch.tensor([1]), targets, "teacher", 0)
    assert values(losses) == say({"supervised": math.log(4 / 3), "unsupervised": 3 * (LN2 + 2 * LN2) / 3})


def test_fixmatch_multi() -> None:
    weak = several([0.04, 0.69], [0.06, 0.71], [0.4, 0.9])
    pair = make("fixmatch", "multi", threshold_negative=0.05, threshold_positive=0.7).believe(seen(weak), 0)
    assert pair.labels.tolist() == [[0, 1], [0, 1], [0, 1]]
    assert pair.weights.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert make("fixmatch", "multi", threshold=0.8).believe(seen(weak), 0).weights.tolist() == [[1, 0], [1, 0], [0, 1]]


def test_soft_labels() -> None:
    """At temperature 1/2 probabilities are squared: 4:1 becomes 16:1."""
    soft = {"hard_labels": False, "temperature": 0.5}
    assert make("fixmatch", **soft).believe(seen(one([0.8, 0.2])), 0).labels[0].tolist() == say([16 / 17, 1 / 17])
    assert make("fixmatch", "multi", **soft).believe(seen(several([0.8, 0.5])), 0).labels[0].tolist() == say(
        [16 / 17, 0.5]
    )


def test_defixmatch() -> None:
    algorithm = make("defixmatch", threshold=0.8, unlabeled_weight=0.5)
    y = torch.tensor([0, 1, -1])
    labeled = one([0.9, 0.1], [0.7, 0.3], [0.1, 0.9])
    targets = algorithm.believe(seen(one([0.1, 0.9]), labeled, y), 0)
    assert targets.labeled.labels.tolist() == [0, 0, 1]
    strong = one([0.5, 0.5], [0.25, 0.75], [0.5, 0.5])
    losses = values(algorithm.losses(Logits(labeled, one([0.5, 0.5]), strong), y, targets, "student", 0))
    weak_part, strong_part = -(math.log(0.9) + math.log(0.3)) / 2, (LN2 + math.log(4 / 3)) / 2
    assert losses["supervised"] == say((weak_part + strong_part) / 2)
    assert losses["unsupervised"] == say(0.5 * LN2)
    # of the two known images the first is believed; the third would be, were its label known
    assert sum(losses.values()) == say((weak_part + strong_part) / 2 + 0.5 * LN2 - 0.5 * LN2 / 2)


def test_freematch_single() -> None:
    algorithm = make("freematch", momentum=0.5, fairness_weight=1)
    targets = algorithm.believe(seen(one([0.9, 0.1], [0.6, 0.4], [0.3, 0.7])), 0)
    assert algorithm.confidence.item() == say(0.5 * 0.5 + 0.5 * (0.9 + 0.6 + 0.7) / 3)  # 0.61667
    assert algorithm.mean_p.tolist() == say([0.55, 0.45])
    assert algorithm.histogram.tolist() == say([7 / 12, 5 / 12])
    # thresholds 0.61667 and 0.61667 · 0.45/0.55 = 0.50455
    assert targets.weights.tolist() == [1, 0, 1]
    logits = Logits(one([0.5, 0.5]), one([0.8, 0.2], [0.01, 0.99], [0.4, 0.6]))
    # a ~ (0.55·12/7, 0.45·12/5) = (0.466102, 0.533898), b = (0.6, 0.4): mean of the two that pass, one of each class
    fair = 0.466102 * math.log(0.6) + 0.533898 * math.log(0.4)
    assert algorithm.losses(logits, torch.tensor([0]), targets, "teacher", 0)["fairness"].item() == say(fair)


def test_freematch_multi() -> None:
    algorithm = make("freematch", "multi", 1, momentum=0.5, fairness_weight=1)
    targets = algorithm.believe(seen(several([0.9], [0.2], [0.4])), 0)
    assert algorithm.confidence.item() == say(0.25 + 0.5 * (0.9 + 0.8 + 0.6) / 3)  # 0.63333
    assert algorithm.mean_p.item() == say(0.5)
    assert algorithm.histogram.item() == say(0.25 + 0.5 / 3)  # 5/12
    assert targets.weights.tolist() == [[1], [1], [0]]
    # a = (0.5·12/5) : (0.5·12/7) = 7 : 5
    for third, weights, b in ((0.001, targets.weights, 0.55), (0.1, torch.ones(3, 1), 4 / 7)):
        # two pass, one is positive: b = mean p = 0.55; three pass, a third is positive: 0.4·3 and 0.6·3/2
        strong = several([0.8], [0.3], [third])
        losses = algorithm.losses(
            Logits(strong, strong), torch.zeros(3, 1), targets._replace(weights=weights), "student", 0
        )
        assert losses["fairness"].item() == say(7 / 12 * math.log(b) + 5 / 12 * math.log(1 - b))


def test_freematch_quantile_and_clip() -> None:
    weak = one([0.5, 0.5], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1], [0.99, 0.01])
    algorithm = make("freematch", momentum=0, quantile=True)
    algorithm.believe(seen(weak), 0)
    assert algorithm.confidence.item() == say(0.9)  # place 0.8·5 = 4
    algorithm.believe(seen(weak[:4]), 0)
    assert algorithm.confidence.item() == say(0.6 * 0.7 + 0.4 * 0.8)  # place 0.8·3 = 2.4
    for clip, level in ((True, 0.95), (False, 0.99)):
        algorithm = make("freematch", momentum=0, clip=clip)
        algorithm.believe(seen(weak[5:]), 0)
        assert algorithm.confidence.item() == say(level)


def test_softmatch() -> None:
    algorithm = make("softmatch", alignment="none", momentum=0.5)
    targets = algorithm.believe(seen(one([0.9, 0.1], [0.2, 0.8], [0.55, 0.45])), 0)
    assert algorithm.mean.item() == say(0.25 + 0.5 * 0.75)
    assert algorithm.variance.item() == say(0.5 + 0.5 * (0.15**2 + 0.05**2 + 0.2**2) / 2)
    assert targets.weights.tolist() == say([1, 1, math.exp(-(0.075**2) * 4 / (2 * 0.51625))])


@pytest.mark.parametrize("task", BOTH)
def test_softmatch_aligns(task: str) -> None:
    """Two values lie half their distance from the mean, so that the lower weighs exp(-n_σ²/4) whatever they are."""
    algorithm = make("softmatch", task, alignment="uniform", momentum=0, n_sigma=1)
    weak = one([0.8, 0.2], [0.6, 0.4]) if task == "single" else several([0.8, 0.2], [0.6, 0.4])
    targets = algorithm.believe(seen(weak), 0)
    # 0.8:0.2 times 3:7 is 12:7, and 0.6:0.4 becomes 9:14
    assert algorithm.mean.flatten()[0].item() == say((12 / 19 + 14 / 23) / 2)
    assert targets.labels.tolist() == [0, 0] or targets.labels.tolist() == [[1, 0], [1, 0]]  # of the unaligned logits
    assert targets.weights.flatten()[[0, -1]].tolist() == say([1, math.exp(-1 / 4)])


@PARITY
def test_softmatch_few(parity: bool) -> None:
    """Two of the positive side, one of the negative: what one value does differs."""
    algorithm = make("softmatch", "multi", 1, alignment="none", momentum=0.5, per_class=True, parity=parity)
    targets = algorithm.believe(seen(several([0.9], [0.7], [0.4])), 0)
    assert algorithm.mean[1].item() == say(0.25 + 0.4)
    assert algorithm.variance[1].item() == say(0.5 + 0.5 * 0.02)
    assert algorithm.mean[0].item() == say(0.25 if parity else 0.5)
    assert algorithm.variance[0].item() == say(1.0)
    assert targets.weights.flatten().tolist() == say([1, 1, 1])


@PARITY
@pytest.mark.parametrize("task", BOTH)
def test_softmatch_one_image(task: str, parity: bool) -> None:
    algorithm = make("softmatch", task, alignment="none", momentum=0.5, parity=parity)
    algorithm.believe(seen(one([0.9, 0.1])), 0)
    assert algorithm.mean.flatten()[0].item() == say(0.25 if parity else 0.5)
    assert algorithm.variance.flatten()[0].item() == say(1.0)


def test_udal() -> None:
    algorithm = make("udal", "multi", 1, alpha_min=0.5, power=1, frequencies=[0.2], steps=4, threshold=0.5)
    targets = algorithm.believe(seen(several([0.5], [0.9], [0.1])), 0)  # p̃ = 0.5
    zero = torch.zeros(1, 1)
    logits, y = Logits(zero, torch.zeros(3, 1)), zero + 1
    # α = 1: π_α = 0.2, adj(π) = 0, adj(p̃) = log 2.5; targets 1, 1, 0
    losses = values(algorithm.losses(logits, y, targets, "teacher", 0))
    assert losses == say({"supervised": LN2, "unsupervised": (2 * math.log(1.4) + math.log(3.5)) / 3})
    # α = 1/2: π_α = 1/3, adj(π) = log 0.6, adj(p̃) = log 1.5
    losses = values(algorithm.losses(logits, y, targets, "teacher", 4))
    assert losses == say(
        {"supervised": math.log(1.6 / 0.6), "unsupervised": (2 * math.log(2.5 / 1.5) + math.log(2.5)) / 3}
    )


@PARITY
def test_udal_trackers(parity: bool) -> None:
    """The student's prior is that of its own strong predictions, 0.8; with parity the teacher's, 0.2."""
    algorithm = make("udal", "multi", 1, frequencies=[0.5], threshold=0, parity=parity)
    targets = algorithm.believe(seen(several([0.2])), 0)
    logits = Logits(torch.zeros(1, 1), several([0.8]))
    loss = algorithm.losses(logits, torch.zeros(1, 1), targets, "student", 0)["unsupervised"].item()
    assert loss == say(math.log(1 + 4 * (0.4 if parity else 1.6)))


@PARITY
def test_udal_absent_class(parity: bool) -> None:
    algorithm = make("udal", "multi", frequencies=[0.5, 0.0], parity=parity)
    targets = algorithm.believe(seen(several([0.5, 0.5])), 0)
    zero = torch.zeros(1, 2)
    losses = values(algorithm.losses(Logits(zero, zero), zero + 1, targets, "teacher", 5))
    assert math.isfinite(losses["supervised"]) != parity
    # α = 1 - 0.5·0.25
    pi = 1e-6**0.875 / (1e-6**0.875 + (1 - 1e-6) ** 0.875)
    if not parity:
        assert losses["supervised"] == say((LN2 + math.log(1 + (pi + 1e-9) / 1e-6)) / 2)


def test_cap() -> None:
    algorithm = make("cap", "multi", 1, positive_share=0.5, negative_share=0.5, frequencies=[0.5])
    targets = algorithm.believe(seen(several([0.1], [0.4], [0.6], [0.9])), 0)
    assert targets.labels.flatten().tolist() == [0, 0, 1, 1]  # from element 2 on
    assert targets.weights.flatten().tolist() == [1, 1, 0, 1]  # from element 3 on, and up to element 1
    losses = algorithm.losses(
        Logits(torch.zeros(2, 1), torch.zeros(4, 1)), torch.tensor([[1.0], [-1.0]]), targets, "teacher", 0
    )
    positive, negative = 0.5 * LN2, -math.log(0.55) * 0.45**4
    assert values(losses) == say({"supervised": positive, "unsupervised": (2 * negative + positive) / 3})


def test_cap_queue_smaller_than_the_batch() -> None:
    """The last two rows set the thresholds of all four: 0.6 and 0.9, then 0.3 and 0.2."""
    algorithm = make("cap", "multi", 1, queue_size=2, frequencies=[0.5])
    assert algorithm.believe(seen(several([0.7], [0.95], [0.6], [0.9])), 0).labels.flatten().tolist() == [0, 1, 0, 1]
    assert algorithm.believe(seen(several([0.29], [0.31], [0.3], [0.2])), 1).labels.flatten().tolist() == [0, 1, 1, 0]


def test_cap_queue_forgets_the_oldest() -> None:
    algorithm = make("cap", "multi", 1, queue_size=3, frequencies=[0.5])
    algorithm.believe(seen(several([0.8], [0.9])), 0)
    # 0.9, 0.1, 0.2 are left: floor(3·0.5) is the middle one
    assert algorithm.believe(seen(several([0.1], [0.2])), 1).labels.flatten().tolist() == [0, 1]


@PARITY
def test_cap_class_without_positives(parity: bool) -> None:
    algorithm = make("cap", "multi", 1, negative_share=0.5, frequencies=[0.0], parity=parity)
    targets = algorithm.believe(seen(several([0.1], [0.4], [0.6], [0.9])), 0)
    assert targets.labels.flatten().tolist() == [0, 0, 0, float(parity)]
    # up to element 2; the largest is believed where it is a positive, and never as a negative
    assert targets.weights.flatten().tolist() == [1, 1, 1, float(parity)]


def test_cap_quantile_of_a_whole_number() -> None:
    """Nine of ten are positives where nine of ten labeled images are."""
    algorithm = make("cap", "multi", 1, frequencies=[0.9])
    targets = algorithm.believe(seen(several(*([i / 11] for i in range(1, 11)))), 0)
    assert targets.labels.sum().item() == 9


def test_cdmad() -> None:
    algorithm = make("cdmad", threshold=0.7, debias_start=3)
    shown = seen(one([0.8, 0.2], [0.1, 0.9]), blank=torch.tensor([[LN2, 0.0]]))
    before, after = algorithm.believe(shown, 2), algorithm.believe(shown, 3)
    assert before.labels.flatten().tolist() == say([0.8, 0.2, 0.1, 0.9])
    assert before.weights.tolist() == [1, 1]
    assert after.labels.flatten().tolist() == say([2 / 3, 1 / 3, 1 / 19, 18 / 19])
    assert after.weights.tolist() == [0, 1]
    blank = torch.tensor([[1.5, -2.0]])
    assert algorithm.correction(blank, 2) is None
    assert algorithm.correction(blank, 3).tolist() == [[-1.5, 2.0]]


@pytest.mark.parametrize(("mapping", "weight"), [("convex", 1), ("linear", 0)])
def test_flexmatch(mapping: str, weight: int) -> None:
    algorithm = make("flexmatch", "single", 3, threshold=0.8, mapping=mapping, unlabeled=4)
    weak = one([0.9, 0.05, 0.05], [0.85, 0.1, 0.05], [0.05, 0.9, 0.05], [0.5, 0.3, 0.2])
    assert algorithm.believe(seen(weak), 0).weights.tolist() == [1, 1, 1, 1]  # nothing is known: every threshold is 0
    assert algorithm.learned.tolist() == [0, 0, 1, -1]
    # σ = (2, 1, 0) and one unknown: β = (1, 1/2, 0), thresholds 0.8, and 0.2667 (convex) or 0.4 (linear), and 0
    weak = one([0.79, 0.2, 0.01], [0.3, 0.38, 0.32], [0.3, 0.3, 0.4])
    assert algorithm.believe(seen(weak), 1).weights.tolist() == [0, weight, 1]
    assert algorithm.learned.tolist() == [0, 0, 1, -1]


def test_flexmatch_multi() -> None:
    algorithm = make("flexmatch", "multi", 1, threshold=0.8, mapping="linear", unlabeled=4)
    algorithm.believe(seen(several([0.9], [0.1], [0.15], [0.6])), 0)
    assert algorithm.learned.flatten().tolist() == [1, 0, 0, -1]
    # absent 2, present 1, unknown 1: thresholds 0.8 and 0.4
    assert algorithm.believe(seen(several([0.55], [0.25], [0.19])), 1).weights.flatten().tolist() == [1, 0, 1]


def test_adamatch() -> None:
    algorithm = make("adamatch", threshold=0.9, steps=8)
    y = torch.tensor([0, 1])
    targets = algorithm.believe(seen(one([0.8, 0.2], [0.4, 0.6]), one([0.9, 0.1], [0.5, 0.5]), y), 0)
    # mean p (0.6, 0.4), wanted (0.7, 0.3): odds 4 and 2/3 times 14/9; the threshold is 0.9·0.7 = 0.63
    assert targets.labels[:, 0].tolist() == say([56 / 65, 28 / 55])
    assert targets.weights.tolist() == [1, 0]
    half = one([0.5, 0.5], [0.5, 0.5])
    losses = [values(algorithm.losses(Logits(half, half, half), y, targets, "teacher", t)) for t in (0, 1, 2, 4, 7)]
    assert [loss["supervised"] for loss in losses] == say([2 * LN2] * 5)  # on weak and on strong views
    ramp = [0, 0.5 - math.cos(math.pi / 4) / 2, 0.5, 1, 1]
    assert [loss["unsupervised"] for loss in losses] == say([factor * LN2 / 2 for factor in ramp])


def test_metric_threshold() -> None:
    labeled, y = several([0.25, 0.9], [0.45, 0.9], [0.65, 0.9], [0.85, 0.9]), torch.tensor([0.0, 1, 0, 1])
    y = torch.stack([y, y * 0 - torch.tensor([0, 0, 0, 1.0])], dim=1)  # the other class: no known positive
    weak = several([0.29, 0.59], [0.31, 0.61], [0.69, 0.6], [0.71, 0.6])
    for beta, labels in ((1.0, [0, 1, 1, 1]), (0.5, [0, 0, 0, 1])):
        # F₁ is 4/6, 4/5, 2/4, 2/3 from below 0.25, 0.45, 0.65, 0.85, best from 0.3; F_½ is best from 0.7, 1.25/1.5
        algorithm = make("metric_threshold", "multi", beta=beta, levels=10, fallback=0.605)
        targets = algorithm.believe(seen(weak, labeled, y), 0)
        assert targets.labels[:, 0].tolist() == labels
        assert targets.labels[:, 1].tolist() == [0, 1, 0, 0]
        assert targets.weights.tolist() == [[1, 1]] * 4


def test_metric_threshold_single() -> None:
    labeled = one([0.55, 0.45], [0.75, 0.25], [0.95, 0.05], [0.65, 0.35], [0.35, 0.65])
    y = torch.tensor([1, 0, 0, -1, 1])
    # class 0: F₁ is 1 from 0.6 to 0.7, the unknown label not counted; class 1: one of two found at any τ up to 0.65
    algorithm = make("metric_threshold", levels=10)
    targets = algorithm.believe(seen(one([0.59, 0.41], [0.61, 0.39], [0.45, 0.55]), labeled, y), 0)
    assert targets.labels.tolist() == [0, 0, 1]
    assert targets.weights.tolist() == [0, 1, 1]


def test_precision_weight() -> None:
    labeled, y = one([0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]), torch.tensor([0, 1, 1, -1])
    # all in the bin from 1/2: P_b = (2 + 0.75)/(3 + 1); class 0: (1 + P_b)/3 = 0.5625; class 1: (1 + P_b)/2 = 0.84375
    for threshold, weights in ((0.7, [0, 0.84375]), (0.5, [0.5625, 0.84375])):
        algorithm = make("precision_weight", bins=2, prior=1, threshold=threshold)
        targets = algorithm.believe(seen(one([0.99, 0.01], [0.45, 0.55]), labeled, y), 0)
        assert targets.labels.tolist() == [0, 1]
        assert targets.weights.tolist() == say(weights)


def test_precision_weight_multi() -> None:
    labeled, y = several([0.1], [0.2], [0.9], [0.15]), torch.tensor([[0.0], [1.0], [1.0], [-1.0]])
    algorithm = make("precision_weight", "multi", 1, bins=4, prior=1, threshold=0)
    targets = algorithm.believe(seen(several([0.05], [0.6], [0.8]), labeled, y), 0)
    # first bin: 1 of 2, c = 0.875: P_b = 1.875/3, then (1 + 0.625)/3; third: none, c = 0.625; last: 1 of 1, 0.9375
    assert targets.labels.flatten().tolist() == [0, 1, 1]
    assert targets.weights.flatten().tolist() == say([1.625 / 3, 0.625, 1.9375 / 2])


@pytest.mark.parametrize("name", ["precision_weight", "metric_threshold"])
def test_a_tie_is_counted_once(name: str) -> None:
    """Equal probabilities: the pseudo-label is class 0, so they say nothing of class 1."""
    weak, y = one([0.495, 0.505]), torch.tensor([0, 0, 0, 1])
    options = {"bins": 2, "threshold": 0} if name == "precision_weight" else {}
    weights = []
    for ties in ([0.5, 0.5], [0.5001, 0.4999]):
        targets = make(name, **options).believe(seen(weak, one(ties, ties, ties, [0.1, 0.9]), y), 0)
        assert targets.labels.tolist() == [1]
        weights.append(targets.weights.item())
    assert weights[0] == say(weights[1])


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


# Thresholds of 0 and 1


def test_threshold_zero_believes_everything() -> None:
    weak = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for name, task in ALL:
        if "threshold" in plugin(name).Config.model_fields:
            y = labels_like(task, 5, 2)
            weights = make(name, task, threshold=0).believe(seen(weak, weak, y, blank=weak[:1]), 0).weights
            assert (weights > 0).all()


@pytest.mark.parametrize("task", BOTH)
def test_threshold_one_believes_certainty_alone(task: str) -> None:
    weak = torch.tensor([[200.0, -200.0], [12.0, -12.0]])
    for name in ("fixmatch", "defixmatch", "udal", "cdmad"):
        weights = make(name, task, threshold=1).believe(seen(weak, weak, blank=torch.zeros(1, 2)), 0).weights
        assert weights.reshape(2, -1)[:, 0].tolist() == [1, 1 if task == "single" else 0]
    pair = make("fixmatch", "multi", threshold_negative=0, threshold_positive=1).believe(seen(weak), 0)
    assert pair.weights.tolist() == [[1, 1], [0, 0]]
    shown = seen(weak, weak, labels_like(task, 2, 2))
    assert (make("precision_weight", task, threshold=1).believe(shown, 0).weights == 0).all()


# Every algorithm at its edges


def step_of(
    algorithm: Any, weak: Tensor, labeled: Tensor, y: Tensor, strong: Tensor, step: int = 1
) -> tuple[Targets, Any, Any]:
    """Targets, losses by role, gradients by role."""
    rows, labeled_rows = torch.arange(len(weak)), torch.arange(len(labeled))
    targets = algorithm.believe(Seen(weak, labeled, y, rows, labeled_rows, weak[:1]), step)
    losses, gradients = {}, {}
    for role in ("teacher", "student"):
        leaves = Logits(*(x.clone().requires_grad_() for x in (labeled, strong, labeled)))
        losses[role] = algorithm.losses(leaves, y, targets, role, step)
        sum(losses[role].values()).backward()  # type: ignore[union-attr]
        gradients[role] = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves if x is not None]
    return targets, losses, gradients


def check_finite(algorithm: Any, targets: Targets, losses: Any, gradients: Any) -> None:
    assert targets.labels.isfinite().all()
    assert ((targets.weights >= 0) & (targets.weights <= 1)).all()
    for role in ("teacher", "student"):
        for name, loss in losses[role].items():
            assert loss.isfinite(), name
        for gradient in gradients[role]:
            assert gradient.isfinite().all()
    for name, buffer in algorithm.named_buffers():
        if name != "queue":
            assert buffer.isfinite().all(), name


def labels_like(task: str, n: int, classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    if task == "single":
        return torch.randint(0, classes, (n,), generator=generator)
    return torch.randint(0, 2, (n, classes), generator=generator).float()


def signs(n: int, classes: int, seed: int) -> Tensor:
    return torch.randint(0, 2, (n, classes), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


CASES = {
    # name: (weak, labeled, strong), each [n, K]
    "ordinary": (signs(4, 3, 0) * 2, signs(3, 3, 1), signs(4, 3, 2) * 1.5),
    "one unlabeled image": (signs(1, 3, 0) * 2, signs(3, 3, 1), signs(1, 3, 2)),
    "one labeled image": (signs(4, 3, 0) * 2, signs(1, 3, 1), signs(4, 3, 2)),
    "one class": (signs(4, 1, 0) * 2, signs(3, 1, 1), signs(4, 1, 2)),
    "one of everything": (signs(1, 1, 0), signs(1, 1, 1), signs(1, 1, 2)),
    "extreme": (signs(4, 3, 0) * 50, signs(3, 3, 1) * 50, signs(4, 3, 2) * 50),
    "extreme and strong the other way": (signs(4, 3, 0) * 50, signs(3, 3, 1) * 50, signs(4, 3, 0) * -50),
    "all alike": (torch.zeros(4, 3), torch.zeros(3, 3), torch.zeros(4, 3)),
    "all alike and extreme": (torch.full((4, 3), 50.0), torch.full((3, 3), -50.0), torch.full((4, 3), -50.0)),
    "one class always": (
        *[torch.tensor([[50.0, -50, -50]]).repeat(4, 1)] * 2,
        torch.tensor([[-50.0, 50, -50]]).repeat(4, 1),
    ),
}


@EVERY
@PARITY
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("momentum", [0.0, 0.999])
def test_finite(name: str, task: str, parity: bool, case: str, momentum: float) -> None:
    """Two steps, so that state that has become odd is also used."""
    options: dict[str, Any] = {"momentum": momentum} if "momentum" in plugin(name).Config.model_fields else {}
    weak, labeled, strong = CASES[case]
    algorithm = make(name, task, weak.shape[1], parity=parity, **options)
    y = labels_like(task, len(labeled), weak.shape[1])
    for step in (1, 2):
        targets, losses, gradients = step_of(algorithm, weak, labeled, y, strong, step)
        if name == "freematch" and task == "multi" and parity:  # NaN, as documented
            losses = {role: {"supervised": named["supervised"]} for role, named in losses.items()}
            gradients = {role: given[:1] for role, given in gradients.items()}
        check_finite(algorithm, targets, losses, gradients)
        strong = -strong


@EVERY
@PARITY
def test_no_label_known(name: str, task: str, parity: bool) -> None:
    weak, labeled, strong = CASES["ordinary"]
    algorithm = make(name, task, 3, parity=parity)
    y = labels_like(task, 3, 3) * 0 - 1
    targets, losses, gradients = step_of(algorithm, weak, labeled, y, strong)
    for role in ("teacher", "student"):
        assert losses[role]["supervised"].item() == 0
        assert (gradients[role][0] == 0).all()
        assert (gradients[role][2] == 0).all()
    if not (name == "freematch" and task == "multi" and parity):
        check_finite(algorithm, targets, losses, gradients)


@pytest.mark.parametrize("task", BOTH)
def test_supervised_at_its_edges(task: str) -> None:
    for y in (labels_like(task, 3, 3), labels_like(task, 3, 3) * 0 - 1):
        leaf = CASES["extreme"][1].clone().requires_grad_()
        loss = make("supervised", task, 3).losses(Logits(leaf), y, None, "student", 0)["supervised"]
        loss.backward()
        assert loss.isfinite()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert (loss.item() == 0) == bool((y < 0).all())


@EVERY
@pytest.mark.parametrize("weight", [0.0, 1.0], ids=["nothing", "everything"])
def test_mask(name: str, task: str, weight: float) -> None:
    """Nothing believed: no loss and no gradient on strong views. Everything: the plain mean."""
    weak, labeled, strong = CASES["ordinary"]
    algorithm = make(name, task, 3, **({"alpha_min": 1.0} if name == "udal" else {}))
    y = labels_like(task, 3, 3)
    targets, _, _ = step_of(algorithm, weak, labeled, y, strong, 5)
    strong = strong.clone().requires_grad_()
    targets = targets._replace(weights=torch.full_like(targets.weights, weight))
    losses = algorithm.losses(Logits(labeled, strong, labeled), y, targets, "teacher", 5)
    unsupervised = losses["unsupervised"] + losses.get("fairness", 0)
    unsupervised.backward()
    assert strong.grad is not None
    assert strong.grad.isfinite().all()
    if weight == 0:
        assert unsupervised.item() == 0
        assert (strong.grad == 0).all()
    elif name not in ("udal", "cap"):
        if task == "multi":
            want = torch.nn.functional.binary_cross_entropy_with_logits(strong, targets.labels)
        else:
            want = torch.nn.functional.cross_entropy(strong, targets.labels)
        assert losses["unsupervised"].item() == say(want.item())


def test_cap_mask_with_everything() -> None:
    algorithm = make("cap", "multi", 1, asymmetric=False)
    targets = Targets(torch.ones(3, 1), torch.ones(3, 1))
    losses = algorithm.losses(Logits(torch.zeros(1, 1), torch.zeros(3, 1)), torch.ones(1, 1), targets, "teacher", 0)
    assert values(losses) == say({"supervised": LN2, "unsupervised": LN2})


@EVERY
def test_bfloat16(name: str, task: str) -> None:
    """Logits in half precision are computed with as if they were float32 of the same value."""
    weak, labeled, strong = (x * torch.linspace(0.3, 3, x.numel()).view_as(x) for x in CASES["ordinary"])
    y, half = labels_like(task, 3, 3), [x.bfloat16() for x in (weak, labeled, strong)]
    got_targets, got, gradients = step_of(make(name, task, 3), half[0], half[1], y, half[2])
    targets, want, _ = step_of(make(name, task, 3), half[0].float(), half[1].float(), y, half[2].float())
    assert (got_targets.labels == targets.labels).all()
    assert (got_targets.weights == targets.weights).all()
    for role in ("teacher", "student"):
        assert all(loss.dtype == torch.float32 for loss in got[role].values())
        assert values(got[role]) == pytest.approx(values(want[role]), abs=1e-6)
        assert all(gradient.isfinite().all() for gradient in gradients[role])


# FreeMatch's fairness term


def fairness_of(strong: Tensor, weights: Tensor, parity: bool = False) -> tuple[float, Tensor]:
    algorithm = make("freematch", "multi", 2, fairness_weight=1, parity=parity)
    leaf = strong.clone().requires_grad_()
    loss = algorithm.losses(Logits(strong, leaf), torch.zeros(len(strong), 2), Targets(weights, weights), "teacher", 0)[
        "fairness"
    ]
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad


def test_fairness_leaves_out_what_does_not_tell() -> None:
    """The second class: nothing passes, or all agree. The first: half is positive, b = mean p = 0.55."""
    strong = several([0.8, 0.9], [0.3, 0.7])
    first = 0.5 * math.log(0.55) + 0.5 * math.log(0.45)
    for mask in ([[1.0, 0.0]] * 2, [[1.0, 1.0]] * 2):
        value, gradient = fairness_of(strong, torch.tensor(mask))
        assert value == say(first)
        assert gradient.isfinite().all()
        assert (gradient[:, 1] == 0).all()


def test_fairness_parity() -> None:
    strong = several([0.8, 0.9], [0.3, 0.7])
    value, _ = fairness_of(strong, torch.tensor([[1.0, 0.0]] * 2), parity=True)
    assert math.isnan(value)
    value, gradient = fairness_of(strong, torch.tensor([[1.0, 1.0]] * 2), parity=True)
    assert value == pytest.approx(0.5 * math.log(0.55 * 0.45) + 0.5 * math.log(1e-12), rel=1e-4)
    assert gradient[:, 1].tolist() == say([0, 0])


@PARITY
@pytest.mark.parametrize("task", BOTH)
def test_fairness_of_nothing_is_zero(task: str, parity: bool) -> None:
    """No entry of any class passes: the term is 0, as published too."""
    algorithm = make("freematch", task, 2, fairness_weight=1, parity=parity)
    strong = one([0.8, 0.2], [0.3, 0.7])
    labels = torch.zeros(2, dtype=torch.int64) if task == "single" else torch.zeros(2, 2)
    targets = Targets(labels, torch.zeros_like(labels, dtype=torch.float32))
    assert algorithm.losses(Logits(strong, strong), labels, targets, "student", 0)["fairness"].item() == 0


@pytest.mark.parametrize("task", BOTH)
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_fairness_of_a_class_never_predicted(task: str, momentum: float) -> None:
    """Its histogram falls as m^t, out of float32's range at last: 1/h̃ must not become infinite."""
    algorithm = make("freematch", task, 3, momentum=momentum, fairness_weight=1)
    weak = one([0.6, 0.3, 0.1], [0.3, 0.6, 0.1]) if task == "single" else several([0.6, 0.3, 0.1], [0.3, 0.6, 0.1])
    other = one([0.6, 0.3, 0.1], [0.1, 0.3, 0.6]) if task == "single" else several([0.6, 0.3, 0.1], [0.3, 0.6, 0.8])
    y = labels_like(task, 2, 3)
    for step in range(1200 if momentum == 0.9 else 160):
        targets = algorithm.believe(seen(weak), step)
        if step % 10 == 0:
            leaf = other.clone().requires_grad_()
            targets = targets._replace(weights=torch.ones_like(targets.weights))
            loss = algorithm.losses(Logits(weak, leaf), y, targets, "teacher", step)["fairness"]
            loss.backward()
            assert loss.isfinite(), step
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all(), step


def test_warm_up() -> None:
    for task in BOTH:
        algorithm = make("freematch", task, 3, warmup_steps=3)
        weak, labeled, strong = CASES["ordinary"]
        y = labels_like(task, 3, 3)
        before = algorithm.mean_p.clone()
        for step, names in ((0, 1), (2, 1), (3, 3), (4, 3)):
            _, losses, gradients = step_of(algorithm, weak, labeled, y, strong, step)
            assert [len(losses[role]) for role in ("teacher", "student")] == [names] * 2
            assert (gradients["student"][1] != 0).any() == (names == 3)
            assert algorithm.warming_up(step) == (names == 1)
            assert (algorithm.mean_p != before).any()  # the state learns all the while
    assert not make("freematch").warming_up(0)
    assert not make("fixmatch").warming_up(0)


# The asymmetric loss


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_asymmetric_loss_over_its_range(clip: float) -> None:
    """In float32 as in float64: 1 - p must not be computed as a difference where p is close to 1."""
    logits = torch.linspace(-16, 16, 65)[:, None]
    for y in (0.0, 1.0):
        z, target = logits.double(), torch.full_like(logits, y)
        less = (1 / (1 + z.exp()) + clip).clamp(max=1)  # 1 - p
        want = z.neg().exp().log1p() * (1 / (1 + z.exp())) if y else -less.log() * (1 - less) ** 4
        got = asymmetric_loss(logits, target, clip=clip).double()
        assert torch.allclose(got, want, rtol=2e-5, atol=2e-5), (got - want).abs().max()


def test_asymmetric_loss_soft_and_clamped() -> None:
    loss = asymmetric_loss(torch.tensor([[0.0, 200.0, -200.0]]), torch.tensor([[0.5, 0.0, 1.0]]), 0, 0, 0.0)
    assert loss.flatten().tolist() == say([LN2, -math.log(1e-8), -math.log(1e-8)])


@pytest.mark.parametrize("focal_gradient", [False, True])
@pytest.mark.parametrize("gammas", [(4.0, 1.0), (0.0, 0.0), (2.0, 0.5), (0.5, 1.0)])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_asymmetric_gradient_is_finite(focal_gradient: bool, gammas: tuple[float, float], clip: float) -> None:
    """Also where 1 - t is 0, to which powers below 1 have no finite slope."""
    logits = torch.tensor([[-200.0, -50, -12, 0, 12, 50, 200]]).repeat(2, 1).requires_grad_()
    y = torch.tensor([[0.0], [1.0]]).expand(2, 7)
    loss = asymmetric_loss(logits, y, *gammas, clip, focal_gradient)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_asymmetric_loss_of_bfloat16() -> None:
    logits = torch.tensor([[-9.0, -2.0, 0.5, 3.0, 11.0]]).bfloat16()
    for y in (0.0, 1.0):
        target = torch.full((1, 5), y).bfloat16()
        loss = asymmetric_loss(logits, target)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, asymmetric_loss(logits.float(), target.float()))
