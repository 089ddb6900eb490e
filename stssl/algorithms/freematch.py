"""FreeMatch: thresholds that follow what the network has learned, and a term that spreads its predictions."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.algorithms.alignment import average_
from stssl.algorithms.base import Algorithm, Logits, Seen, Setting, Targets
from stssl.algorithms.fairness import fairness
from stssl.algorithms.thresholds import PseudoLabelConfig, confidence, probabilities, pseudo_labels
from stssl.errors import ConfigError
from stssl.models.teacher_student import Role


class FreeMatchConfig(PseudoLabelConfig):
    """`momentum` of all averages; `fairness_weight` λ_e; only labels teach for the first `warmup_steps`.

    `quantile` takes the 0.8-quantile of the confidence instead of its mean (one label per image only); `clip` keeps
    the global threshold at 0.95 or below.
    """

    name: Literal["freematch"] = "freematch"
    momentum: float = Field(0.999, ge=0, lt=1)
    fairness_weight: float = Field(0.001, ge=0, le=10)
    warmup_steps: int = Field(0, ge=0, le=10**9)
    quantile: bool = False
    clip: bool = False


class FreeMatch(Algorithm):
    """w = [max p ≥ t·p̃_ŷ/max p̃], with t, p̃, h̃ averages of the confidence, the probabilities and the predicted classes.

    All start at 1/K. Multi-label: each class by itself, from 1/2, with p̃ on the positive side and 1-p̃ on the negative.
    The state learns during the warm-up too.

    With `parity: reference` a class of multi-label data in which no entry passes the mask makes the fairness term NaN,
    and one in which all entries agree adds a constant; here both add nothing.

    Source: Wang et al., FreeMatch (ICLR 2023), equations 5 to 11; several labels as in Bernhard et al. (ECAI 2024).
    """

    Config = FreeMatchConfig
    confidence: Tensor  # t: [] or [K]
    mean_p: Tensor  # p̃ [K]
    histogram: Tensor  # h̃ [K]

    def __init__(self, config: FreeMatchConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        if setting.task == "multi" and config.quantile:
            raise ConfigError(
                "algorithm.quantile: only for data with one label per image; this data has several, set it to false"
            )
        start = torch.full((setting.classes,), 1 / setting.classes if setting.task == "single" else 0.5)
        self.register_buffer("confidence", start[0].clone() if setting.task == "single" else start.clone())
        self.register_buffer("mean_p", start.clone())
        self.register_buffer("histogram", start.clone())

    def believe(self, seen: Seen, step: int) -> Targets:
        c, single = self.config, self.task == "single"
        p = probabilities(seen.weak, self.task)
        sure = confidence(p, self.task)
        guess = torch.nn.functional.one_hot(p.argmax(1), self.classes).float() if single else (p >= 0.5).float()
        level = torch.quantile(sure, 0.8) if c.quantile else sure.mean(0)
        average_(self.confidence, level, c.momentum)
        if c.clip:
            self.confidence.clamp_(0, 0.95)
        average_(self.mean_p, p.mean(0), c.momentum)
        average_(self.histogram, guess.mean(0), c.momentum)
        if single:
            relative = (self.mean_p / self.mean_p.max())[p.argmax(1)]
        else:
            side = torch.where(p >= 0.5, self.mean_p, 1 - self.mean_p)
            relative = side / torch.maximum(self.mean_p, 1 - self.mean_p)
        weights = (sure >= self.confidence * relative).float()
        return Targets(pseudo_labels(seen.weak, self.task, c), weights)

    def losses(self, logits: Logits, y: Tensor, targets: Targets | None, role: Role, step: int) -> dict[str, Tensor]:
        if self.warming_up(step):
            return super().losses(logits, y, None, role, step)
        losses = super().losses(logits, y, targets, role, step)
        if targets is not None and logits.strong is not None and self.config.fairness_weight > 0:
            term = fairness(logits.strong, targets.weights, self.mean_p, self.histogram, self.task, self.setting.parity)
            losses["fairness"] = self.config.fairness_weight * term
        return losses

    def warming_up(self, step: int) -> bool:
        return bool(step < self.config.warmup_steps)
