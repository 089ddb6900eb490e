"""Harmonics of the day of the year."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stssl.encodings.calendar import day_of_year

YEAR_DAYS = 365.2425  # mean length of the Gregorian year


def harmonics(days: Tensor, count: int, period_days: float = YEAR_DAYS) -> Tensor:
    """[sin(2πk·d/P), cos(2πk·d/P)] for k = 1..count, d the day of the year from 1.

    Args:
        days: [B] float64, days since 1970-01-01 UTC.
        count: The highest k.
        period_days: P.

    Returns:
        [B, 2·count] float64.
    """
    k = torch.arange(1, count + 1, device=days.device)
    angle = 2 * math.pi / period_days * day_of_year(days)[:, None].double() * k
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
