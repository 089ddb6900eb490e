"""Small cases with the numbers written out."""

import math

import pytest
import torch

from stssl.algorithms.base import Logits
from tests.algorithms.asking import (
    BOTH,
    LN2,
    PARITY,
    make,
    one,
    say,
    seen,
    several,
    values,
)


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
