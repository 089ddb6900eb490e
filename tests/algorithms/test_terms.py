"""FreeMatch's fairness term, and the asymmetric loss, at their edges."""

import math

import pytest
import torch
from torch import Tensor

from stssl.algorithms.base import Logits, Targets
from stssl.algorithms.losses import asymmetric_loss
from tests.algorithms.asking import (
    BOTH,
    LN2,
    PARITY,
    labels_like,
    make,
    one,
    say,
    seen,
    several,
)

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
