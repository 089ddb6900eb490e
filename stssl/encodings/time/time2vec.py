"""A learned linear trend and learned waves."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.base import TimeEncoding
from stssl.encodings.time._harmonics import YEAR_DAYS


class Time2VecConfig(Config):
    """`features` learned numbers: one that grows with the years, and waves of one to four cycles a year at first."""

    name: Literal["time2vec"] = "time2vec"
    features: int = Field(16, ge=8, le=64)


class Time2Vec(TimeEncoding):
    """[ω₀t + b₀, sin(ω_i t + b_i)], i = 1..features - 1, t in years of 365.2425 days since 2000; [B] -> [B, features].

    ω_i starts at 1, 2, 3, 4, 1, 2, ... cycles a year and b_i anywhere in a cycle; ω₀ starts at 0.1 a year and b₀ at 0,
    so that the trend is near 2 for the images of 2020. The products are taken in float64.

    Source: Kazemi et al., "Time2Vec: Learning a Vector Representation of Time" (arXiv 1907.05321, 2019).
    Deviation: they start from random frequencies.
    """

    Config = Time2VecConfig

    def __init__(self, config: Time2VecConfig) -> None:
        super().__init__()
        self.features = config.features
        cycles = torch.arange(self.features - 1) % 4 + 1.0
        self.frequency = nn.Parameter(torch.cat([torch.tensor([0.1]), 2 * math.pi * cycles]))  # radians a year
        self.phase = nn.Parameter(torch.cat([torch.zeros(1), 2 * math.pi * torch.rand(self.features - 1)]))

    def forward(self, days: Tensor, lat_deg: Tensor) -> Tensor:
        years = (days - 10_957) / YEAR_DAYS  # 10,957 days from 1970 to 2000
        angle = years[:, None] * self.frequency.double() + self.phase.double()
        return torch.cat([angle[:, :1], angle[:, 1:].sin()], dim=1).float()
