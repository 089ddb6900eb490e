"""Precision-calibrated weights: a pseudo-label weighs as much as such pseudo-labels are right on labeled images."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.algorithms.base import Algorithm, Seen, Setting, Targets
from stssl.algorithms.crossfit import Crossfit, CrossfitConfig
from stssl.algorithms.thresholds import confidence, likeliest, probabilities


class PrecisionWeightConfig(CrossfitConfig):
    """Probabilities fall into `bins` of equal width; a weight below `threshold` is 0.

    `prior` is how many labeled images the guess of the level above counts for: that all classes are alike for one class,
    that confidence is precision for all of them.
    """

    name: Literal["precision_weight"] = "precision_weight"
    bins: int = Field(20, ge=2, le=1000)
    threshold: float = Field(0.7, ge=0, le=1)
    prior: float = Field(5.0, gt=0, le=1000)


class PrecisionWeight(Algorithm):
    """ŷ = argmax p (multi-label: [p ≥ 1/2]) and w = P(ŷ is right | class, bin of p), 0 below the threshold.

    P is the share of right ones among labeled images in the same bin: (right_kb + m·P_b)/(n_kb + m), with P_b the same over
    all classes, (right_b + m·c_b)/(n_b + m), and c_b the confidence at the bin's middle. One label per image: the class and
    the bin of the likeliest class. The labeled predictions are cross-fitted (`folds`), since the share of right ones is larger on
    images that were learned from.

    Source: Han et al., DiCaP (AAAI 2026), for weights that are posterior precisions; the two-level estimate, the folds and one
    label per image are ours, and there is no contrastive loss on ambiguous entries.
    """

    Config = PrecisionWeightConfig
    uses_labeled = True

    def __init__(self, config: PrecisionWeightConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.record = Crossfit(config, setting)

    def believe(self, seen: Seen, step: int) -> Targets:
        labeled, p = probabilities(seen.labeled, self.task), probabilities(seen.weak, self.task)
        resting = self.record.update(labeled, seen.y, seen.labeled_rows, step)
        table = self.precisions()
        if self.task == "multi":
            labels, weights = (p >= 0.5).float(), table.gather(0, self._bin(p))
        else:
            labels = p.argmax(dim=1)
            weights = table[self._bin(p.amax(dim=1)), labels]
        return Targets(labels, torch.where(weights >= self.config.threshold, weights, 0.0), resting=resting)

    def precisions(self) -> Tensor:
        """How often a pseudo-label is right, [bins, K]."""
        c, known, p = self.config, self.record.known, self.record.p
        if self.task == "single":
            counted = known & likeliest(p)
            right = counted & (self.record.y == 1)
        else:
            counted, right = known, known & ((p >= 0.5) == (self.record.y == 1))
        where = self._bin(p)
        n, r = (torch.zeros(c.bins, self.classes, device=p.device) for _ in range(2))
        n.scatter_add_(0, where, counted.float())
        r.scatter_add_(0, where, right.float())
        middle = (torch.arange(c.bins, device=p.device) + 0.5) / c.bins
        sure = confidence(middle[:, None], "multi") if self.task == "multi" else middle[:, None]
        pooled = (r.sum(1, keepdim=True) + c.prior * sure) / (n.sum(1, keepdim=True) + c.prior)
        return (r + c.prior * pooled) / (n + c.prior)

    def _bin(self, p: Tensor) -> Tensor:
        return (p * self.config.bins).long().clamp(0, self.config.bins - 1)
