"""Distances that the reference does not record, against formulas written out."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, rel_entr, softmax

from stssl.algorithms.distillation import distillation_loss

STUDENT = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)) * 3
TEACHER = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_of_one_label(temperature: float) -> None:
    z, t = (x.double().numpy() / temperature for x in (STUDENT, TEACHER))
    p = softmax(t, axis=1)
    expected = temperature**2 * (p * (np.log(p) - log_softmax(z, axis=1))).sum(1).mean()
    loss = distillation_loss(STUDENT, TEACHER, "kl", "single", temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_of_several_labels(temperature: float) -> None:
    q, p = (expit(x.double().numpy() / temperature) for x in (STUDENT, TEACHER))
    expected = temperature**2 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean()
    loss = distillation_loss(STUDENT, TEACHER, "kl", "multi", temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_smooth_l1() -> None:
    d = (STUDENT - TEACHER).abs().double().numpy()
    expected = np.where(d < 1, d**2 / 2, d - 0.5).mean()
    assert distillation_loss(STUDENT, TEACHER, "smooth_l1").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("loss", ["mse", "mae", "cosine", "smooth_l1", "kl"])
def test_least_where_both_agree_and_only_the_student_learns(loss: str, task: str) -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    far = distillation_loss(student, teacher, loss, task, 2.0)
    near = distillation_loss(TEACHER, TEACHER, loss, task, 2.0)
    assert near < far and near.item() == pytest.approx(-1.0 if loss == "cosine" else 0.0, abs=1e-6)
    far.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    stepped = student.detach() - 0.1 * student.grad
    assert distillation_loss(stepped, TEACHER, loss, task, 2.0) < far


@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "kl"])
def test_half_precision_and_far_logits_stay_finite(loss: str) -> None:
    student = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.tensor([[-300.0, 300.0]], dtype=torch.bfloat16)
    for task in ("single", "multi"):
        value = distillation_loss(student, teacher, loss, task, 1.0)
        assert value.dtype == torch.float32 and value.isfinite() and value > 0
        value.backward()
        assert student.grad.isfinite().all()
