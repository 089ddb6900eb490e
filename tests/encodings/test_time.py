"""Time encodings against their closed forms; the calendar has its own test."""

import datetime

import numpy as np
import pytest
import torch

from stssl.encodings.time.month import Month, MonthConfig
from stssl.encodings.time.seasonal_hemisphere import SeasonalHemisphere, SeasonalHemisphereConfig
from stssl.encodings.time.time2vec import Time2Vec, Time2VecConfig

DATES = [datetime.date(1900, 3, 1) + datetime.timedelta(days=373 * n) for n in range(150)]  # till 2053
DAYS = torch.tensor([(date - datetime.date(1970, 1, 1)).days + 0.4 for date in DATES], dtype=torch.float64)
LATITUDE = torch.linspace(-90, 90, len(DATES))


def test_month() -> None:
    output = Month(MonthConfig())(DAYS, LATITUDE)
    assert output.sum(dim=1).eq(1).all()
    assert (output.argmax(dim=1) + 1).tolist() == [date.month for date in DATES]


@pytest.mark.parametrize("features", [8, 16, 64])
def test_time2vec(features: int) -> None:
    """Rounded once: within one unit in the last place of float32, relative for the trend."""
    torch.manual_seed(0)
    encoding = Time2Vec(Time2VecConfig(features=features))
    frequency, phase = (p.detach().double().numpy() for p in (encoding.frequency, encoding.phase))
    years = (DAYS.numpy() - 10_957) / 365.2425
    angle = years[:, None] * frequency + phase
    expected = np.concatenate([angle[:, :1], np.sin(angle[:, 1:])], 1)
    np.testing.assert_allclose(encoding(DAYS, LATITUDE).detach().numpy(), expected, rtol=2**-23, atol=2**-24)
    np.testing.assert_allclose(frequency[1:] / (2 * np.pi), [1 + i % 4 for i in range(features - 1)], rtol=1e-6)
    assert len(set(phase[1:].tolist())) == features - 1  # no two waves alike


def test_time2vec_learns() -> None:
    encoding = Time2Vec(Time2VecConfig())
    (encoding(DAYS, LATITUDE) * torch.linspace(0, 1, 16 * len(DAYS)).view(-1, 16)).sum().backward()
    assert (encoding.frequency.grad != 0).all() and (encoding.phase.grad != 0).all()


@pytest.mark.parametrize("harmonics", [1, 4])
def test_seasonal_hemisphere(harmonics: int) -> None:
    encoding = SeasonalHemisphere(SeasonalHemisphereConfig(harmonics=harmonics))
    day = np.array([date.timetuple().tm_yday for date in DATES])
    waves = [f(2 * np.pi * k * day / 365.2425) for k in range(1, harmonics + 1) for f in (np.sin, np.cos)]
    season = np.stack(waves, 1)
    expected = np.concatenate([season, season * np.sin(np.radians(LATITUDE.double().numpy()))[:, None]], 1)
    np.testing.assert_allclose(encoding(DAYS, LATITUDE).numpy(), expected, rtol=0, atol=2**-24)
    assert (encoding(DAYS, torch.zeros(len(DAYS)))[:, 2 * harmonics :] == 0).all()
