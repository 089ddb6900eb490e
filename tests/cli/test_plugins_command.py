"""`plugins`: all that pydantic enforces is told, and nothing that it does not."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from stssl import plugins
from stssl.algorithms.base import Algorithm
from stssl.cli.app import main
from stssl.cli.plugins import _paper, _reflow, _sentence
from stssl.cli.settings import limits_of, parameters, row
from stssl.config import Config
from stssl.data.sources.base import Source
from stssl.encodings.base import LocationEncoding, TimeEncoding
from stssl.models.injection.base import Injection
from stssl.training.recipe import PLUGINS, Recipe

KINDS = {
    "source": plugins.find("stssl.data.sources", Source),
    "encoding.location": plugins.find("stssl.encodings.location", LocationEncoding),
    "encoding.time": plugins.find("stssl.encodings.time", TimeEncoding),
    "injection": plugins.find("stssl.models.injection", Injection),
    "algorithm": plugins.find("stssl.algorithms", Algorithm),
}
ALL = [(kind, name) for kind, found in KINDS.items() for name in found]


def shown(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["plugins", *arguments]) == 0
    return capsys.readouterr().out


def told(*arguments: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return json.loads(shown(*arguments, "--json", capsys=capsys))


def test_every_kind_that_a_recipe_chooses_is_there() -> None:
    assert set(KINDS) == {"source", *PLUGINS}


def test_every_plugin_is_listed_with_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    entries = told(capsys=capsys)
    assert [(e["kind"], e["name"]) for e in entries] == ALL
    text = shown(capsys=capsys)
    for entry in entries:
        config = KINDS[entry["kind"]][entry["name"]].Config
        names = [p["name"] for p in entry["parameters"]]
        assert names == [key for key in config.model_fields if key != "name"]
        assert entry["summary"] and entry["key"] == (None if entry["kind"] == "source" else entry["kind"])
        assert re.search(rf"^  {entry['name']}\b", text, re.MULTILINE)
        for name in names:
            assert re.search(rf"^    {name} +(= \S|required)", text, re.MULTILINE)
    assert "\n  fixmatch (default)" in text


def test_the_defaults_are_those_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.model_validate({"data": {"shards": "somewhere"}})
    entries = told(capsys=capsys)
    for key in PLUGINS:
        config: Any = recipe
        for step in key.split("."):
            config = getattr(config, step)
        (default,) = (e for e in entries if e["key"] == key and e["default"])
        assert default["name"] == config.name
        assert {p["name"]: p["default"] for p in default["parameters"]} == config.model_dump(
            mode="json", exclude="name"
        )


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_the_limits_are_those_that_are_enforced(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = KINDS[kind][name].Config
    (entry,) = (e for e in told(name, capsys=capsys) if e["kind"] == kind)

    def accepted(key: str, value: Any) -> bool:
        """Whether no fault is found with this key itself; what keys together must fulfil is another matter."""
        try:
            config.model_validate({key: value})
        except ValidationError as error:
            return all(fault["loc"][:1] != (key,) for fault in error.errors())
        return True

    for p in entry["parameters"]:
        key = p["name"]
        assert p["required"] == config.model_fields[key].is_required()
        assert p["required"] or accepted(key, p["default"])
        assert accepted(key, None) == p["nullable"]
        for limits in p["either"] or [p]:
            if limits["choices"] is not None and limits["type"] in ("int", "float", "str"):
                assert all(accepted(key, choice) for choice in limits["choices"])
                assert not accepted(key, "no such choice")
            if limits["type"] in ("int", "float"):
                for end, outward in (("low", -math.inf), ("high", math.inf)):
                    bound, exclusive = limits[end], limits[f"{end}_exclusive"]
                    if bound is not None:
                        beyond = bound + math.copysign(1, outward)
                        beyond = math.nextafter(bound, outward) if limits["type"] == "float" else beyond
                        assert accepted(key, int(bound) if limits["type"] == "int" else bound) != exclusive, end
                        assert not accepted(key, int(beyond) if limits["type"] == "int" else beyond), end


@pytest.mark.parametrize("kind", [*KINDS, "encoding", "location", "time"])
def test_one_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [k for k in KINDS if kind == k or kind in k.split(".")]
    assert [(e["kind"], e["name"]) for e in told(kind, capsys=capsys)] == [(k, n) for k, n in ALL if k in kinds]
    text = shown(kind, capsys=capsys)
    assert [line.split()[0] for line in text.splitlines() if re.match(r"\w", line)] == kinds


def test_one_name_shows_all_that_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("fixmatch", capsys=capsys)
    assert "Multi-label, for each class: w = [p ≤ τ₋ or p ≥ τ₊]" in text
    assert re.search(r"`threshold_negative`,\s+`threshold_positive` replaces it", text)
    assert "supervised" not in text and not re.search(r" $", text, re.MULTILINE)
    assert re.search(r"\n    temperature +=.*float in \(0, 10\]\n", text)
    inherited = shown("bigearthnet_v2", capsys=capsys)
    assert "drop_seasonal_snow: Leave out patches" in inherited and "reBEN" in inherited
    assert [e["kind"] for e in told("none", capsys=capsys)] == ["encoding.location", "encoding.time"]


def test_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "fixmach"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "did you mean 'fixmatch'?" in captured.err and "Traceback" not in captured.err
    assert main(["plugins", "algorithms", "--json"]) == 2
    assert "did you mean 'algorithm'?" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--help"]) == 0
    assert "launch.py plugins injection" in re.sub(r"\s+", " ", capsys.readouterr().out)


class AllKinds(Config):
    """Settings of every form."""

    name: Literal["all"] = "all"
    above: float = Field(1e-3, gt=0)
    below: Annotated[int, Field(lt=8)] | None = None
    small: float = Field(0.5, le=1)
    half_open: float = Field(0, ge=0, lt=1)
    word: Literal["a", "no"] | None = "no"
    several: tuple[Literal["a", "b"], ...] = ("a",)
    pair: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0, 1)
    fresh: list[int] = Field(default_factory=lambda: [1])
    either: Annotated[int, Field(ge=1)] | str = 1
    headings: dict[Literal["lat", "lng"], str | None] = {}
    text: str = "it's, so"
    needed: bool


def test_settings_of_every_form_are_told_as_in_yaml() -> None:
    assert [row(p) for p in parameters(AllKinds)] == [
        ("above", "= 0.001", "float, above 0"),
        ("below", "= null", "int or null, below 8"),
        ("small", "= 0.5", "float, at most 1"),
        ("half_open", "= 0", "float in [0, 1)"),
        ("word", '= "no"', 'a, "no", null'),  # a bare `no` is false in YAML
        ("several", "= [a]", "list of str: a, b"),
        ("pair", "= [0, 1]", "list of float, at least 0"),
        ("fresh", "= [1]", "list of int"),
        ("either", "= 1", "int, at least 1 or str"),
        ("headings", "= {}", "mapping to str or null: lat, lng"),
        ("text", '= "it\'s, so"', "str"),
        ("needed", "required", "true, false"),
    ]
    assert limits_of({}, {})["type"] == "any"


def test_first_sentence_and_paper() -> None:
    text = "Of A. Smith et al. (2020), e.g. 1.5 of it. More.\n\nSource: Rußwurm et al.,\nICLR 2024, eq. 3. Deviation: none."
    assert _sentence(text) == "Of A. Smith et al. (2020), e.g. 1.5 of it."
    assert _paper(text) == "Rußwurm et al., ICLR 2024, eq. 3"
    assert _paper("No paper.") is None and _sentence("No stop") == "No stop"


def test_prose_flows_and_formulas_stay() -> None:
    text = "Some\nprose:\n\n    a = 1\n    b = 2\n\nAttributes:\n    x: long\n        text"
    assert _reflow(text, 80) == ["Some prose:", "", "    a = 1", "    b = 2", "", "Attributes:", "    x: long text"]
