"""What several algorithms share: probabilities, confidence, fixed thresholds, pseudo-labels. No algorithm of its own."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stssl.algorithms.base import SemiSupervisedConfig
from stssl.data.schema import Task
from stssl.errors import ConfigError


class PseudoLabelConfig(SemiSupervisedConfig):
    """Hard pseudo-labels, or soft ones at a temperature."""

    hard_labels: bool = True
    temperature: float = Field(0.5, gt=0, le=10)


class ThresholdConfig(SemiSupervisedConfig):
    """Fixed confidence thresholds.

    `threshold` is the least confidence; for multi-label, confidence is max(p, 1-p) of each class. The pair
    `threshold_negative`, `threshold_positive` replaces it for multi-label (published: 0.05 and 0.7).
    """

    threshold: float = Field(0.95, ge=0, le=1)
    threshold_negative: float | None = Field(None, ge=0, le=1)
    threshold_positive: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _pair(self) -> Self:
        low, high = self.threshold_negative, self.threshold_positive
        if (low is None) != (high is None):
            raise ValueError("threshold_negative and threshold_positive go together; give both or neither")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"threshold_negative {low} must be below threshold_positive {high}")
        return self

    def check(self, task: Task) -> None:
        """Refuse a pair of thresholds for one label per image."""
        if task == "single" and self.threshold_positive is not None:
            raise ConfigError(
                "algorithm.threshold_positive: only for data with several labels per image; "
                "this data has one, use algorithm.threshold"
            )

    def mask(self, p: Tensor, task: Task) -> Tensor:
        """Which probabilities [U, K] are believed: 0 or 1, [U] (single-label) or [U, K]; equality passes."""
        if task == "multi" and self.threshold_negative is not None and self.threshold_positive is not None:
            return ((p <= self.threshold_negative) | (p >= self.threshold_positive)).float()
        return (confidence(p, task) >= self.threshold).float()


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Softmax or sigmoid of logits [U, K], in float32 and without a gradient."""
    logits = logits.detach().float()
    return logits.softmax(dim=1) if task == "single" else logits.sigmoid()


def likeliest(p: Tensor) -> Tensor:
    """[U, K] bool, True at one class of each row: the first of the largest."""
    return torch.zeros_like(p, dtype=torch.bool).scatter_(1, p.argmax(dim=1, keepdim=True), True)


def confidence(p: Tensor, task: Task) -> Tensor:
    """Largest probability of each row, [U]; for multi-label max(p, 1-p) of each entry, [U, K]."""
    return p.amax(dim=1) if task == "single" else torch.maximum(p, 1 - p)


def pseudo_labels(logits: Tensor, task: Task, config: PseudoLabelConfig) -> Tensor:
    """Hard: the class of the largest logit [U] int64, or [z ≥ 0] [U, K]. Soft: softmax or sigmoid of z/T, [U, K]."""
    logits = logits.detach().float()
    if not config.hard_labels:
        return probabilities(logits / config.temperature, task)
    return logits.argmax(dim=1) if task == "single" else (logits >= 0).float()
