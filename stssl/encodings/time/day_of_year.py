"""The season, as harmonics of the day of the year (the published encoding)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import TimeEncoding
from stssl.encodings.time._harmonics import YEAR_DAYS, harmonics


class DayOfYearConfig(Config):
    """Sine and cosine of the day of the year; published with one harmonic and 365 days."""

    name: Literal["day_of_year"] = "day_of_year"
    harmonics: int = Field(1, ge=1, le=6)
    period_days: float = Field(YEAR_DAYS, ge=365, le=366)


class DayOfYear(TimeEncoding):
    """[sin(2πk·d/P), cos(2πk·d/P)] for k = 1..harmonics, d the day of the year from 1; [B] -> [B, 2·harmonics].

    Source: Bernhard et al., "Context Matters" (ECAI 2024), there with one harmonic and P = 365.
    """

    Config = DayOfYearConfig

    def __init__(self, config: DayOfYearConfig) -> None:
        super().__init__()
        self.config = config
        self.features = 2 * config.harmonics

    def forward(self, days: Tensor, lat_deg: Tensor) -> Tensor:
        return harmonics(days, self.config.harmonics, self.config.period_days).float()
