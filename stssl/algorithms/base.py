"""What every algorithm is: a policy for targets, weights and losses that owns its state."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from stssl.algorithms.losses import consistency_loss, supervised_loss
from stssl.config import Config
from stssl.data.schema import Task
from stssl.models.teacher_student import Role


class AlgorithmConfig(Config):
    """What all algorithms share."""

    name: str


class SemiSupervisedConfig(AlgorithmConfig):
    """What all algorithms share that learn from unlabeled images."""

    unlabeled_weight: float = Field(1.0, ge=0, le=100)


class Setting(NamedTuple):
    """What an algorithm may know beforehand.

    Attributes:
        task: `single` or `multi`.
        classes: K.
        frequencies: [K] share of the labeled images that show each class (see `class_frequencies`); None = uniform.
        labeled: Images in the labeled pool.
        unlabeled: Images in the unlabeled pool.
        steps: Length of the training in optimizer steps.
        believer: Whose logits make the targets.
        parity: Repeat the published faults; each algorithm's docstring names its own.
    """

    task: Task
    classes: int
    frequencies: Tensor | None = None
    labeled: int = 0
    unlabeled: int = 0
    steps: int = 1
    believer: Role = "teacher"
    parity: bool = False


class Seen(NamedTuple):
    """What the network that makes the targets says; never with a gradient.

    Attributes:
        weak: [U, K] logits on weak views of unlabeled images.
        labeled: [B, K] logits on weak views of labeled images, where the algorithm asks for them; else those that are
            there anyway, which may be another network's.
        y: Their labels, [B] int64 or [B, K] float; -1 = unknown.
        rows: [U] int64, which members of the unlabeled pool these are.
        labeled_rows: [B] int64, which members of the labeled pool.
        blank: [1, K] logits on a white image without place and date, where the algorithm asks for them.
    """

    weak: Tensor
    labeled: Tensor
    y: Tensor
    rows: Tensor
    labeled_rows: Tensor
    blank: Tensor | None = None


class Targets(NamedTuple):
    """What is believed; never with a gradient.

    Attributes:
        labels: [U] int64 or [U, K] in 0..1, of unlabeled images.
        weights: [U] (single-label) or [U, K] (multi-label), 0..1.
        labeled: The same for strong views of labeled images, where the algorithm makes such targets.
        resting: [B] bool, labeled images that no label teaches in this step; None = all are taught.
    """

    labels: Tensor
    weights: Tensor
    labeled: Targets | None = None
    resting: Tensor | None = None


class Logits(NamedTuple):
    """What one network says about the images that it learns from.

    Attributes:
        labeled: [B, K], weak views of labeled images.
        strong: [U, K], strong views of unlabeled images; None where the algorithm draws none.
        labeled_strong: [B, K], strong views of labeled images, where the algorithm asks for them.
    """

    labeled: Tensor
    strong: Tensor | None = None
    labeled_strong: Tensor | None = None


class Algorithm(nn.Module):
    """A semi-supervised algorithm.

    It sees logits, labels and the step, never metadata, optimizers or devices, and the same code serves teacher and
    student. State lives in buffers, so that a checkpoint of the module is complete.

    A subclass names its configuration in `Config` and implements `believe`; most need not change `losses`.

    Attributes:
        uses_unlabeled: Whether unlabeled images are drawn at all.
        uses_labeled: Whether it asks what the network that makes the targets says about labeled images.
        uses_labeled_strong: Whether it asks for strong views of labeled images.
        uses_blank: Whether it asks for the logits on a white image.

    Raises:
        ConfigError: The configuration does not fit the task.
    """

    uses_unlabeled = True
    uses_labeled = False
    uses_labeled_strong = False
    uses_blank = False

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.setting = setting
        self.task: Task = setting.task
        self.classes = setting.classes

    def believe(self, seen: Seen, step: int) -> Targets:
        """Make targets; state is updated first, then used.

        Args:
            seen: What the network that makes the targets says.
            step: Number of finished optimizer steps.
        """
        raise NotImplementedError

    def losses(self, logits: Logits, y: Tensor, targets: Targets | None, role: Role, step: int) -> dict[str, Tensor]:
        """Named, weighted losses of one network; their sum is minimised.

        Args:
            logits: Of one network.
            y: Labels of the labeled images, -1 = unknown.
            targets: What `believe` made, the same for teacher and student; None where no unlabeled image is drawn.
            role: Whose logits these are.
            step: Number of finished optimizer steps.
        """
        if targets is not None and targets.resting is not None:
            y = torch.where(targets.resting.view(-1, *[1] * (y.ndim - 1)), -1, y)
        losses = {"supervised": supervised_loss(logits.labeled, y, self.task)}
        if logits.strong is not None and targets is not None:
            consistency = consistency_loss(logits.strong, targets.labels, targets.weights, self.task)
            losses["unsupervised"] = self.config.unlabeled_weight * consistency
        return losses

    def warming_up(self, step: int) -> bool:
        """Only labels teach at this step: neither pseudo-labels nor distillation."""
        return False

    def correction(self, blank: Tensor, step: int) -> Tensor | None:
        """What is added to the deployed network's logits, [1, K]; None = nothing. It becomes part of an exported bias.

        Args:
            blank: [1, K] that network's logits on a white image.
            step: Number of finished optimizer steps.
        """
        return None


def class_frequencies(labels: Tensor, task: Task, classes: int) -> Tensor:
    """Share of the images with a known label that show each class.

    Args:
        labels: [N] int64 or [N, K] float, -1 = unknown.
        task: `single` or `multi`.
        classes: K.

    Returns:
        [K] float64; single-label it sums to 1. Uniform (single) or 0 (a class of multi) where nothing is known.
    """
    if task == "multi":
        known = labels >= 0
        return ((labels == 1) & known).sum(0).double() / known.sum(0).clamp(min=1)
    counts = torch.bincount(labels[labels >= 0], minlength=classes).double()
    return counts / counts.sum() if counts.sum() else torch.full((classes,), 1 / classes, dtype=torch.float64)
