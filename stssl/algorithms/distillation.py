"""How far the student is from the teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stssl.data.schema import Task


def distillation_loss(
    student: Tensor, teacher: Tensor, loss: str, task: Task = "single", temperature: float = 1.0
) -> Tensor:
    """Distance of the student's features or logits to the teacher's, which get no gradient.

    Source: Bernhard et al. (ECAI 2024): mean squared error, mean absolute error, and the negative mean cosine
    similarity of rows; smooth L1 (Girshick, ICCV 2015) with its knee at 1; Kullback-Leibler divergence of class
    probabilities, T²·KL(p_teacher ‖ p_student) with p = softmax(z/T) (Hinton et al., 2015), for several labels per
    image the mean over classes of that of two outcomes, p = σ(z/T).

    Args:
        student: [B, D].
        teacher: [B, D].
        loss: `mse`, `mae`, `cosine`, `smooth_l1`, or `kl` (of logits).
        task: For `kl`.
        temperature: T of `kl`.
    """
    student, teacher = student.float(), teacher.detach().float()
    if loss == "mse":
        return F.mse_loss(student, teacher)
    if loss == "mae":
        return F.l1_loss(student, teacher)
    if loss == "smooth_l1":
        return F.smooth_l1_loss(student, teacher)
    if loss == "cosine":
        return -F.cosine_similarity(student, teacher, dim=1).mean()
    student, teacher = student / temperature, teacher / temperature
    if task == "multi":  # cross-entropy less the entropy of the teacher
        p = teacher.sigmoid()
        cross, own = (F.binary_cross_entropy_with_logits(z, p) for z in (student, teacher))
        return temperature**2 * (cross - own)
    target = teacher.log_softmax(dim=1)
    return temperature**2 * F.kl_div(student.log_softmax(dim=1), target, reduction="batchmean", log_target=True)
