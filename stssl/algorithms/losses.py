"""Losses as pure functions of tensors. Labels of -1 are unknown and never count.

Shapes: B images, K classes. Single-label targets are [B] int64 (hard) or [B, K] probabilities (soft); multi-label
targets are [B, K] in 0..1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stssl.data.schema import Task


def entry_losses(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Cross-entropy of each image (single-label, [B]) or of each class of each image (multi-label, [B, K])."""
    logits = logits.float()  # the logarithms want more than half precision
    if task == "multi":
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, targets, reduction="none")


def supervised_loss(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Mean cross-entropy over the known labels; 0 (with a gradient of 0) where none is known.

    Args:
        logits: [B, K].
        labels: [B] int64 or [B, K] float, -1 = unknown.
        task: `single` or `multi`.
    """
    known = labels >= 0
    losses = entry_losses(logits, labels.clamp(min=0), task) * known
    return losses.sum() / known.sum().clamp(min=1)


def consistency_loss(logits: Tensor, targets: Tensor, weights: Tensor, task: Task) -> Tensor:
    """Weighted cross-entropy to pseudo-labels, averaged over ALL entries (weight 0 included).

    Source: Sohn et al., FixMatch (NeurIPS 2020), equation 4; per entry for multi-label.

    Args:
        logits: [B, K], strong views.
        targets: Pseudo-labels, without gradient.
        weights: [B] (single-label) or [B, K] (multi-label), 0..1.
        task: `single` or `multi`.
    """
    return (entry_losses(logits, targets, task) * weights).mean()


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    clip: float = 0.05,
    focal_gradient: bool = False,
) -> Tensor:
    """Focal cross-entropy of each entry that forgives easy negatives, [B, K]; in float32 whatever the logits are.

    p = σ(z), s = min(1-p+clip, 1); loss = -[y·log p + (1-y)·log s]·(1-t)^γ with t = p·y + s·(1-y) and γ = γ₊y + γ₋(1-y);
    neither logarithm goes below that of 1e-8.

    Source: Ridnik et al., Asymmetric Loss for Multi-Label Classification (ICCV 2021), equations 4 to 7.

    Args:
        logits: [B, K].
        targets: [B, K] in 0..1; unknown entries are the caller's to leave out.
        gamma_negative: γ₋ of negative entries.
        gamma_positive: γ₊ of positive entries.
        clip: By how much a negative entry's probability is lowered before it counts.
        focal_gradient: Whether the factor (1-t)^γ has a gradient.
    """
    logits = logits.float()
    y = targets.to(logits.dtype)
    p, q = logits.sigmoid(), (-logits).sigmoid()  # q is 1-p, exact where p is close to 1
    entropy = -(y * p.clamp(min=1e-8).log() + (1 - y) * (q + clip).clamp(1e-8, 1).log())
    away = y * q + (1 - y) * (p - clip).clamp(min=0)  # 1-t
    # 0 to a power below 1 has no finite slope
    away = away.clamp(min=1e-8) if focal_gradient else away.detach()
    return entropy * away ** (gamma_positive * y + gamma_negative * (1 - y))
