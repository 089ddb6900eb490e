"""From (place, time) to one embedding, whatever is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stssl import plugins
from stssl.config import Config
from stssl.encodings.base import LocationEncoding, TimeEncoding

if TYPE_CHECKING:
    AnyLocation = Any
    AnyTime = Any
else:
    AnyLocation = plugins.choice_of("stssl.encodings.location", LocationEncoding, "scaled")
    AnyTime = plugins.choice_of("stssl.encodings.time", TimeEncoding, "day_of_year")


class EncoderConfig(Config):
    """What the teacher is told about an image besides its pixels."""

    location: AnyLocation = {"name": "scaled"}
    time: AnyTime = {"name": "day_of_year"}

    @property
    def empty(self) -> bool:
        """Neither place nor time is encoded."""
        return self.location.name == "none" and self.time.name == "none"


class MetadataEncoder(nn.Module):
    """Place and time to an embedding: encodings, then Linear, GELU, Linear.

    Source: the metadata branch of Bernhard et al. (ECAI 2024). Deviation: where the place or the time of an image
    is missing (NaN), a learned vector stands for its features; the reference lets the NaN through.
    """

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        self.location = plugins.build("stssl.encodings.location", LocationEncoding, config.location)
        self.time = plugins.build("stssl.encodings.time", TimeEncoding, config.time)
        self.unknown_location = nn.Parameter(torch.zeros(self.location.features))
        self.unknown_time = nn.Parameter(torch.zeros(self.time.features))
        features = self.location.features + self.time.features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, place: Tensor, time: Tensor) -> Tensor:
        """Encode metadata.

        Args:
            place: [B, 2] float32 degrees (latitude, longitude); NaN in either = unknown place.
            time: [B] float64 days since 1970-01-01 UTC; NaN = unknown.

        Returns:
            [B, width], finite.
        """
        placed = place.isfinite().all(dim=1, keepdim=True)
        timed = time.isfinite()
        # zero in, then replaced: a NaN that enters sin() would come back through its gradient
        location = torch.where(placed, self.location(place.masked_fill(~placed, 0.0)), self.unknown_location)
        season = torch.where(timed[:, None], self.time(time.masked_fill(~timed, 0.0)), self.unknown_time)
        return self.mlp(torch.cat([location, season], dim=1))
