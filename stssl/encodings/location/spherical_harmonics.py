"""Real spherical harmonics."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding
from stssl.encodings.location._angles import radians


class SphericalHarmonicsConfig(Config):
    """All harmonics below `degree`, degree² features; the finest wavelength is 360° / (degree - 1), all over the Earth."""

    name: Literal["spherical_harmonics"] = "spherical_harmonics"
    degree: int = Field(10, ge=2, le=40)


class SphericalHarmonics(LocationEncoding):
    """Real orthonormal Y_lm(φ, λ), l < L, [B, 2] -> [B, L²]; the feature l² + l + m is Y_lm, m = -l..l.

    Y_l0 = Q_l0, and for m > 0, without the Condon-Shortley phase,
    Y_lm = √2 Q_lm cos^m φ cos mλ and Y_l,-m = √2 Q_lm cos^m φ sin mλ, so that ∫ Y² over the sphere is 1.

    Q_lm(z), z = sin φ, is the fully normalised Legendre function divided by cos^m φ: a polynomial, hence finite and
    differentiable at the poles. For all m at once, Q_mm = Q_(m-1)(m-1) · √((2m+1) / 2m) from Q_00 = 1 / √4π, and
    Q_lm = a (z Q_(l-1)m - b Q_(l-2)m), a² = (4l²-1) / (l²-m²), b² = ((l-1)²-m²) / (4(l-1)²-1), which is stable in l.

    Source: Rußwurm et al., "Geographic Location Encoding with Spherical Harmonics and Sinusoidal Representation
    Networks" (ICLR 2024).
    Deviations: a recurrence in place of their closed forms (which overflow at high degree), and no sinusoidal network.
    """

    Config = SphericalHarmonicsConfig
    a: Tensor
    b: Tensor
    start: Tensor
    order: Tensor

    def __init__(self, config: SphericalHarmonicsConfig) -> None:
        super().__init__()
        self.degree = config.degree
        self.features = config.degree**2
        l_, m = torch.meshgrid(*(torch.arange(self.degree, dtype=torch.float64),) * 2, indexing="ij")
        # rows l, columns m; zero where m >= l, so that the recurrence starts a new column at l = m and is 0 before
        a = ((4 * l_**2 - 1) / (l_**2 - m**2)).where(m < l_, 0.0).sqrt()
        b = (((l_ - 1) ** 2 - m**2) / (4 * (l_ - 1) ** 2 - 1)).where(m < l_, 0.0).sqrt()
        square = torch.full((self.degree,), 1 / (4 * math.pi), dtype=torch.float64)  # Q_00², then Q_mm² by ratios
        square[1:] = 1 + 1 / (2 * m[0, 1:])
        square = square.cumprod(0)
        square[1:] *= 2  # the √2 of m > 0, which the recurrence hands on
        start = square.sqrt().diag()
        # where Y_lm, in its final order, stands in a table of rows l and columns [sin mλ, m < L; cos mλ, m < L]
        rows = [(2 * self.degree * n, k) for n in range(self.degree) for k in range(-n, n + 1)]
        order = torch.tensor([row + (-k if k < 0 else self.degree + k) for row, k in rows])
        for name, table in {"a": a, "b": b, "start": start, "order": order}.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, place_deg: Tensor) -> Tensor:
        lat, lng = (angle[:, None] for angle in radians(place_deg))
        z = lat.sin()
        before = last = torch.zeros_like(z)
        polynomials = []
        for a, b, start in zip(self.a, self.b, self.start, strict=True):
            before, last = last, a * (z * last - b * before) + start
            polynomials.append(last)
        m = torch.arange(self.degree, device=lng.device)
        waves = torch.stack([(m * lng).sin(), (m * lng).cos()], dim=1) * lat.cos().pow(m)[:, None]  # [B, 2, L]
        table = torch.stack(polynomials, dim=1)[:, :, None] * waves[:, None]  # [B, L, 2, L]
        return table.flatten(1)[:, self.order].float()
