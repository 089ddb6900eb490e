"""The proleptic Gregorian calendar on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def _since_march(days: Tensor) -> tuple[Tensor, Tensor]:
    """Year within its 400 years, and day of that year from 1 March = 0; so the leap day comes last.

    400 years that begin on 1 March have 146,097 days.
    """
    day_of_era = (torch.floor(days).long() + 719_468) % 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    return year_of_era, day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)


def day_of_year(days: Tensor) -> Tensor:
    """Day of the year, 1 January = 1.

    Args:
        days: [B] days since 1970-01-01 UTC; the time of day is dropped.

    Returns:
        [B] int64, 1 to 366.
    """
    year, day = _since_march(days)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return torch.where(day >= 306, day - 305, day + 60 + leap.long())


def month(days: Tensor) -> Tensor:
    """Month, January = 1.

    Args:
        days: [B] days since 1970-01-01 UTC; the time of day is dropped.

    Returns:
        [B] int64, 1 to 12.
    """
    _, day = _since_march(days)
    from_march = (5 * day + 2) // 153  # five months from March, and again from August, have 153 days
    return (from_march + 2) % 12 + 1
