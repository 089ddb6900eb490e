"""The calendar month."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import TimeEncoding
from stssl.encodings.calendar import month


class MonthConfig(Config):
    """Twelve switches, one a month: the network must learn by itself which months are neighbours."""

    name: Literal["month"] = "month"


class Month(TimeEncoding):
    """One-hot calendar month (UTC), January first; [B] -> [B, 12].

    Source: common practice; no paper.
    """

    Config = MonthConfig
    features = 12

    def __init__(self, config: MonthConfig) -> None:
        super().__init__()

    def forward(self, days: Tensor, lat_deg: Tensor) -> Tensor:
        return (month(days)[:, None] == torch.arange(1, 13, device=days.device)).float()
