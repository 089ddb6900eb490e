"""What the student learns from the teacher's features."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from stssl.config import Config


class DistillationConfig(Config):
    """Only for teacher_student. Weight 0: no distillation, and the student gets no token for it."""

    loss: Literal["mse", "mae", "cosine"] = "mse"
    weight: float = Field(1.0, ge=0, le=1000)


def distillation_loss(student: Tensor, teacher: Tensor, loss: str) -> Tensor:
    """Distance of the student's features to the teacher's, which get no gradient.

    Source: Bernhard et al. (ECAI 2024): mean squared error; also mean absolute error and the negative mean cosine
    similarity of rows.

    Args:
        student: [B, D].
        teacher: [B, D].
        loss: `mse`, `mae` or `cosine`.
    """
    student, teacher = student.float(), teacher.detach().float()
    if loss == "mse":
        return F.mse_loss(student, teacher)
    if loss == "mae":
        return F.l1_loss(student, teacher)
    return -F.cosine_similarity(student, teacher, dim=1).mean()
