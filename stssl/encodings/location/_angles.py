"""Angles on the sphere, in float64: at 3600 waves around the Earth float32 would keep three digits of a phase."""

from __future__ import annotations

import torch
from torch import Tensor


def radians(place_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Latitude φ and longitude λ in radians.

    Args:
        place_deg: [B, 2] degrees.

    Returns:
        Two tensors [B], float64.
    """
    lat, lng = place_deg.double().deg2rad().unbind(1)
    return lat, lng


def unit_vector(place_deg: Tensor) -> Tensor:
    """[cosφ cosλ, cosφ sinλ, sinφ], [B, 2] degrees -> [B, 3] float64."""
    lat, lng = radians(place_deg)
    return torch.stack([lat.cos() * lng.cos(), lat.cos() * lng.sin(), lat.sin()], dim=1)


def wave_numbers(scales: int, smallest_scale_deg: float) -> tuple[Tensor, Tensor]:
    """Waves per 360° at wavelengths that shrink geometrically from 360° to the smallest scale.

    Returns:
        For latitude, [scales] float64; for longitude, the same rounded to whole numbers, because anything else
        would jump at the date line. Coarse and dense scales may therefore share a wave number in longitude.
    """
    share = torch.linspace(0, 1, scales, dtype=torch.float64)
    waves = (360 / smallest_scale_deg) ** share
    return waves, waves.round()
