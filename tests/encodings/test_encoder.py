"""The encoder's own options: the MLP, dropped metadata, jittered places, precision, compilation."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stssl.encodings.encoder import EncoderConfig, MetadataEncoder, jitter

NAN = float("nan")
PLACE = torch.tensor([[48.1, 11.6], [-33.9, 151.2], [90, 180], [NAN, 5], [NAN, NAN], [0, -180]])
TIME = torch.tensor([17_000.3, NAN, 0, -9000, NAN, 20_000], dtype=torch.float64)


def make(seed: int = 0, width: int = 8, **config: Any) -> MetadataEncoder:
    torch.manual_seed(seed)
    encoder = MetadataEncoder(EncoderConfig(**config), width)
    for parameter in (encoder.unknown_location, encoder.unknown_time):
        torch.nn.init.normal_(parameter)
    return encoder


def features_of(encoder: MetadataEncoder, place: Tensor, time: Tensor) -> Tensor:
    """What the MLP is given."""
    seen = []
    handle = encoder.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    encoder(place, time)
    handle.remove()
    return seen[0]


def test_mlp() -> None:
    def shapes(**config: Any) -> dict[str, tuple[int, ...]]:
        return {key: tuple(p.shape) for key, p in make(**config).mlp.named_parameters() if key.endswith("weight")}

    assert shapes() == {"0.weight": (8, 4), "2.weight": (8, 8)}
    assert shapes(mlp_depth=1, mlp_width=16) == {"0.weight": (8, 4)}
    assert shapes(mlp_width=16) == {"0.weight": (16, 4), "2.weight": (8, 16)}
    assert shapes(mlp_depth=3, mlp_width=16) == {"0.weight": (16, 4), "2.weight": (16, 16), "4.weight": (8, 16)}
    assert shapes(location="cartesian", time="month", mlp_depth=3) == {
        "0.weight": (8, 15), "2.weight": (8, 8), "4.weight": (8, 8)
    }  # fmt: skip


def test_dropout_hides_place_and_time_independently() -> None:
    n, rate = 4000, 0.3
    encoder = make(dropout=rate, time="seasonal_hemisphere")
    place, time = torch.tensor([[50.0, 10.0]]).repeat(n, 1), torch.full((n,), 17_000.0, dtype=torch.float64)
    features = features_of(encoder, place, time)
    no_place = (features[:, :2] == encoder.unknown_location).all(dim=1)
    no_time = (features[:, 2:] == encoder.unknown_time).all(dim=1)
    for share, expected in ((no_place, rate), (no_time, rate), (no_place & no_time, rate**2)):
        deviation = math.sqrt(expected * (1 - expected) / n)
        assert abs(float(share.float().mean()) - expected) < 5 * deviation  # binomial, five standard deviations
    kept = features_of(encoder.eval(), place, time)
    assert (kept == features[~no_place & ~no_time][0]).all()  # nothing is dropped in evaluation
    # a hidden place hides the hemisphere
    assert (features[no_place & ~no_time, 4:] == 0).all() and (features[~no_place & ~no_time, 4:] != 0).any(1).all()


@pytest.mark.parametrize("location", ["none", "scaled"])
def test_unknown_latitude_is_no_hemisphere(location: str) -> None:
    encoder = make(location=location, time="seasonal_hemisphere")
    features = features_of(encoder, PLACE[[0, 1, 3]], TIME[[0, 0, 0]])[:, encoder.location.features :]
    assert torch.equal(features[:, :2], features[:1, :2].expand(3, -1))
    assert features[0, 3] * features[1, 3] < 0 and (features[2, 2:] == 0).all()


def test_no_random_number_is_drawn_without_need() -> None:
    for config, training, drawn in (
        ({}, True, False),
        ({"dropout": 0.1, "jitter_deg": 0.5}, False, False),
        ({"dropout": 0.1}, True, True),
        ({"jitter_deg": 0.5}, True, True),
    ):
        encoder = make(**config).train(training)
        before = torch.get_rng_state()
        encoder(PLACE, TIME)
        assert torch.equal(torch.get_rng_state(), before) != drawn


@settings(max_examples=50, deadline=None)
@given(
    lat=st.floats(-90, 90, width=32),
    lng=st.floats(-180, 180, width=32),
    most=st.sampled_from([1e-3, 0.1, 1]),
    seed=st.integers(0, 99),
)
def test_jitter_stays_near_and_on_the_earth(lat: float, lng: float, most: float, seed: int) -> None:
    torch.manual_seed(seed)
    moved = jitter(torch.tensor([[lat, lng]]).repeat(50, 1), most)
    assert (moved[:, 0].abs() <= 90).all() and (moved[:, 1] >= -180).all() and (moved[:, 1] <= 180).all()
    around = (moved[:, 1] - lng + 180).remainder(360) - 180
    rounding = 4 * 360 * 2.0**-24  # four roundings of numbers up to 360
    assert (moved[:, 0] - lat).abs().max() <= most + rounding and around.abs().max() <= most + rounding


def test_jitter_is_uniform_wraps_and_stops_at_the_poles() -> None:
    torch.manual_seed(0)
    moved = jitter(torch.tensor([[0.0, 180.0]]).repeat(4000, 1), 1.0)
    east = moved[:, 1] < 0
    assert abs(float(east.float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(4000)
    lat = moved[:, 0].sort().values
    assert (lat - torch.linspace(-1, 1, 4000)).abs().max() < 2 * 1.95 / math.sqrt(4000)  # Kolmogorov-Smirnov, p = 0.001
    pole = jitter(torch.tensor([[90.0, 0.0]]).repeat(4000, 1), 1.0)[:, 0]
    assert pole.max() == 90 and abs(float((pole == 90).float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(4000)


def test_jitter_moves_the_hemisphere_too_and_leaves_the_unknown() -> None:
    encoder = make(jitter_deg=1.0, time="seasonal_hemisphere")
    place, time = PLACE.repeat(50, 1), torch.full((300,), 17_000.0, dtype=torch.float64)
    jittered, exact = features_of(encoder, place, time), features_of(encoder.eval(), place, time)
    unknown = place.isnan().any(dim=1)
    assert torch.equal(jittered[unknown], exact[unknown])
    assert (jittered[::6, 5] != exact[::6, 5]).all()
    latitude = jittered[::6, 0] * 90
    torch.testing.assert_close(jittered[::6, 5] / jittered[::6, 3], latitude.deg2rad().sin())


@pytest.mark.parametrize("location", ["fourier", "multiscale", "sphere", "spherical_harmonics"])
def test_missing_metadata_with_dropout_and_jitter_is_finite(location: str) -> None:
    encoder = make(location=location, time="time2vec", dropout=0.5, jitter_deg=1, mlp_depth=3)
    place, time = PLACE.clone().requires_grad_(), TIME.clone().requires_grad_()
    output = encoder(place, time)
    output.square().sum().backward()
    assert output.isfinite().all()
    assert all(t.grad is None or t.grad.isfinite().all() for t in (place, time, *encoder.parameters()))


@pytest.mark.parametrize("location", ["scaled", "fourier", "multiscale", "sphere", "spherical_harmonics"])
@pytest.mark.parametrize("time", ["day_of_year", "time2vec"])
def test_autocast_does_not_touch_the_features(location: str, time: str) -> None:
    encoder = make(location=location, time=time)
    expected = features_of(encoder, PLACE, TIME)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features_of(encoder, PLACE, TIME), expected) and expected.dtype == torch.float32
        assert encoder(PLACE, TIME).dtype == torch.bfloat16


class Product(torch.nn.Module):
    """An encoding that autocast would compute in bfloat16."""

    features = 2

    def forward(self, place_deg: Tensor, *_: Tensor) -> Tensor:
        return place_deg.view(len(place_deg), -1)[:, :1].float() @ torch.tensor([[1.001, 2.003]])


@pytest.mark.parametrize("kind", ["location", "time"])
def test_encodings_run_without_autocast(kind: str) -> None:
    encoder = make()
    setattr(encoder, kind, Product())
    expected = features_of(encoder, PLACE, TIME)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features_of(encoder, PLACE, TIME), expected)


@pytest.mark.parametrize(
    "config",
    [
        {"location": "spherical_harmonics", "time": "time2vec", "dropout": 0.5, "jitter_deg": 1.0},
        {"location": {"name": "sphere", "variant": "sphereM"}, "time": "seasonal_hemisphere"},
        {"location": "fourier", "time": "month"},
    ],
    ids=lambda config: str(config["time"]),
)
def test_compiled_is_eager(config: dict[str, Any]) -> None:
    encoder = make(**config)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    outputs = []
    for network in (encoder, compiled):
        torch.manual_seed(5)
        outputs.append(network(PLACE, TIME))
    torch.testing.assert_close(*outputs)
