"""UDAL: distribution alignment as an offset of the logits in both losses."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.algorithms.alignment import Average, average_
from stssl.algorithms.base import Algorithm, Logits, Seen, Setting, Targets
from stssl.algorithms.thresholds import PseudoLabelConfig, ThresholdConfig, probabilities, pseudo_labels
from stssl.models.teacher_student import Role


class UdalConfig(ThresholdConfig, PseudoLabelConfig):
    """Thresholds as FixMatch; α falls from 1 to `alpha_min` as the share of finished steps to the `power` rises.

    `target` is the distribution of classes: `labeled` (their frequencies for several labels per image, else the average
    prediction on labeled images) or `uniform`.
    """

    name: Literal["udal"] = "udal"
    alpha_min: float = Field(0.5, ge=0, le=1)
    power: float = Field(2.0, gt=0, le=10)
    momentum: float = Field(0.999, ge=0, lt=1)
    target: Literal["labeled", "uniform"] = "labeled"


class Udal(Algorithm):
    """`supervised` on z + adj(π), `unsupervised` on z + adj(p̃), with adj(d) = log(d/(π_α + 1e-9)), π_α = π^α/Σπ^α.

    α = 1 - (1-α_min)·(t/T)^k, and p̃ is the average of each network's own predictions: on weak views for the one that makes
    the targets, on strong views for the student beside it. Multi-label: π_α = π^α/(π^α + (1-π)^α).

    A class that labels or predictions never show counts as one in a million, which keeps the offsets finite. With
    `parity: reference` they are infinite, and the student's p̃ is the teacher's.

    Source: Lazarow et al., Unifying Distribution Alignment as a Loss (WACV 2023); several labels as in Bernhard et al.
    (ECAI 2024).
    """

    Config = UdalConfig
    wanted: Tensor  # π [K]

    def __init__(self, config: UdalConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        config.check(setting.task)
        single, k = setting.task == "single", setting.classes
        wanted = torch.full((k,), 1 / k if single else 0.5)
        if config.target == "labeled" and not single and setting.frequencies is not None:
            wanted = setting.frequencies.float()
        self.register_buffer("wanted", wanted)
        self.mean_p = Average((k,), config.momentum)
        self.mean_p_student = Average((k,), config.momentum)
        self.uses_labeled = single and config.target == "labeled"

    def believe(self, seen: Seen, step: int) -> Targets:
        p = probabilities(seen.weak, self.task)
        self.mean_p.update(p.mean(0))
        if self.uses_labeled:
            average_(self.wanted, probabilities(seen.labeled, self.task).mean(0), self.config.momentum)
        return Targets(pseudo_labels(seen.weak, self.task, self.config), self.config.mask(p, self.task))

    def losses(self, logits: Logits, y: Tensor, targets: Targets | None, role: Role, step: int) -> dict[str, Tensor]:
        strong = logits.strong
        if strong is not None:
            mean = self.mean_p.value
            if role != self.setting.believer:
                own = self.mean_p_student.update(probabilities(strong, self.task).mean(0))
                mean = mean if self.setting.parity else own
            strong = strong.float() + self._offset(mean, step)
        moved = logits._replace(labeled=logits.labeled.float() + self._offset(self.wanted, step), strong=strong)
        return super().losses(moved, y, targets, role, step)

    def _offset(self, share: Tensor, step: int) -> Tensor:
        """adj(share), [K]."""
        alpha = 1 - (1 - self.config.alpha_min) * (step / self.setting.steps) ** self.config.power
        wanted = self.wanted
        if not self.setting.parity:
            share, wanted = share.clamp(min=1e-6), wanted.clamp(min=1e-6)
        rest = (1 - wanted) ** alpha if self.task == "multi" else (wanted**alpha).sum() - wanted**alpha
        return torch.log(share / (wanted**alpha / (wanted**alpha + rest) + 1e-9))
