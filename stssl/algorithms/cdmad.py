"""CDMAD: take off what the network says about an image that shows nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from stssl.algorithms.base import Algorithm, Seen, Setting, Targets
from stssl.algorithms.thresholds import ThresholdConfig, probabilities


class CdmadConfig(ThresholdConfig):
    """Thresholds as FixMatch, on debiased probabilities; the bias counts from step `debias_start` on.

    Published for BigEarthNet: thresholds 0.05 and 0.95, debiasing from step 2,000.
    """

    name: Literal["cdmad"] = "cdmad"
    debias_start: int = Field(0, ge=0, le=10**9)


class Cdmad(Algorithm):
    """ŷ = softmax(z - b), soft, with b the logits of the same network on a white image without place and date.

    At test the student's logits lose its own b, which an exported student has in its bias. Multi-label: the same with σ.

    Source: Lee and Kim, CDMAD (CVPR 2024); several labels as in Bernhard et al. (ECAI 2024), where b comes from a
    head that training never updates: here it is that of the head in use.
    """

    Config = CdmadConfig
    uses_blank = True

    def __init__(self, config: CdmadConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        config.check(setting.task)

    def believe(self, seen: Seen, step: int) -> Targets:
        weak = seen.weak.detach().float()
        if seen.blank is not None and step >= self.config.debias_start:
            weak = weak - seen.blank.detach().float()
        p = probabilities(weak, self.task)
        return Targets(p, self.config.mask(p, self.task))

    def correction(self, blank: Tensor, step: int) -> Tensor | None:
        return -blank.float() if step >= self.config.debias_start else None
