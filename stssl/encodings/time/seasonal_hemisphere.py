"""The season, which the other hemisphere has half a year later."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import TimeEncoding
from stssl.encodings.time._harmonics import harmonics


class SeasonalHemisphereConfig(Config):
    """Harmonics of the day of the year, and the same weighted by latitude: summer differs north and south.

    The latitude is used here even where `location` is none.
    """

    name: Literal["seasonal_hemisphere"] = "seasonal_hemisphere"
    harmonics: int = Field(1, ge=1, le=4)


class SeasonalHemisphere(TimeEncoding):
    """[h, h · sin φ], [B], [B] -> [B, 4·harmonics].

    h = [sin(2πk·d/365.2425), cos(2πk·d/365.2425)], k = 1..harmonics, d the day of the year from 1, φ the latitude.
    Where the latitude is unknown it is taken for 0, and the second half vanishes.

    Source: this project; h is that of Bernhard et al., "Context Matters" (ECAI 2024).
    """

    Config = SeasonalHemisphereConfig

    def __init__(self, config: SeasonalHemisphereConfig) -> None:
        super().__init__()
        self.harmonics = config.harmonics
        self.features = 4 * config.harmonics

    def forward(self, days: Tensor, lat_deg: Tensor) -> Tensor:
        season = harmonics(days, self.harmonics)
        return torch.cat([season, season * lat_deg.double().deg2rad().sin()[:, None]], dim=1).float()
