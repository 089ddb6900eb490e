"""The edges of every algorithm."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stssl.algorithms.base import Logits, Seen, Targets
from tests.algorithms.asking import (
    ALL,
    BOTH,
    EVERY,
    LN2,
    PARITY,
    labels_like,
    make,
    plugin,
    say,
    seen,
    values,
)

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
