"""FixMatch: believe what the network is sure of."""

from __future__ import annotations

from typing import Literal

from stssl.algorithms.base import Algorithm, Seen, Setting, Targets
from stssl.algorithms.thresholds import PseudoLabelConfig, ThresholdConfig, probabilities, pseudo_labels


class FixMatchConfig(ThresholdConfig, PseudoLabelConfig):
    """Fixed confidence thresholds.

    `threshold` is the least confidence; for multi-label, confidence is max(p, 1-p) of each class. The pair
    `threshold_negative`, `threshold_positive` replaces it for multi-label (published: 0.05 and 0.7).
    """

    name: Literal["fixmatch"] = "fixmatch"


class FixMatch(Algorithm):
    """w = [max p ≥ τ] and ŷ = argmax p, or softmax(z/T) with soft labels.

    Multi-label, for each class: w = [p ≤ τ₋ or p ≥ τ₊] (one τ: max(p, 1-p) ≥ τ) and ŷ = [z ≥ 0], or σ(z/T).

    Source: Sohn et al. (NeurIPS 2020); several labels per image as in Bernhard et al. (ECAI 2024).
    """

    Config = FixMatchConfig

    def __init__(self, config: FixMatchConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        config.check(setting.task)

    def believe(self, seen: Seen, step: int) -> Targets:
        p = probabilities(seen.weak, self.task)
        return Targets(pseudo_labels(seen.weak, self.task, self.config), self.config.mask(p, self.task))
