"""SoftMatch: the surer the network, the more a pseudo-label weighs."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.algorithms.alignment import Average, aligned, average_
from stssl.algorithms.base import Algorithm, Seen, Setting, Targets
from stssl.algorithms.thresholds import PseudoLabelConfig, confidence, probabilities, pseudo_labels
from stssl.errors import ConfigError


class SoftMatchConfig(PseudoLabelConfig):
    """`momentum` of all averages; `n_sigma` n_σ.

    `alignment` of the confidences, not of the labels: to `labeled` classes (their frequencies for several labels per
    image, else the average prediction on labeled images), to `uniform` ones, or `none`. `per_class`, for several labels
    per image: the mean and the variance of each side of each class.
    """

    name: Literal["softmatch"] = "softmatch"
    momentum: float = Field(0.999, ge=0, lt=1)
    n_sigma: float = Field(2.0, gt=0, le=10)
    alignment: Literal["labeled", "uniform", "none"] = "labeled"
    per_class: bool = False


class SoftMatch(Algorithm):
    """w = exp(-min(max p' - μ, 0)²·n_σ²/(2v)), μ and v averages of mean and variance of the aligned confidence max p'.

    μ starts at 1/K (multi-label: 1/2, each class by itself), v at 1. Pseudo-labels come from unaligned logits. Where
    fewer than two values make no variance, μ and v stay as they are; with `parity: reference` they are then drawn
    to 0 and 1.

    Source: Chen et al., SoftMatch (ICLR 2023), equations 6 to 8; several labels as in Bernhard et al. (ECAI 2024).
    """

    Config = SoftMatchConfig
    wanted: Tensor  # [K]
    mean: Tensor  # μ: [], [K] or [2, K]: below and above 1/2
    variance: Tensor  # v, likewise

    def __init__(self, config: SoftMatchConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        if setting.task == "single" and config.per_class:
            raise ConfigError(
                "algorithm.per_class: only for data with several labels per image; this data has one, set it to false"
            )
        single, k = setting.task == "single", setting.classes
        wanted = torch.full((k,), 1 / k if single else 0.5)
        if config.alignment == "labeled" and not single and setting.frequencies is not None:
            wanted = setting.frequencies.float()
        shape = () if single else (2, k) if config.per_class else (k,)
        self.register_buffer("wanted", wanted)
        self.register_buffer("mean", torch.full(shape, 1 / k if single else 0.5))
        self.register_buffer("variance", torch.ones(shape))
        self.mean_p = Average((k,), config.momentum)
        self.uses_labeled = single and config.alignment == "labeled"

    def believe(self, seen: Seen, step: int) -> Targets:
        c, p = self.config, probabilities(seen.weak, self.task)
        if c.alignment != "none":
            if self.uses_labeled:
                average_(self.wanted, probabilities(seen.labeled, self.task).mean(0), c.momentum)
            p = aligned(p, self.mean_p.update(p.mean(0)), self.wanted, self.task)
        sure = confidence(p, self.task)
        if c.per_class:
            above = p >= 0.5
            self._update(sure, torch.stack([~above, above]))
            mean, variance = (torch.where(above, state[1], state[0]) for state in (self.mean, self.variance))
        else:
            self._update(sure, torch.ones_like(sure, dtype=torch.bool))
            mean, variance = self.mean, self.variance
        short = (sure - mean).clamp(max=0)
        weights = torch.exp(-(short**2) * c.n_sigma**2 / (2 * variance.clamp(min=1e-12)))
        return Targets(pseudo_labels(seen.weak, self.task, c), weights)

    def _update(self, sure: Tensor, chosen: Tensor) -> None:
        """Take in the mean and the unbiased variance of the chosen confidences along the batch."""
        axis = chosen.ndim - (1 if self.task == "single" else 2)
        n = chosen.sum(axis)
        mean = (sure * chosen).sum(axis) / n.clamp(min=1)
        variance = ((sure - mean.unsqueeze(axis)) ** 2 * chosen).sum(axis) / (n - 1).clamp(min=1)
        few = n < 2
        if self.setting.parity:
            mean, variance = torch.where(few, 0.0, mean), torch.where(few, 1.0, variance)
        else:
            mean, variance = torch.where(few, self.mean, mean), torch.where(few, self.variance, variance)
        average_(self.mean, mean, self.config.momentum)
        average_(self.variance, variance, self.config.momentum)
