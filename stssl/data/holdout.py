"""What is held out of training and selection: a region, a season, a span of time; and blocks of land."""

from __future__ import annotations

from datetime import date
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stssl.config import Config


class HoldoutConfig(Config):
    """What nobody trains or selects on: a region, a season, or a span of time, to test what happens after a shift.

    An image in any of them is held out. One whose place or date is unknown counts as outside.

    Attributes:
        region: (west, south, east, north) in degrees; west > east crosses the date line. Where `by` is
            "blocks", blocks that reach into it are held out whole.
        months: Months of the year, 1 to 12.
        since: First day that is held out.
        until: Last day that is held out.
    """

    region: tuple[float, float, float, float] | None = None
    months: tuple[int, ...] | None = Field(default=None, min_length=1, max_length=11)
    since: date | None = None
    until: date | None = None

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.region is None and self.months is None and self.since is None and self.until is None:
            raise ValueError("give at least one of region, months, since, until")
        if self.region is not None:
            west, south, east, north = self.region
            if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
                raise ValueError(f"region {list(self.region)}: expected [west, south, east, north] in degrees")
        if self.months is not None and not all(1 <= month <= 12 for month in self.months):
            raise ValueError(f"months {list(self.months)}: expected numbers from 1 to 12")
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"since {self.since} is after until {self.until}")
        return self


def block_ids(place: NDArray[np.float32], block_deg: float) -> NDArray[np.int64]:
    """Number of each row's block of land.

    Args:
        place: [N, 2] degrees (latitude, longitude), NaN = unknown.
        block_deg: Edge of a block in degrees.

    Returns:
        [N] block numbers from 0; a row without a place is a block of its own.
    """
    degrees = place.astype(np.float64)
    cells = np.floor(np.stack([degrees[:, 0] + 90, (degrees[:, 1] + 180) % 360], 1) / block_deg)  # 180 E is 180 W
    nowhere = np.isnan(degrees).any(1)
    cells[nowhere, 0], cells[nowhere, 1] = -1, np.arange(nowhere.sum())
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def held_out(
    holdout: HoldoutConfig, place: NDArray[np.float32], days: NDArray[np.float64], block_deg: float | None
) -> NDArray[np.bool_]:
    """Which rows lie in the held-out region, season or time. A comparison with NaN is false: outside.

    Args:
        holdout: What is held out.
        place: [N, 2] degrees (latitude, longitude), NaN = unknown.
        days: [N] days since 1970-01-01 UTC, NaN = unknown.
        block_deg: Edge of the blocks of land that are held out whole; None = none are.

    Returns:
        [N].
    """
    held = np.zeros(len(place), bool)
    if holdout.region is not None:
        west, south, east, north = holdout.region
        lat, lng = place[:, 0], place[:, 1]
        across = (lng >= west) & (lng <= east) if west <= east else (lng >= west) | (lng <= east)
        held = across & (lat >= south) & (lat <= north)
        if block_deg is not None:
            held = np.isin(blocks := block_ids(place, block_deg), np.unique(blocks[held]))
    dated = np.isfinite(days)
    day = np.where(dated, days, 0).astype("datetime64[D]")
    if holdout.months is not None:
        held |= dated & np.isin(day.astype("datetime64[M]").astype(int) % 12 + 1, holdout.months)
    if holdout.since is not None or holdout.until is not None:
        after = day >= np.datetime64(holdout.since or date.min)
        held |= dated & after & (day <= np.datetime64(holdout.until or date.max))
    return held
