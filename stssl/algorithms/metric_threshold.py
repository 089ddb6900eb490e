"""Metric-adaptive thresholds: for each class the threshold whose pseudo-labels would score best on labeled images."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.algorithms.base import Algorithm, Seen, Setting, Targets
from stssl.algorithms.crossfit import Crossfit, CrossfitConfig
from stssl.algorithms.thresholds import likeliest, probabilities


class MetricThresholdConfig(CrossfitConfig):
    """The metric is F_β: `beta` below 1 asks for precision, above 1 for recall.

    A class without a recorded positive has the threshold `fallback`. Thresholds lie on a grid of `levels` values.
    """

    name: Literal["metric_threshold"] = "metric_threshold"
    beta: float = Field(1.0, gt=0, le=10)
    fallback: float = Field(0.95, ge=0, le=1)
    levels: int = Field(100, ge=2, le=10_000)


class MetricThreshold(Algorithm):
    """τ_k = argmax F_β of [p_k ≥ τ] over labeled images (the lowest of equals); ŷ_k = [p_k ≥ τ_k], and all are believed.

    One label per image: p_k of images where k is the likeliest class; ŷ = argmax p, w = [max p ≥ τ_ŷ]. The labeled
    predictions are cross-fitted (`folds`; 0 as published).

    Source: Xiao et al., Dual-Decoupling Learning and Metric-Adaptive Thresholding (ECCV 2024); one label per image and
    the cross-fitting are ours.
    """

    Config = MetricThresholdConfig
    uses_labeled = True

    def __init__(self, config: MetricThresholdConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.record = Crossfit(config, setting)

    def believe(self, seen: Seen, step: int) -> Targets:
        labeled, p = probabilities(seen.labeled, self.task), probabilities(seen.weak, self.task)
        resting = self.record.update(labeled, seen.y, seen.labeled_rows, step)
        levels = self.thresholds()
        if self.task == "multi":
            return Targets((p >= levels).float(), torch.ones_like(p), resting=resting)
        guess = p.argmax(dim=1)
        return Targets(guess, (p.amax(dim=1) >= levels[guess]).float(), resting=resting)

    def thresholds(self) -> Tensor:
        """τ, [K]."""
        c, known = self.config, self.record.known
        p = self.record.p
        positive = known & (self.record.y == 1)
        if self.task == "single":  # an image is only ever taken for its likeliest class
            p = torch.where(likeliest(p), p, -1.0)
        grid = torch.arange(c.levels, device=p.device) / c.levels
        # how many of a class lie at or above each level: counted from the highest down
        bins = torch.where(known & (p >= 0), torch.searchsorted(grid, p.clamp(min=0), right=True), 0)
        taken, right = (self._at_or_above(bins, which) for which in (known, positive))
        total = positive.sum(0)
        score = (1 + c.beta**2) * right / (taken + c.beta**2 * total).clamp(min=1e-12)
        best = grid[score.argmax(dim=0)]
        return torch.where(total > 0, best, c.fallback)

    def _at_or_above(self, bins: Tensor, which: Tensor) -> Tensor:
        # whole numbers: a sum of floats along a column has no deterministic form on a GPU
        counts = torch.zeros(self.config.levels + 1, bins.shape[1], dtype=torch.int64, device=bins.device)
        counts.scatter_add_(0, bins, which.long())
        return counts[1:].flip(0).cumsum(0).flip(0)
