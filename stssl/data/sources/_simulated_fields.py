"""The formulas behind `simulated`: season, soil and light of a place and a day, and textures.

Latitude and longitude are in degrees, times in days since 1970-01-01; arrays of them broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HOLDOUT_REGION = (-12.0, 34.0, 1.0, 44.0)
"""West, south, east, north in degrees: Iberia, about an eighth of the images. See `stssl.data.sources.simulated`."""
HOLDOUT_MONTHS = (7, 8)
"""July and August, about a fifth of the images."""


def season_index(lat: Array, lng: Array, time: Array) -> Array:
    """S: how green the season is, -1 to 1."""
    day = _day_of_year(time)
    cycle = np.cos(2 * np.pi * (day - 185 - 2 * (lat - 50)) / 365.25)
    start, end = (HOLDOUT_MONTHS[0] - 1) * 365.25 / 12, HOLDOUT_MONTHS[-1] * 365.25 / 12
    reversed_ = 1 - (1 - _region(lat, lng)) * (1 - _window(day, start, end, margin=3))
    return (1 - 2 * reversed_) * cycle


def soil_index(lat: Array, lng: Array) -> Array:
    """P: how dark the ground is, -1 to 1."""
    return (1 - 2 * _region(lat, lng)) * np.sin(np.pi * (lng - 11) / 42)


def sun_at_noon(lat: Array, time: Array) -> Array:
    """Cosine of the sun's zenith angle z at noon, 0 in the polar night."""
    declination = 23.44 * np.sin(2 * np.pi * (_day_of_year(time) - 81) / 365.25)
    return np.maximum(np.cos(np.radians(lat - declination)), 0)


def gaussian_field(grain: float, size: int, random: np.random.Generator) -> Array:
    """[size, size] Gaussian noise of unit variance, correlated over r pixels as exp(-r² / 2 grain²)."""
    line = np.exp(-((np.pi * grain * np.fft.fftfreq(size)) ** 2))  # what the filter does along one axis
    spectrum = np.fft.rfft2(random.standard_normal((size, size)))
    spectrum *= np.outer(line, line[: size // 2 + 1]) / np.mean(line**2)
    return np.fft.irfft2(spectrum, s=(size, size))


def block_field(grain: float, size: int, random: np.random.Generator) -> Array:
    """[2, size, size] a grid of squares, `grain` wide and turned at random; two values N(0, 1) for each square."""
    angle, first, second = random.random(3) * (np.pi / 2, 1, 1)
    x = np.arange(size) / grain
    y = x[:, None]
    along = np.floor(np.cos(angle) * x + np.sin(angle) * y + first).astype(int)
    across = np.floor(np.cos(angle) * y - np.sin(angle) * x + second).astype(int)
    along, across = along - along.min(), across - across.min()
    return random.standard_normal((2, along.max() + 1, across.max() + 1))[:, along, across]


def _region(lat: Array, lng: Array) -> Array:
    """m: 0 outside of HOLDOUT_REGION, 1 within, smooth over two degrees inside its border."""
    west, south, east, north = HOLDOUT_REGION
    return _window(lng, west, east, margin=2) * _window(lat, south, north, margin=2)


def _window(x: Array, low: float, high: float, margin: float) -> Array:
    """0 outside of low..high, 1 within, smooth over the margins inside."""
    inside = np.clip(np.minimum(x - low, high - x) / margin, 0, 1)
    return inside * inside * (3 - 2 * inside)


def _day_of_year(time: Array) -> Array:
    """From 1."""
    day = time.astype("datetime64[D]")
    return (day - day.astype("datetime64[Y]")).astype(np.float64) + 1
