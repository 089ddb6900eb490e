"""Values in messages are short, and quickly made whatever they are."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stssl import config as cfg
from stssl.errors import ConfigError, StsslError, did_you_mean, short_repr, shorten
from stssl.search.constraints import Constraint
from stssl.search.parameter import Parameter
from stssl.search.run_folder import check_extension
from stssl.search.shorthand import expand
from stssl.training.recipe import Recipe


def nested(depth: int = 40) -> tuple[list[Any], dict[str, Any]]:
    """What nested aliases of a YAML file make: small in memory, without end when written out."""
    entries: list[Any] = ["lol"] * 10
    mapping: dict[str, Any] = {"k": "lol"}
    for _ in range(depth):
        entries, mapping = [entries] * 10, {f"k{i}": mapping for i in range(10)}
    return entries, mapping


LIST, MAPPING = nested()
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
VALUES = [
    LIST,
    MAPPING,
    ENDLESS,
    (LIST, MAPPING),
    "x" * 10**7,
    10**5000,
    b"x" * 10**6,
    {*range(10**5)},
    [*range(10**6)],
    object(),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_short_and_quick(value: object) -> None:
    start = time.monotonic()
    for made in (short_repr(value), shorten(value)):
        assert 0 < len(made) <= 200 and "\n" not in made
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "value",
    ["", "a", "it's", 'a"b', "ü\n\x1b[2J", 0, -3, 1e-4, float("nan"), True, None, [], [1, "a", None], (1,), (), {},
     {"b": 1, "a": [{}]},
     b"x", datetime.date(2020, 1, 2), Path("x")],
)  # fmt: skip
def test_ordinary_values_are_shown_as_they_are(value: object) -> None:
    assert short_repr(value) == repr(value)
    assert shorten(value) == (value if isinstance(value, str) else repr(value))


def test_a_remedy_names_no_thousand_names() -> None:
    said = did_you_mean("t" * 10**6, [f"t{i:05d}" for i in range(20_000)])
    assert len(said) < 3000 and said.endswith("and 19800 more")


def in_recipe(value: Any, *keys: str) -> Any:
    data: Any = value
    for key in reversed(keys):
        data = {key: data}
    return cfg.validate(Recipe, data, "r.yaml")


WAYS: dict[str, Callable[[Any], object]] = {
    "a number": lambda value: in_recipe(value, "optimizer", "lr"),
    "a choice": lambda value: in_recipe(value, "framework"),
    "a plugin": lambda value: in_recipe(value, "algorithm"),
    "a plugin's name": lambda value: in_recipe(value, "algorithm", "name"),
    "blocks": lambda value: in_recipe({"name": "film", "blocks": value}, "injection"),
    "a path": lambda value: in_recipe(value, "data", "shards"),
    "a parameter": lambda value: cfg.validate(Parameter, {"choice": value}, "s.yaml"),
    "a condition": lambda value: cfg.validate(Parameter, {"choice": [1], "when": {"framework": value}}, "s.yaml"),
    "a short form": lambda value: expand({"algorithm": {"plugin": value}}, "s.yaml"),
    "a setting": lambda value: expand({"algorithm": {"plugin": {"fixmatch": {"threshold": [value]}}}}, "s.yaml"),
    "an extension": lambda value: check_extension({"metric": (value, 1)}, "s.yaml"),
    "a constraint": lambda value: Constraint(shorten(value) * 1000, "s.yaml"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [LIST, MAPPING, "x" * 10**6], ids=["list", "mapping", "text"])
def test_messages_about_such_values(way: str, value: object) -> None:
    if way in ("a path", "a condition") and isinstance(value, str):
        return  # which may be any text
    start = time.monotonic()
    with pytest.raises(StsslError) as error:
        WAYS[way](value)
    assert time.monotonic() - start < 5
    assert max(map(len, str(error.value).split("\n"))) < 1500


def test_long_names_of_keys_are_cut() -> None:
    with pytest.raises(ConfigError, match=r"^r.yaml: unknown key 'xxx.*x\.\.\.'; known: ") as error:
        cfg.validate(Recipe, {"x" * 10**6: 1, "data": {"shards": "a"}}, "r.yaml")
    assert len(str(error.value)) < 1500
