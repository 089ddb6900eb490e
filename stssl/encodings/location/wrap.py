"""Sine and cosine of latitude and longitude."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding
from stssl.encodings.location._angles import radians


class WrapConfig(Config):
    """Sine and cosine of both angles: four numbers. The plainest choice that knows that the Earth is round."""

    name: Literal["wrap"] = "wrap"


class Wrap(LocationEncoding):
    """[sin φ, cos φ, sin λ, cos λ], [B, 2] -> [B, 4].

    Source: Mac Aodha et al., "Presence-Only Geographical Priors for Fine-Grained Image Classification" (ICCV 2019).
    Deviation: they take sine and cosine of 2φ, for which the two poles are one place.
    """

    Config = WrapConfig
    features = 4

    def __init__(self, config: WrapConfig) -> None:
        super().__init__()

    def forward(self, place_deg: Tensor) -> Tensor:
        lat, lng = radians(place_deg)
        return torch.stack([lat.sin(), lat.cos(), lng.sin(), lng.cos()], dim=1).float()
