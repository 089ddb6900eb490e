"""From (place, time) to one embedding, whatever is missing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
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
    """What the teacher is told about an image besides its pixels.

    Attributes:
        location: How a place becomes features.
        time: How an acquisition time becomes features.
        mlp_depth: Linear layers from the features to the embedding, with GELU between them.
        mlp_width: Width of the layers between; by default that of the embedding. Without effect at depth 1.
        dropout: Chance that training hides the place of an image, and independently its time.
        jitter_deg: Training moves latitude and longitude by up to this many degrees.
    """

    location: AnyLocation = {"name": "scaled"}
    time: AnyTime = {"name": "day_of_year"}
    mlp_depth: int = Field(2, ge=1, le=3)
    mlp_width: int | None = Field(None, ge=8, le=4096)
    dropout: float = Field(0.0, ge=0, le=0.5)
    jitter_deg: float = Field(0.0, ge=0, le=1)

    @property
    def empty(self) -> bool:
        """Neither place nor time is encoded."""
        return self.location.name == "none" and self.time.name == "none"


class MetadataEncoder(nn.Module):
    """Place and time to an embedding: encodings, then by default Linear, GELU, Linear.

    In training mode places are jittered and fields dropped as configured, with torch's global generator; without
    either, no random number is drawn. A place that is dropped or unknown hides the latitude from the time encoding too.

    Source: the metadata branch of Bernhard et al. (ECAI 2024). Deviation: where the place or the time of an image
    is missing (NaN), a learned vector, 0 at first, stands for its features; the reference lets the NaN through.

    For half precision use autocast: a module cast to bfloat16 would have its tables cast too.
    """

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        self.dropout, self.jitter_deg = config.dropout, config.jitter_deg
        self.location = plugins.build("stssl.encodings.location", LocationEncoding, config.location)
        self.time = plugins.build("stssl.encodings.time", TimeEncoding, config.time)
        self.unknown_location = nn.Parameter(torch.zeros(self.location.features))
        self.unknown_time = nn.Parameter(torch.zeros(self.time.features))
        features = self.location.features + self.time.features
        widths = [features, *[config.mlp_width or width] * (config.mlp_depth - 1), width]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, place: Tensor, time: Tensor) -> Tensor:
        """Encode metadata.

        Args:
            place: [B, 2] float32 degrees (latitude, longitude); NaN in either = unknown place.
            time: [B] float64 days since 1970-01-01 UTC; NaN = unknown.

        Returns:
            [B, width], finite.
        """
        placed, timed = place.isfinite().all(dim=1, keepdim=True), time.isfinite()[:, None]
        if self.training and self.dropout > 0:
            kept = torch.rand(len(place), 2, device=place.device) >= self.dropout
            placed, timed = placed & kept[:, :1], timed & kept[:, 1:]
        if self.training and self.jitter_deg > 0:
            place = jitter(place, self.jitter_deg)
        with torch.autocast(place.device.type, enabled=False):  # bfloat16 would lose every phase
            # zero in, then replaced: a NaN that enters sin() would come back through its gradient
            place, time = place.masked_fill(~placed, 0.0), time.masked_fill(~timed[:, 0], 0.0)
            location = torch.where(placed, self.location(place), self.unknown_location)
            season = torch.where(timed, self.time(time, place[:, 0]), self.unknown_time)
        return self.mlp(torch.cat([location, season], dim=1))


def jitter(place_deg: Tensor, most_deg: float) -> Tensor:
    """Move each latitude and longitude by up to `most_deg`; stop at the poles, go on across the date line.

    Args:
        place_deg: [B, 2] degrees; NaN stays NaN.
        most_deg: The distribution is uniform between -most_deg and most_deg.

    Returns:
        [B, 2], latitude in [-90, 90], longitude in [-180, 180].
    """
    lat, lng = (place_deg + most_deg * (2 * torch.rand_like(place_deg) - 1)).unbind(1)
    return torch.stack([lat.clamp(-90, 90), (lng + 180).remainder(360) - 180], dim=1)
