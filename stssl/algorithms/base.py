"""What every algorithm is: a policy for targets, weights and losses that owns its state."""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Targets(NamedTuple):
    """What is believed about unlabeled images; never with a gradient."""

    labels: Tensor  # [B] int64 or [B, K] float
    weights: Tensor  # [B] or [B, K], 0..1


class Algorithm(nn.Module):
    """A semi-supervised algorithm.

    It sees logits, labels and the step, never metadata, optimizers or devices, and the same code serves teacher and
    student. State lives in buffers, so that a checkpoint of the module is complete.

    A subclass names its configuration in `Config` and implements `believe`; most need not change `losses`.

    Attributes:
        uses_unlabeled: Whether unlabeled images are drawn at all.
    """

    uses_unlabeled = True

    def __init__(self, config: Any, task: Task, classes: int) -> None:
        super().__init__()
        self.config = config
        self.task: Task = task
        self.classes = classes

    def believe(self, weak: Tensor, labeled: Tensor, step: int) -> Targets:
        """Make targets; state is updated first, then used.

        Args:
            weak: [U, K] logits of the network that makes the targets, on weak views of unlabeled images.
            labeled: [B, K] its logits on labeled images, detached.
            step: Number of finished optimizer steps.
        """
        raise NotImplementedError

    def losses(
        self, labeled: Tensor, y: Tensor, strong: Tensor | None, targets: Targets | None, role: Role, step: int
    ) -> dict[str, Tensor]:
        """Named, weighted losses of one network; their sum is minimised.

        Args:
            labeled: [B, K] logits on weak views of labeled images.
            y: Labels, -1 = unknown.
            strong: [U, K] logits on strong views of unlabeled images; None where the algorithm uses none.
            targets: What `believe` made; the same for teacher and student.
            role: Whose logits these are.
            step: Number of finished optimizer steps.
        """
        losses = {"supervised": supervised_loss(labeled, y, self.task)}
        if strong is not None and targets is not None:
            consistency = consistency_loss(strong, targets.labels, targets.weights, self.task)
            losses["unsupervised"] = self.config.unlabeled_weight * consistency
        return losses
