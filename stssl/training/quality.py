"""How right pseudo-labels are while a network trains.

The labels of unlabeled images that are hidden from the training are read here, for the record alone: what comes out
reaches neither a loss nor a selection. Sums over the images of a step are returned, so that an interval's precision and
recall are ratios of sums and not means of ratios. Nothing here waits for a GPU.

Shapes: U images, K classes. A weight is how much a pseudo-label is believed, 0..1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stssl.algorithms.base import Targets
from stssl.data.schema import Task


class Quality(NamedTuple):
    """Sums of a step, scalars; precision is right / believed, recall is right / there.

    Single-label: the weights of right pseudo-labels, the weights of all, and the number of images, all where the label is
    known. Multi-label: the same of positives: the weights of true ones, the weights of all that are called
    positive, and the number of true ones, believed or not, all where the entry is known.
    """

    right: Tensor
    believed: Tensor
    there: Tensor


def hard(said: Tensor, task: Task, cut: float = 0.5) -> Tensor:
    """Hard labels: [U] int64 (single-label) or [U, K] bool (multi-label).

    Args:
        said: Single-label: labels [U], or anything [U, K] whose largest entry is the label. Multi-label: [U, K].
        task: `single` or `multi`.
        cut: Multi-label, from where on it is a positive: 0.5 for probabilities, 0 for logits.
    """
    if task == "multi":
        return said >= cut
    return said.argmax(dim=1) if said.ndim == 2 else said


def quality(labels: Tensor, weights: Tensor, truth: Tensor, task: Task) -> Quality:
    """Compare hard labels with the truth.

    Args:
        labels: [U] int64 or [U, K] bool, see `hard`.
        weights: [U] or [U, K].
        truth: [U] int64 or [U, K] float, -1 = unknown: such images (entries) do not count.
        task: `single` or `multi`.
    """
    known = truth >= 0
    if task == "single":
        return Quality((weights * (labels == truth)).sum(), (weights * known).sum(), known.sum())
    true = truth == 1
    return Quality((weights * (labels & true)).sum(), (weights * (labels & known)).sum(), true.sum())


def judge(
    targets: Targets, strong: dict[str, Tensor], labels: Tensor, hidden: Tensor, task: Task
) -> dict[str, tuple[Tensor, Tensor]]:
    """Precision and recall of the targets, and of what each network itself says on the strong views.

    All are under the weights of the targets, so that teacher, student and pseudo-labels are compared on the same images. A
    soft pseudo-label counts as its hard one.

    Args:
        targets: What the algorithm believes.
        strong: Role to logits [U, K] on strong views.
        labels: [U] int64 or [U, K] float, as stored, -1 = unknown.
        hidden: [U] bool, images whose label the training does not use. Others do not count: a network has
            learned those labels by heart.
        task: `single` or `multi`.

    Returns:
        Name to numerator and denominator, scalars: `pseudo/precision`, `pseudo/recall`, and for each role
        `ROLE/pseudo_precision`, `ROLE/pseudo_recall`. A denominator of 0 means that nothing was believed or known.
    """
    truth = torch.where(hidden if task == "single" else hidden[:, None], labels, -1)
    said = {"pseudo/": hard(targets.labels, task)}
    said |= {f"{role}/pseudo_": hard(logits.detach(), task, cut=0) for role, logits in strong.items()}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, guess in said.items():
        right, believed, there = quality(guess, targets.weights, truth, task)
        found |= {f"{name}precision": (right, believed), f"{name}recall": (right, there)}
    return found
