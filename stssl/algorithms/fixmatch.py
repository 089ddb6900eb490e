"""FixMatch: believe what the network is sure of."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stssl.algorithms.base import Algorithm, SemiSupervisedConfig, Targets
from stssl.data.schema import Task
from stssl.errors import ConfigError


class FixMatchConfig(SemiSupervisedConfig):
    """Fixed confidence thresholds.

    `threshold` is the least confidence; for multi-label, confidence is max(p, 1-p) of each class. The pair
    `threshold_negative`, `threshold_positive` replaces it for multi-label (published: 0.05 and 0.7).
    """

    name: Literal["fixmatch"] = "fixmatch"
    threshold: float = Field(0.95, ge=0, le=1)
    threshold_negative: float | None = Field(None, ge=0, le=1)
    threshold_positive: float | None = Field(None, ge=0, le=1)
    hard_labels: bool = True
    temperature: float = Field(0.5, gt=0, le=10)

    @model_validator(mode="after")
    def _pair(self) -> FixMatchConfig:
        low, high = self.threshold_negative, self.threshold_positive
        if (low is None) != (high is None):
            raise ValueError("threshold_negative and threshold_positive go together; give both or neither")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"threshold_negative {low} must be below threshold_positive {high}")
        return self


class FixMatch(Algorithm):
    """w = [max p ≥ τ] and ŷ = argmax p, or softmax(z/T) with soft labels.

    Multi-label, for each class: w = [p ≤ τ₋ or p ≥ τ₊] (one τ: max(p, 1-p) ≥ τ) and ŷ = [z ≥ 0], or σ(z/T).

    Source: Sohn et al. (NeurIPS 2020); several labels per image as in Bernhard et al. (ECAI 2024).
    """

    Config = FixMatchConfig

    def __init__(self, config: FixMatchConfig, task: Task, classes: int) -> None:
        super().__init__(config, task, classes)
        if task == "single" and config.threshold_positive is not None:
            raise ConfigError(
                "algorithm.threshold_positive: only for data with several labels per image; "
                "this data has one, use algorithm.threshold"
            )

    def believe(self, weak: Tensor, labeled: Tensor, step: int) -> Targets:
        c = self.config
        weak = weak.detach().float()
        if self.task == "single":
            weights = weak.softmax(dim=1).amax(dim=1) >= c.threshold
            labels = weak.argmax(dim=1) if c.hard_labels else (weak / c.temperature).softmax(dim=1)
            return Targets(labels, weights.float())
        p = weak.sigmoid()
        if c.threshold_positive is None:
            weights = torch.maximum(p, 1 - p) >= c.threshold
        else:
            weights = (p <= c.threshold_negative) | (p >= c.threshold_positive)
        labels = (weak >= 0).float() if c.hard_labels else (weak / c.temperature).sigmoid()
        return Targets(labels, weights.float())
