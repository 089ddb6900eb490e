"""What every encoding is."""

from __future__ import annotations

from torch import Tensor, nn


class LocationEncoding(nn.Module):
    """Degrees to features.

    A subclass names its configuration in `Config`, sets `features`, implements `forward` and, in a docstring line that
    begins with `Source:`, says where it comes from. It is never run under autocast; where float32 would lose digits
    (wave numbers in the thousands) it computes in float64 and rounds at the end.

    Attributes:
        features: Numbers that stand for a place.
        seamless: The features are continuous across the date line.
    """

    features: int
    seamless: bool = True

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

    def forward(self, days: Tensor, lat_deg: Tensor) -> Tensor:
        """Encode times.

        Args:
            days: [B] float64, days since 1970-01-01 UTC, all finite.
            lat_deg: [B] float32, latitude in degrees for what depends on the hemisphere; 0 where it is unknown.

        Returns:
            [B, features] float32, all finite.
        """
        raise NotImplementedError
