"""CAP: as many pseudo-labels of each class as the labeled images let expect."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.algorithms.base import Algorithm, Logits, Seen, SemiSupervisedConfig, Setting, Targets
from stssl.algorithms.losses import asymmetric_loss, entry_losses
from stssl.algorithms.thresholds import probabilities
from stssl.errors import ConfigError
from stssl.models.teacher_student import Role


class CapConfig(SemiSupervisedConfig):
    """`positive_share` κ₊ and `negative_share` κ₋ of the expected positives and negatives are believed.

    At the published 1 and 1 everything is. `asymmetric` takes the asymmetric loss with its `gamma_negative`,
    `gamma_positive`, `clip` and `focal_gradient`, else cross-entropy. The last `queue_size` predictions set the
    thresholds. As published the pseudo-labels come from the moving average: `training.target_source: ema`.
    """

    name: Literal["cap"] = "cap"
    positive_share: float = Field(1.0, ge=0, le=1)
    negative_share: float = Field(1.0, ge=0, le=1)
    queue_size: int = Field(64_000, ge=1, le=10_000_000)
    asymmetric: bool = True
    gamma_negative: float = Field(4.0, ge=0, le=20)
    gamma_positive: float = Field(1.0, ge=0, le=20)
    clip: float = Field(0.05, ge=0, lt=1)
    focal_gradient: bool = False


class Cap(Algorithm):
    """ŷ = [p ≥ Q(1-γ)], w = [p ≥ Q(1-κ₊γ) or p ≤ Q(κ₋(1-γ))], Q quantiles of each class's latest p, γ its frequency.

    Only for several labels per image. Q(f) is element ⌊n·f⌋, at most n-1, of the n sorted values. `unsupervised` is the
    mean over believed entries. A class that the labeled images never show gets no positive pseudo-label; with
    `parity: reference` it gets the largest p of the queue.

    Source: Xie et al., Class-Distribution-Aware Pseudo-Labeling (NeurIPS 2023); loss of Ridnik et al. (ICCV 2021).
    """

    Config = CapConfig
    queue: Tensor  # [K, queue_size], +inf where nothing has been put yet
    count: Tensor  # how many rows were ever put
    frequencies: Tensor  # γ [K] float64

    def __init__(self, config: CapConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        if setting.task == "single":
            raise ConfigError(
                "algorithm: cap is defined for data with several labels per image; this data has one, use softmatch or udal"
            )
        frequencies = torch.full((setting.classes,), 0.5) if setting.frequencies is None else setting.frequencies
        self.register_buffer("frequencies", frequencies.double())
        self.register_buffer("queue", torch.full((setting.classes, config.queue_size), torch.inf))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def believe(self, seen: Seen, step: int) -> Targets:
        c, p, gamma = self.config, probabilities(seen.weak, "multi"), self.frequencies
        newest = p[-c.queue_size :]
        slots = (self.count + torch.arange(len(newest), device=p.device)) % c.queue_size
        self.queue[:, slots] = newest.T
        self.count += len(newest)
        wanted = torch.stack([1 - gamma, 1 - c.positive_share * gamma, c.negative_share * (1 - gamma)], dim=1)
        n = self.count.clamp(max=c.queue_size)
        # 10 · (1 - 0.9) is just below 1 in floating point, and is meant to be 1
        index = (n * wanted + 1e-9).floor().long().clamp(max=n - 1)
        levels = self.queue.sort(dim=1).values.gather(1, index)  # +inf lies behind the n values
        label, positive, negative = levels.unbind(1)
        if not self.setting.parity:
            label, positive = (torch.where(gamma > 0, level, torch.inf) for level in (label, positive))
        return Targets((p >= label).float(), ((p >= positive) | (p <= negative)).float())

    def losses(self, logits: Logits, y: Tensor, targets: Targets | None, role: Role, step: int) -> dict[str, Tensor]:
        known = y >= 0
        losses = {"supervised": (self._terms(logits.labeled, y.clamp(min=0)) * known).sum() / known.sum().clamp(min=1)}
        if logits.strong is not None and targets is not None:
            terms = self._terms(logits.strong, targets.labels) * targets.weights
            losses["unsupervised"] = self.config.unlabeled_weight * terms.sum() / (targets.weights.sum() + 1e-8)
        return losses

    def _terms(self, logits: Tensor, y: Tensor) -> Tensor:
        c = self.config
        if not c.asymmetric:
            return entry_losses(logits, y, "multi")
        return asymmetric_loss(logits, y, c.gamma_negative, c.gamma_positive, c.clip, c.focal_gradient)
