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
