"""What every encoding promises, and the encoder that joins them."""

import datetime
import itertools
import re
import typing
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stssl import plugins
from stssl.encodings.base import LocationEncoding, TimeEncoding
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder

LOCATIONS = plugins.find("stssl.encodings.location", LocationEncoding)
TIMES = plugins.find("stssl.encodings.time", TimeEncoding)
PAIRS = [pair for pair in itertools.product(LOCATIONS, TIMES) if pair != ("none", "none")]  # which recipes refuse


def variants(found: dict[str, Any]) -> list[Any]:
    """Every plugin by default, with every bounded setting at either end, and with every choice."""
    params = []
    for name, plugin in found.items():
        several: list[dict[str, Any]] = [{}]
        for field, info in plugin.Config.model_fields.items():
            ends = [getattr(bound, end) for bound in info.metadata for end in ("ge", "le") if hasattr(bound, end)]
            choices = typing.get_args(info.annotation) if typing.get_origin(info.annotation) is typing.Literal else ()
            several += [{field: value} for value in (*ends, *choices) if value != info.default]
        params += [pytest.param(plugin, setting, id=f"{name}{setting or ''}") for setting in several]
    return params


# each with the poles, both sides of the date line, the origin, anywhere
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
LATITUDES = PLACES[:, 0]


def check_gradients(module: nn.Module, output: Tensor, *inputs: Tensor) -> None:
    """Backward through a loss that weighs every output differently; all gradients that there are must be finite."""
    if not output.requires_grad:
        return
    (output * torch.linspace(0.5, 1.5, output.numel()).view_as(output)).sum().backward()
    for tensor in (*inputs, *module.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()


@pytest.mark.parametrize("plugin, setting", variants(LOCATIONS))
def test_location(plugin: Any, setting: dict[str, Any]) -> None:
    encoding = plugin(plugin.Config(**setting))
    place = PLACES.clone().requires_grad_()
    output = encoding(place)
    assert output.shape == (len(place), encoding.features) and output.dtype == torch.float32
    assert output.isfinite().all()
    check_gradients(encoding, output, place)


@pytest.mark.parametrize("plugin, setting", variants(TIMES))
def test_time(plugin: Any, setting: dict[str, Any]) -> None:
    encoding = plugin(plugin.Config(**setting))
    time, latitude = TIMES_OF_DAY.clone().requires_grad_(), LATITUDES.clone().requires_grad_()
    output = encoding(time, latitude)
    assert output.shape == (len(time), encoding.features) and output.dtype == torch.float32
    assert output.isfinite().all()
    check_gradients(encoding, output, time, latitude)


@pytest.mark.parametrize("name, plugin", [*LOCATIONS.items(), *TIMES.items()])
def test_the_source_is_told(name: str, plugin: type) -> None:
    assert name == "none" or re.search(r"^\s*Source: \S", plugin.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize("plugin, setting", variants(LOCATIONS))
def test_no_seam_at_the_date_line(plugin: Any, setting: dict[str, Any]) -> None:
    """A step across the date line is like the steps of the same size and latitude elsewhere.

    Steps of whole 1/512 degrees are exact in float32 up to 180 degrees; so only the rounding of the features is left.
    """
    encoding = plugin(plugin.Config(**setting))
    elsewhere = torch.arange(-180, 180, 5)[1:].float()

    @settings(max_examples=10, deadline=None, database=None)
    @given(lat=st.floats(-90, 90, width=32), step=st.integers(1, 512).map(lambda n: n / 512))
    def check(lat: float, step: float) -> None:
        west = torch.cat([torch.tensor([180 - step]), elsewhere - step])
        east = torch.cat([torch.tensor([-180 + step]), elsewhere + step])
        west, east = (encoding(torch.stack([torch.full_like(lng, lat), lng], dim=1)) for lng in (west, east))
        seam, *others = (west - east).norm(dim=1).tolist()
        assert seam <= 2 * max(others, default=0) + 1e-5  # Lipschitz: `fourier` is not the same everywhere

    if plugin.seamless:
        check()
    else:
        with pytest.raises(AssertionError):
            check()


@pytest.mark.parametrize("plugin, setting", variants(TIMES))
def test_new_year_is_a_day_like_others(plugin: Any, setting: dict[str, Any]) -> None:
    """A common year is up to a day shorter than a period of up to 366 days: hence the factor of two."""
    encoding = plugin(plugin.Config(**setting))
    days = days_of(["2015-01-01"]) + torch.arange(3 * 366)  # 2016 is a leap year
    for latitude in (0.0, 60.0, -90.0):
        steps = encoding(days, torch.full((len(days),), latitude)).diff(dim=0).norm(dim=1)
        new_year = torch.isin(days[1:], days_of(["2016-01-01", "2017-01-01"]))
        assert new_year.sum() == 2
        assert steps[new_year].max() <= 2 * steps[~new_year].max() + 1e-5


@pytest.mark.parametrize("name", LOCATIONS)
def test_places_are_told_apart_and_rows_do_not_mix(name: str) -> None:
    encoding = LOCATIONS[name](LOCATIONS[name].Config())
    output = encoding(PLACES)
    torch.testing.assert_close(encoding(PLACES[7:8]), output[7:8])
    assert name == "none" or not torch.allclose(output[7], output[8], atol=1e-3)


@pytest.mark.parametrize("name", TIMES)
def test_seasons_are_told_apart_and_rows_do_not_mix(name: str) -> None:
    encoding = TIMES[name](TIMES[name].Config())
    time, latitude = days_of(["2017-01-15", "2017-07-15"]), torch.tensor([10.0, -20.0])
    output = encoding(time, latitude)
    torch.testing.assert_close(encoding(time[1:], latitude[1:]), output[1:])
    assert name == "none" or not torch.allclose(output[0], output[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["location", "time"])
def test_state_dict_round_trip(kind: str) -> None:
    found, inputs = (LOCATIONS, (PLACES,)) if kind == "location" else (TIMES, (TIMES_OF_DAY, LATITUDES))
    for plugin in found.values():
        torch.manual_seed(1)
        first = plugin(plugin.Config())
        torch.manual_seed(2)
        second = plugin(plugin.Config())
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(*inputs), second(*inputs))


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

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
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
