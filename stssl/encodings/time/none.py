"""No time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import TimeEncoding


class NoTimeConfig(Config):
    """The network is not told when the image was taken."""

    name: Literal["none"] = "none"


class NoTime(TimeEncoding):
    """No feature at all: [B] -> [B, 0]."""

    Config = NoTimeConfig
    features = 0

    def __init__(self, config: NoTimeConfig) -> None:
        super().__init__()

    def forward(self, days: Tensor, lat_deg: Tensor) -> Tensor:
        return days.new_zeros((len(days), 0), dtype=torch.float32)
