"""The calendar and the published metadata features."""

import datetime
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl.encodings.calendar import day_of_year, month
from stssl.encodings.location.scaled import Scaled, ScaledConfig
from stssl.encodings.time.day_of_year import DayOfYear, DayOfYearConfig

EPOCH = datetime.date(1970, 1, 1)


def days_since_1970(dates: list[datetime.date]) -> torch.Tensor:
    return torch.tensor([(date - EPOCH).days for date in dates], dtype=torch.float64)


@settings(max_examples=200, deadline=None)
@given(
    dates=st.lists(st.dates(datetime.date(1600, 1, 1), datetime.date(2400, 12, 31)), min_size=20, max_size=60),
    hour=st.floats(0, 0.999_99),
)
def test_agrees_with_datetime(dates: list[datetime.date], hour: float) -> None:
    days = days_since_1970(dates) + hour
    assert day_of_year(days).tolist() == [date.timetuple().tm_yday for date in dates]
    assert month(days).tolist() == [date.month for date in dates]


def test_every_day_around_the_years_that_have_rules_of_their_own() -> None:
    for year in (1600, 1700, 1896, 1900, 1904, 1969, 1970, 1999, 2000, 2016, 2100, 2400):
        first = datetime.date(year, 1, 1)
        dates = [first + datetime.timedelta(days=n) for n in range(-2, 368)]
        days = days_since_1970(dates)
        assert day_of_year(days).tolist() == [date.timetuple().tm_yday for date in dates]
        assert month(days).tolist() == [date.month for date in dates]


def test_time_of_day_is_dropped_on_both_sides_of_1970() -> None:
    days = torch.tensor([-0.001, 0.0, 0.999], dtype=torch.float64)
    assert day_of_year(days).tolist() == [365, 1, 1] and month(days).tolist() == [12, 1, 1]


def test_published_features(golden: Callable[[str], dict[str, Any]], assert_golden: Callable[..., None]) -> None:
    recorded = golden("metainfo")
    dates = [datetime.datetime.strptime(str(date), "%Y-%m-%d %H:%M:%S") for date in recorded["date"]]
    epoch = datetime.datetime(1970, 1, 1)
    days = torch.tensor([(date - epoch) / datetime.timedelta(days=1) for date in dates], dtype=torch.float64)
    assert day_of_year(days).tolist() == recorded["day_of_year"].tolist()
    assert 366 in recorded["day_of_year"]
    place = torch.from_numpy(np.stack([recorded["lat"], recorded["lng"]], 1)).float()
    location = Scaled(ScaledConfig())(place)
    time = DayOfYear(DayOfYearConfig(period_days=365))(days, place[:, 0])
    assert_golden(torch.cat([location, time], 1), recorded["features"])


@pytest.mark.parametrize("harmonics", [1, 3, 6])
def test_harmonics(harmonics: int) -> None:
    encoding = DayOfYear(DayOfYearConfig(harmonics=harmonics))
    output = encoding(days_since_1970([datetime.date(2021, 7, 2)]), torch.zeros(1))  # day 183
    expected = []
    for k in range(1, harmonics + 1):
        angle = 2 * math.pi * k * 183 / 365.2425
        expected += [math.sin(angle), math.cos(angle)]
    assert output.shape == (1, encoding.features)
    torch.testing.assert_close(output, torch.tensor([expected]))


def test_new_year_is_no_jump() -> None:
    """With the default period the last and the first day of a year are as near as any two neighbours."""
    encoding = DayOfYear(DayOfYearConfig())
    dates = [
        datetime.date(2015, 12, 31),
        datetime.date(2016, 1, 1),
        datetime.date(2016, 6, 1),
        datetime.date(2016, 6, 2),
    ]
    last, first, june, next_day = encoding(days_since_1970(dates), torch.zeros(4))
    assert (last - first).norm() < 1.5 * (june - next_day).norm()
