"""Simulated land cover at real places and dates: images whose look depends on place and season at a chosen strength.

For experiments on what metadata tell, where the truth must be known. Only places and dates are real, drawn from
`stssl.data.tables`: half of the images lie where a BigEarthNet patch lies, at its date; half where a EuroSAT patch lies,
at a date of BigEarthNet's, since EuroSAT has none: those pairs are simulated too. A date is a whole day.

Model. Spectra of land lie near a triangle of substrate, vegetation and dark (Small, "The Landsat ETM+ spectral mixing
space", Remote Sensing of Environment 93, 2004). A pixel x of cover c at latitude φ, longitude λ and day of year d:

    η_V(x) = v_c + strength_season α_c S + j_V + 0.4 τ_V(x)     log-ratio of vegetation to substrate
    η_D(x) = k_c + strength_place β_c P + j_D + 0.4 τ_D(x)      log-ratio of dark to substrate
    (f_S, f_V, f_D) = softmax(0, η_V, η_D)                      fractions of the three
    ρ_b(x) = L Σ_e f_e ρ_be + ε                                 reflectance of band b, stored as 10,000 ρ
    S = (1 - 2 r) cos(2π (d - 185 - 2 (φ - 50)) / 365.25)       season: how green, -1..1
    P = (1 - 2 m) sin(π (λ - 11) / 42)                          place: how dark the ground, -1..1
    L = 1 + 0.3 strength_season (cos z - 0.7)                   light; z: the sun's zenith angle at noon

v, k, α, β are in COVERS; j ~ N(0, noise²) for each image; ε ~ N(0, (0.01 noise)²) for each pixel; τ is a texture of unit
variance, whose grain varies from image to image by exp(0.3 N(0, 1)). Greenness peaks two days a degree later in the
north: Hopkins' law (1918) says four for spring, but autumn comes earlier there. The chance of a cover at a place is

    p_c ∝ exp(2 prior (north_c (φ - 50) / 10 + east_c (λ - 11) / 20))

At strength 0 a look tells its cover; at strength 1 looks overlap, and place and date tell them apart: at 50° N cropland
in late June looks like a meadow in late April, and in January like a settlement in March.

Shift. m is 1 in HOLDOUT_REGION, r is 1 there and in HOLDOUT_MONTHS; both fall smoothly to 0 within the borders. So the
region is half a year out of step with its neighbours, and everything browns in July and August, between its greenest
weeks. The looks are the same as elsewhere, but no rule of place or date learned elsewhere holds: held out with
`data.split.holdout`, they show what a network loses that trusts metadata. `split` of all samples is None.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from stssl.config import Config
from stssl.data import tables
from stssl.data.schema import Sample, Task
from stssl.data.sources._simulated_fields import (
    HOLDOUT_MONTHS,
    HOLDOUT_REGION,
    Array,
    block_field,
    gaussian_field,
    season_index,
    soil_index,
    sun_at_noon,
)
from stssl.data.sources.base import Source
from stssl.storage import Folder

__all__ = ["BANDS", "COVERS", "HOLDOUT_MONTHS", "HOLDOUT_REGION", "Cover", "Simulated", "SimulatedConfig"]

BANDS = ("B02", "B03", "B04", "B08")  # called as Sentinel-2's, but simulated
SUBSTRATE = np.array((0.12, 0.16, 0.21, 0.31))  # reflectance in BANDS: round numbers, typical of dry soil,
VEGETATION = np.array((0.03, 0.07, 0.04, 0.48))  # of dense leaves
DARK = np.array((0.025, 0.025, 0.015, 0.01))  # and of water or deep shadow


class Cover(NamedTuple):
    """A simulated land cover.

    Attributes:
        name: Class name.
        vegetation: v, log-ratio of vegetation to substrate.
        dark: k, log-ratio of dark to substrate.
        season: α, how far the season moves the first.
        place: β, how far the place moves the second.
        grain: Size of its texture in pixels.
        blocks: Whether the texture is of blocks (parcels, houses), else a Gaussian field.
        north: How much more frequent it is in the north, -1 to 1, if `prior` is above 0.
        east: Likewise in the east.
    """

    name: str
    vegetation: float
    dark: float
    season: float
    place: float
    grain: float
    blocks: bool
    north: float
    east: float


COVERS = (
    Cover("cropland", 0.2, -1.0, 2.0, 1.2, 6.0, True, -0.5, 0.5),
    Cover("meadow", 1.5, -0.8, 2.0, 1.2, 6.0, True, 0.0, -1.0),
    Cover("broad-leaved forest", 1.5, 0.0, 1.6, 1.8, 1.5, False, -0.5, 0.0),
    Cover("coniferous forest", 1.2, 1.3, 1.4, 1.8, 1.5, False, 1.0, 0.5),
    Cover("water", 0.0, 4.0, 0.5, 0.8, 5.0, False, 0.5, -0.5),
    Cover("settlement", -1.1, -0.9, 2.0, 1.2, 5.0, True, -1.0, 0.0),
    Cover("heath", 0.0, 0.3, 1.6, 1.6, 1.5, False, 0.5, 1.0),
    Cover("wetland", 1.4, 2.4, 1.4, 1.4, 3.0, False, 1.0, -0.5),
)


class SimulatedConfig(Config):
    """What is simulated.

    Attributes:
        root: Not used, no file is read.
        images: How many. Image i does not depend on it.
        classes: How many of COVERS, from the first on.
        task: "single": one cover in an image; "multi": one to three, in parts of equal area.
        size: Height and width in pixels.
        strength_place: How much the look depends on the place.
        strength_season: How much the look depends on the season.
        prior: How much the frequency of a cover depends on the place; at 0 all are equally frequent everywhere.
        noise: Spread of the looks within a class; similar classes lie 1.3 apart.
        unlabeled: Share of images without a label.
        missing_place: Share of images whose place is not told.
        missing_time: Share of images whose date is not told.
        seed: Of everything drawn.
    """

    name: Literal["simulated"] = "simulated"
    root: str = ""
    images: int = Field(default=4000, ge=1, le=1_000_000)
    classes: int = Field(default=6, ge=2, le=len(COVERS))
    task: Task = "single"
    size: int = Field(default=32, ge=8, le=512)
    strength_place: float = Field(default=1.0, ge=0, le=1)
    strength_season: float = Field(default=1.0, ge=0, le=1)
    prior: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.4, ge=0, le=2)
    unlabeled: float = Field(default=0.0, ge=0, le=1)
    missing_place: float = Field(default=0.0, ge=0, le=1)
    missing_time: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**31)


class Simulated(Source):
    """Images made at the moment they are read, each from the settings and its own number alone."""

    Config = SimulatedConfig
    name = "simulated"
    bands = BANDS
    licence = "CC0-1.0 (simulated)"
    attribution = "simulated by stssl; places of BigEarthNet and EuroSAT, dates of BigEarthNet"

    def __init__(self, config: SimulatedConfig) -> None:
        """Draw places, dates and covers."""
        self.config, self.folder, self.task = config, Folder("."), config.task
        covers = COVERS[: config.classes]
        self.classes = tuple(cover.name for cover in covers)
        self.ids = [f"simulated-{index:06d}" for index in range(config.images)]
        # One row of chances for each image, in columns with a fixed meaning: a setting changes nothing but its own.
        chance = np.random.default_rng([config.seed, 0]).random((config.images, 7 + len(COVERS)))
        self.place, self.time = _places_and_dates(*chance[:, :3].T)
        self.hidden = chance[:, 3:6] < (config.unlabeled, config.missing_place, config.missing_time)
        lat, lng = self.place.T
        self.season, self.soil = season_index(lat, lng, self.time), soil_index(lat, lng)
        self.light = 1 + 0.3 * config.strength_season * (sun_at_noon(lat, self.time) - 0.7)
        directions = np.array([(cover.north, cover.east) for cover in covers])
        favour = np.exp(2 * config.prior * ((self.place - (50, 11)) / (10, 20)) @ directions.T)
        # Exponential waiting times: who comes first is a draw with chances `favour`, who comes next one of the others.
        order = np.argsort(-np.log1p(-chance[:, 7 : 7 + config.classes]) / favour)
        most = min(3, config.classes) if config.task == "multi" else 1
        count = 1 + (chance[:, 6] * most).astype(int)
        self.covers = np.where(np.arange(most) < count[:, None], order[:, :most], -1).astype(np.int8)  # -1: no more

    def read(self, index: int) -> Sample:
        random = np.random.default_rng([self.config.seed, 1 + index])
        covers = [int(cover) for cover in self.covers[index] if cover >= 0]
        image, *others = (self._look(index, COVERS[cover], random) for cover in covers)
        if others:
            height = gaussian_field(self.config.size / 4, self.config.size, random)
            edges = np.quantile(height, np.arange(1, len(covers)) / len(covers))
            for edge, other in zip(edges, others, strict=True):
                image = np.where(height > edge, other, image)
        pixels = np.clip(np.rint(10_000 * image), 1, 65_535).astype(np.uint16)  # 0 would be "no data", as in Sentinel-2
        unlabeled, placeless, dateless = self.hidden[index]
        labels = None if unlabeled else tuple(self.classes[cover] for cover in sorted(covers))
        lat, lng = (None, None) if placeless else map(float, self.place[index])
        return Sample(self.ids[index], pixels, labels, lat, lng, None if dateless else float(self.time[index]), None)

    def _look(self, index: int, cover: Cover, random: np.random.Generator) -> Array:
        """[C, H, W] reflectance of an image that one cover fills."""
        config = self.config
        vegetation = cover.vegetation + config.strength_season * cover.season * self.season[index]
        dark = cover.dark + config.strength_place * cover.place * self.soil[index]
        level = (vegetation, dark) + config.noise * random.standard_normal(2)
        grain = cover.grain * np.exp(0.3 * random.standard_normal())
        if cover.blocks:
            texture = block_field(grain, config.size, random)
        else:
            texture = np.stack([gaussian_field(grain, config.size, random) for _ in level])
        ratio = np.exp(level[:, None, None] + 0.4 * texture)  # [2, H, W] of vegetation and dark to substrate
        image = np.tensordot(np.stack((VEGETATION, DARK), 1), ratio, 1) + SUBSTRATE[:, None, None]
        image *= self.light[index] / (1 + ratio.sum(0))
        return image + 0.01 * config.noise * random.standard_normal(image.shape)


def _places_and_dates(which: Array, row: Array, date: Array) -> tuple[Array, Array]:
    """[N, 2] degrees and [N] days since 1970-01-01, from three chances for each image: table, row and other date."""
    eurosat = tables.read("eurosat_27000", ["lat", "lng"])
    bigearthnet = tables.read("bigearthnet_v1_590326", ["lat", "lng", "date"])
    days = bigearthnet["date"].cast("date32").cast("int32").to_numpy()
    patch, other = (row * len(days)).astype(int), (date * len(days)).astype(int)
    ours, theirs = (
        np.stack([table[name].to_numpy()[rows] for name in ("lat", "lng")], 1).astype(np.float64)
        for table, rows in ((bigearthnet, patch), (eurosat, (row * len(eurosat)).astype(int)))
    )
    return np.where(which[:, None] < 0.5, ours, theirs), np.where(which < 0.5, days[patch], days[other]).astype(float)
