"""The season, as harmonics of the day of the year (the published encoding)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import TimeEncoding


class DayOfYearConfig(Config):
    """Sine and cosine of the day of the year; published with one harmonic and 365 days."""

    name: Literal["day_of_year"] = "day_of_year"
    harmonics: int = Field(1, ge=1, le=6)
    period_days: float = Field(365.2425, ge=365, le=366)


def day_of_year(days: Tensor) -> Tensor:
    """Day of the year, 1 January = 1, in the proleptic Gregorian calendar.

    Args:
        days: [B] days since 1970-01-01 UTC; the time of day is dropped.

    Returns:
        [B] int64, 1 to 366.
    """
    # Count in years that begin on 1 March, so that the leap day comes last; 400 such years have 146,097 days.
    since_march_0 = torch.floor(days).long() + 719_468
    day_of_era = since_march_0 % 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    from_march = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)  # 0 = 1 March
    leap = (year_of_era % 4 == 0) & ((year_of_era % 100 != 0) | (year_of_era % 400 == 0))
    return torch.where(from_march >= 306, from_march - 305, from_march + 60 + leap.long())


class DayOfYear(TimeEncoding):
    """[sin(2πk·d/P), cos(2πk·d/P)] for k = 1..harmonics, [B] -> [B, 2·harmonics].

    Source: Bernhard et al. (ECAI 2024), there with one harmonic and P = 365.
    """

    Config = DayOfYearConfig

    def __init__(self, config: DayOfYearConfig) -> None:
        super().__init__()
        self.config = config
        self.features = 2 * config.harmonics

    def forward(self, days: Tensor) -> Tensor:
        k = torch.arange(1, self.config.harmonics + 1, device=days.device)
        angle = 2 * math.pi / self.config.period_days * day_of_year(days)[:, None].double() * k
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()
