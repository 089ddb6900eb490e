"""AdaMatch: a threshold relative to how sure the network is of labeled images."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from stssl.algorithms.alignment import Average, aligned
from stssl.algorithms.base import Algorithm, Logits, Seen, SemiSupervisedConfig, Setting, Targets
from stssl.algorithms.losses import supervised_loss
from stssl.algorithms.thresholds import confidence, probabilities
from stssl.models.teacher_student import Role


class AdaMatchConfig(SemiSupervisedConfig):
    """`threshold` τ is relative; `momentum` 0 aligns with the batch's own means, as published.

    `rampup`: the unsupervised loss grows along a half cosine over the first half of the training.
    """

    name: Literal["adamatch"] = "adamatch"
    threshold: float = Field(0.9, ge=0, le=1)
    hard_labels: bool = False
    momentum: float = Field(0.0, ge=0, lt=1)
    rampup: bool = True


class AdaMatch(Algorithm):
    """p' ∝ p·E[p_labeled]/E[p], w = [max p' ≥ τ·mean max p_labeled], ŷ = p'; `supervised` on weak and on strong views.

    The supervised loss is the sum of both; the unsupervised one is weighed by 1/2 - cos(min(π, 2π·t/T))/2. Multi-label: each
    class by itself. Random logit interpolation is left out: it changes only networks with batch norm, which here see labeled
    and strong views together.

    Source: Berthelot et al., AdaMatch (ICLR 2022), equations 3 to 8; several labels per image are ours.
    """

    Config = AdaMatchConfig
    uses_labeled = True
    uses_labeled_strong = True

    def __init__(self, config: AdaMatchConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.labeled_p = Average((setting.classes,), config.momentum)
        self.unlabeled_p = Average((setting.classes,), config.momentum)

    def believe(self, seen: Seen, step: int) -> Targets:
        weak, labeled = (probabilities(logits, self.task) for logits in (seen.weak, seen.labeled))
        wanted, current = self.labeled_p.update(labeled.mean(0)), self.unlabeled_p.update(weak.mean(0))
        p = aligned(weak, current, wanted, self.task)
        level = self.config.threshold * confidence(labeled, self.task).mean(0)
        weights = (confidence(p, self.task) >= level).float()
        hard = p.argmax(1) if self.task == "single" else (p >= 0.5).float()
        return Targets(hard if self.config.hard_labels else p, weights)

    def losses(self, logits: Logits, y: Tensor, targets: Targets | None, role: Role, step: int) -> dict[str, Tensor]:
        losses = super().losses(logits, y, targets, role, step)
        if logits.labeled_strong is not None:
            losses["supervised"] = losses["supervised"] + supervised_loss(logits.labeled_strong, y, self.task)
        if self.config.rampup and "unsupervised" in losses:
            phase = min(math.pi, 2 * math.pi * step / self.setting.steps)
            losses["unsupervised"] = (0.5 - math.cos(phase) / 2) * losses["unsupervised"]
        return losses
