"""Location encodings against their closed forms, evaluated independently in float64.

Features are computed in float64 and rounded once, so each may be off by half a unit in the last place of float32, and
by what float64 loses in a phase of up to 3,600 waves (1e-11).
"""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from stssl.encodings.location._angles import wave_numbers
from stssl.encodings.location.cartesian import Cartesian, CartesianConfig
from stssl.encodings.location.fourier import Fourier, FourierConfig
from stssl.encodings.location.multiscale import Multiscale, MultiscaleConfig
from stssl.encodings.location.sphere import Sphere, SphereConfig
from stssl.encodings.location.spherical_harmonics import SphericalHarmonics, SphericalHarmonicsConfig
from stssl.encodings.location.wrap import Wrap, WrapConfig

random = np.random.default_rng(0)
PLACES = np.concatenate(
    [
        np.stack([np.degrees(np.arcsin(random.uniform(-1, 1, 300))), random.uniform(-180, 180, 300)], 1),
        [[90, 0], [-90, 0], [90, 77], [0, 180], [0, -180], [0, 0], [89.9999, 180], [-89.99, -179.99], [1e-30, -1e-30]],
    ]
).astype(np.float32)
LAT, LNG = np.radians(PLACES.astype(np.float64)).T  # of the float32 degrees: what the encoding is given


def check(encoding: Any, expected: np.ndarray) -> None:
    output = encoding(torch.from_numpy(PLACES)).double().numpy()
    assert output.shape == expected.shape
    error, half_unit = np.abs(output - expected), np.spacing(np.abs(expected).astype(np.float32)) / 2
    assert (error <= half_unit + 1e-11).all(), error.max()


@functools.cache
def unit_vectors() -> np.ndarray:
    return np.stack([np.cos(LAT) * np.cos(LNG), np.cos(LAT) * np.sin(LNG), np.sin(LAT)], 1)


def test_wrap() -> None:
    check(Wrap(WrapConfig()), np.stack([np.sin(LAT), np.cos(LAT), np.sin(LNG), np.cos(LNG)], 1))


def test_cartesian() -> None:
    check(Cartesian(CartesianConfig()), unit_vectors())


@pytest.mark.parametrize("sigma", [0.1, 4, 64])
def test_fourier(sigma: float) -> None:
    encoding = Fourier(FourierConfig(sigma=sigma))
    angle = 2 * np.pi * unit_vectors() @ encoding.basis.double().numpy().T
    check(encoding, np.concatenate([np.cos(angle), np.sin(angle)], 1))


def test_fourier_basis_is_drawn_from_its_own_seed_and_saved() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Fourier(FourierConfig(frequencies=256, sigma=10, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Fourier(FourierConfig(frequencies=256, sigma=10, seed=3)).basis, first.basis)
    other = Fourier(FourierConfig(frequencies=256, sigma=10, seed=4))
    assert not torch.allclose(other.basis, first.basis)
    # 768 draws: the sample deviation is within 5 of its standard errors, σ / √(2n)
    assert abs(float(first.basis.std()) - 10) < 5 * 10 / np.sqrt(2 * 768)
    assert "basis" in first.state_dict()
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(torch.from_numpy(PLACES)), first(torch.from_numpy(PLACES)))


def scales(count: int, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    waves = 360 / np.geomspace(360, smallest, count)
    return waves * LAT[:, None], np.round(waves) * LNG[:, None]


@pytest.mark.parametrize("count, smallest", [(4, 0.1), (16, 1), (32, 0.1), (32, 30)])
def test_multiscale(count: int, smallest: float) -> None:
    p, q = scales(count, smallest)
    encoding = Multiscale(MultiscaleConfig(scales=count, smallest_scale_deg=smallest))
    check(encoding, np.concatenate([np.sin(p), np.cos(p), np.sin(q), np.cos(q)], 1))


@pytest.mark.parametrize("count, smallest", [(4, 0.1), (16, 1), (32, 0.1)])
def test_sphere(count: int, smallest: float) -> None:
    p, q = scales(count, smallest)
    lat, lng = LAT[:, None], LNG[:, None]
    parts = {
        "sphereC": [np.sin(p), np.cos(p) * np.cos(q), np.cos(p) * np.sin(q)],
        "sphereM": [
            *(np.sin(p), np.cos(p) * np.cos(lng), np.cos(lat) * np.cos(q)),
            *(np.cos(p) * np.sin(lng), np.cos(lat) * np.sin(q)),
        ],
    }
    for variant, expected in parts.items():
        config = SphereConfig(variant=variant, scales=count, smallest_scale_deg=smallest)
        check(Sphere(config), np.concatenate(expected, 1))


def test_longitude_has_whole_waves() -> None:
    lat, lng = wave_numbers(16, 1)
    assert float(lat[0]) == float(lng[0]) == 1 and float(lng[-1]) == 360
    assert torch.equal(lng, lng.round()) and (lng - lat).abs().max() <= 0.5


def harmonics(degree: int, lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
    """From scipy's complex harmonics, whose Condon-Shortley phase (-1)^m is taken out."""
    columns = []
    for n in range(degree):
        for k in range(-n, n + 1):
            value = sph_harm_y(n, abs(k), np.pi / 2 - lat, lng) * (-1.0) ** k
            columns.append(value.real if k == 0 else np.sqrt(2) * (value.imag if k < 0 else value.real))
    return np.stack(columns, 1)


@pytest.mark.parametrize("degree", [2, 10, 40])
def test_spherical_harmonics(degree: int) -> None:
    check(SphericalHarmonics(SphericalHarmonicsConfig(degree=degree)), harmonics(degree, LAT, LNG))


def test_spherical_harmonics_are_orthonormal() -> None:
    """Products have degree 78: 40 Gauss-Legendre nodes in sin φ and 80 longitudes integrate them exactly.

    What is left is rounding, that of the float32 degrees included: 1e-7 of a radian, times a slope of up to degree 40.
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)
    lat, lng = np.meshgrid(np.degrees(np.arcsin(nodes)), np.arange(80) * 4.5 - 180, indexing="ij")
    places = torch.from_numpy(np.stack([lat.ravel(), lng.ravel()], 1)).float()
    values = SphericalHarmonics(SphericalHarmonicsConfig(degree=40))(places).double()
    area = torch.from_numpy(np.repeat(weights * 2 * np.pi / 80, 80))
    gram = (values * area[:, None]).T @ values
    assert (gram - torch.eye(1600)).abs().max() < 4e-6


def test_spherical_harmonics_have_the_right_slope_at_the_poles() -> None:
    """Y_11 = √(3/4π) x: at a pole, along longitude 0, x falls by 1 a radian; all higher orders are flat."""
    place = torch.tensor([[90.0, 0.0], [-90.0, 0.0]], requires_grad=True)
    output = SphericalHarmonics(SphericalHarmonicsConfig(degree=3))(place)
    (slope,) = torch.autograd.grad(output[:, 3].sum(), place, retain_graph=True)
    expected = np.sqrt(3 / (4 * np.pi)) * np.pi / 180
    np.testing.assert_allclose(slope[:, 0].numpy(), [-expected, expected], rtol=1e-6)
    (slope,) = torch.autograd.grad(output[:, 8].sum(), place)
    assert slope.abs().max() < 1e-12
