"""What every encoding is."""

from __future__ import annotations

from torch import Tensor, nn


class LocationEncoding(nn.Module):
    """Degrees to features.

    A subclass names its configuration in `Config`, sets `features` and implements `forward`.
    """

    features: int

    def forward(self, place_deg: Tensor) -> Tensor:
        """Encode places.

        Args:
            place_deg: [B, 2] float32, latitude and longitude in degrees, all finite.

        Returns:
            [B, features] float32, all finite.
        """
        raise NotImplementedError


class TimeEncoding(nn.Module):
    """Acquisition time to features; otherwise like LocationEncoding."""

    features: int

    def forward(self, days: Tensor) -> Tensor:
        """Encode times.

        Args:
            days: [B] float64, days since 1970-01-01 UTC, all finite.

        Returns:
            [B, features] float32, all finite.
        """
        raise NotImplementedError
