"""No location."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding


class NoLocationConfig(Config):
    """The network is not told where the image was taken."""

    name: Literal["none"] = "none"


class NoLocation(LocationEncoding):
    """No feature at all: [B, 2] -> [B, 0]."""

    Config = NoLocationConfig
    features = 0

    def __init__(self, config: NoLocationConfig) -> None:
        super().__init__()

    def forward(self, place_deg: Tensor) -> Tensor:
        return place_deg[:, :0]
