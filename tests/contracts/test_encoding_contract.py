"""What every encoding promises, and the encoder that joins them."""

import datetime
import itertools

import pytest
import torch
from torch import Tensor, nn

from stssl import plugins
from stssl.encodings.base import LocationEncoding, TimeEncoding
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder

LOCATIONS = plugins.find("stssl.encodings.location", LocationEncoding)
TIMES = plugins.find("stssl.encodings.time", TimeEncoding)
PAIRS = [pair for pair in itertools.product(LOCATIONS, TIMES) if pair != ("none", "none")]  # which recipes refuse

# poles, both sides of the date line, the origin, anywhere
PLACES = torch.tensor(
    [
        [90, 0],
        [-90, 0],
        [90, 180],
        [-90, -180],
        [0, 180],
        [0, -180],
        [0, 0],
        [48.1, 11.6],
        [-33.9, 151.2],
        [1e-30, -1e-30],
    ]
)
DATES = [
    *("1900-01-01", "1900-02-28", "1900-03-01", "1969-12-31", "1970-01-01"),
    *("2000-02-29", "2000-12-31", "2015-12-31", "2016-02-29", "2016-12-31"),
]


def days_of(dates: list[str]) -> Tensor:
    epoch = datetime.date(1970, 1, 1)
    return torch.tensor([(datetime.date.fromisoformat(d) - epoch).days for d in dates], dtype=torch.float64)


TIMES_OF_DAY = days_of(DATES) + torch.linspace(0, 0.999, len(DATES), dtype=torch.float64)


def check_gradients(module: nn.Module, output: Tensor, *inputs: Tensor) -> None:
    """Backward through a loss that weighs every output differently; all gradients that there are must be finite."""
    if not output.requires_grad:
        return
    (output * torch.linspace(0.5, 1.5, output.numel()).view_as(output)).sum().backward()
    for tensor in (*inputs, *module.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()


@pytest.mark.parametrize("name", LOCATIONS)
def test_location(name: str) -> None:
    encoding = LOCATIONS[name](LOCATIONS[name].Config())
    place = PLACES.clone().requires_grad_()
    output = encoding(place)
    assert output.shape == (len(place), encoding.features) and output.dtype == torch.float32
    assert output.isfinite().all()
    check_gradients(encoding, output, place)


@pytest.mark.parametrize("name", TIMES)
def test_time(name: str) -> None:
    encoding = TIMES[name](TIMES[name].Config())
    time = TIMES_OF_DAY.clone().requires_grad_()
    output = encoding(time)
    assert output.shape == (len(time), encoding.features) and output.dtype == torch.float32
    assert output.isfinite().all()
    check_gradients(encoding, output, time)


@pytest.mark.parametrize("name", LOCATIONS)
def test_places_are_told_apart_and_rows_do_not_mix(name: str) -> None:
    encoding = LOCATIONS[name](LOCATIONS[name].Config())
    output = encoding(PLACES)
    torch.testing.assert_close(encoding(PLACES[7:8]), output[7:8])
    assert name == "none" or not torch.allclose(output[7], output[8], atol=1e-3)


@pytest.mark.parametrize("name", TIMES)
def test_seasons_are_told_apart_and_rows_do_not_mix(name: str) -> None:
    encoding = TIMES[name](TIMES[name].Config())
    time = days_of(["2017-01-15", "2017-07-15"])
    output = encoding(time)
    torch.testing.assert_close(encoding(time[1:]), output[1:])
    assert name == "none" or not torch.allclose(output[0], output[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["location", "time"])
def test_state_dict_round_trip(kind: str) -> None:
    found, inputs = (LOCATIONS, PLACES) if kind == "location" else (TIMES, TIMES_OF_DAY)
    for plugin in found.values():
        torch.manual_seed(1)
        first = plugin(plugin.Config())
        torch.manual_seed(2)
        second = plugin(plugin.Config())
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(inputs), second(inputs))


def make_encoder(location: str, time: str, seed: int = 0) -> MetadataEncoder:
    torch.manual_seed(seed)
    encoder = MetadataEncoder(EncoderConfig(location=location, time=time), 8)
    for parameter in (encoder.unknown_location, encoder.unknown_time):
        nn.init.normal_(parameter)
    return encoder


def with_gaps() -> tuple[Tensor, Tensor]:
    """Place unknown, time unknown, both, one coordinate alone, infinite; the last four rows are whole."""
    place, time = PLACES.clone(), TIMES_OF_DAY.clone()
    nan, inf = float("nan"), float("inf")
    place[0], time[1], place[2], time[2] = nan, nan, nan, nan
    place[3, 0], place[4, 1], place[5, 0], time[5] = nan, nan, inf, inf
    return place, time


@pytest.mark.parametrize("location, time", PAIRS)
def test_what_is_unknown_never_makes_a_nan(location: str, time: str) -> None:
    encoder = make_encoder(location, time)
    place, days = with_gaps()
    place.requires_grad_()
    days.requires_grad_()
    output = encoder(place, days)
    assert output.shape == (10, 8) and output.isfinite().all()
    check_gradients(encoder, output, place, days)
    whole = make_encoder(location, time)(PLACES, TIMES_OF_DAY)
    torch.testing.assert_close(output[6:], whole[6:])  # gaps elsewhere change nothing


@pytest.mark.parametrize("location, time", PAIRS)
def test_the_unknown_is_learned(location: str, time: str) -> None:
    encoder = make_encoder(location, time)
    encoder(*with_gaps()).square().sum().backward()
    for vector in (encoder.unknown_location, encoder.unknown_time):
        assert vector.numel() == 0 or vector.grad.abs().sum() > 0


@pytest.mark.parametrize("location, time", PAIRS)
def test_encoder_round_trip(location: str, time: str) -> None:
    first, second = make_encoder(location, time, 1), make_encoder(location, time, 2)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*with_gaps()), second(*with_gaps()))


def test_half_known_place_is_unknown() -> None:
    encoder = make_encoder("scaled", "day_of_year")
    place, days = with_gaps()
    output = encoder(place, days[:1].repeat(10))
    assert torch.equal(output[0], output[3]) and torch.equal(output[0], output[5])
    assert not torch.allclose(output[0], output[6])


class Wave(nn.Module):
    """An encoding that learns: the gradient of its frequency would be NaN if it ever met one."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.frequency = nn.Parameter(torch.rand(features))

    def forward(self, x: Tensor) -> Tensor:
        return (x.reshape(len(x), -1)[:, :1].float() * self.frequency).sin()


@pytest.mark.parametrize("kind", ["location", "time"])
def test_no_gradient_of_a_learned_encoding_is_poisoned(kind: str) -> None:
    encoder = make_encoder("scaled", "day_of_year")
    wave = Wave(getattr(encoder, kind).features)
    setattr(encoder, kind, wave)
    output = encoder(*with_gaps())
    assert output.isfinite().all()
    check_gradients(encoder, output)
    assert wave.frequency.grad.abs().sum() > 0
