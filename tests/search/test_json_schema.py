"""The schemas for editors are current, and agree with what is read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stssl import config as cfg
from stssl.cli.app import main
from stssl.search.json_schema import recipe_schema, search_schema
from tests.search.test_shorthand import FLAT, NESTED

ROOT = Path(__file__).parents[2] / "search_spaces"
SPACES, RECIPES = sorted(ROOT.glob("*.yaml")), sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def search() -> Any:
    return jsonschema.Draft202012Validator(search_schema())


@pytest.fixture(scope="module")
def recipe() -> Any:
    return jsonschema.Draft202012Validator(recipe_schema())


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for kind, file in (("search", ROOT / "search.schema.json"), ("recipe", ROOT / "recipes" / "recipe.schema.json")):
        assert main(["schema", "--kind", kind]) == 0
        printed = capsys.readouterr().out
        remedy = f"is not current: python launch.py schema --kind {kind} --out {file}"
        assert json.loads(file.read_text()) == json.loads(printed), f"{file} {remedy}"
        assert main(["schema", "--kind", kind, "--out", str(tmp_path / "x.json")]) == 0
        assert (tmp_path / "x.json").read_text() == printed
    assert main(["schema", "--kind", "nothing"]) == 2


@pytest.mark.parametrize("path", [*SPACES, *RECIPES], ids=lambda path: path.stem)
def test_all_files_that_come_along(path: Path, search: Any, recipe: Any) -> None:
    kind, validator = ("search", search) if path in SPACES else ("recipe", recipe)
    validator.check_schema(validator.schema)
    validator.validate(cfg.read_yaml(path))
    assert path.read_text().startswith(f"# yaml-language-server: $schema={kind}.schema.json\n")


def test_shorter_forms(search: Any) -> None:
    file = {"name": "s", "recipe": {"data": {"shards": "x"}, "algorithm": "fixmatch"}, "points": ["runs/earlier"]}
    fixed = {"optimizer.lr": 0.001, "algorithm": "freematch", "seed": 3, "encoding.mlp_width": None}
    steps = {"optimizer.lr": {"uniform": [0.1, 0.2], "step": 0.05}}
    for space in (NESTED, FLAT, fixed, steps):
        search.validate({**file, "space": space, "constraints": ["optimizer.lr < 1"]})


WRONG: dict[str, tuple[str, Any]] = {
    "top": ("trails", 3),
    "number": ("trials", "many"),
    "none": ("trials", 0),
    "recipe": ("recipe", {"data": {"shards": "x"}, "optimzer": {}}),
    "recipe's value": ("recipe", {"data": {"shards": "x"}, "optimizer": {"lr": "fast"}}),
    "recipe's plugin": ("recipe", {"data": {"shards": "x"}, "algorithm": "fixmach"}),
    "recipe's setting": ("recipe", {"data": {"shards": "x"}, "algorithm": {"name": "fixmatch", "power": 2}}),
    "no data": ("recipe", {"seed": 1}),
    "no shards": ("recipe", {"data": {}}),
    "key": ("space", {"optimizer.lrr": {"uniform": [0, 1]}}),
    "kind": ("space", {"optimizer.lr": {"unifrm": [0, 1]}}),
    "two kinds": ("space", {"optimizer.lr": {"uniform": [0, 1], "choice": [1]}}),
    "no kind": ("space", {"optimizer.lr": {"when": {"framework": "plain"}}}),
    "ends": ("space", {"optimizer.lr": {"uniform": [0, 1, 2]}}),
    "list": ("space", {"optimizer.lr": [0, 1]}),
    "length": ("space", {"training.steps": {"int": [10, 20]}}),
    "condition": ("space", {"optimizer.lr": {"uniform": [0, 1], "when": {"framewrk": "plain"}}}),
    "plugin": ("space", {"injection": {"plugin": {"tokn": {}}}}),
    "setting": ("space", {"injection": {"plugin": {"token": {"cuont": 1}}}}),
    "no plugin": ("space", {"injection": {"plugin": {}}}),
    "no group": ("space", {"framework": {"plugin": {"plain": {}}}}),
    "point": ("points", [{"optimizer.lrr": 1}]),
    "constraint": ("constraints", [7]),
}


@pytest.mark.parametrize("key, value", WRONG.values(), ids=WRONG)
def test_wrong_ones(search: Any, key: str, value: Any) -> None:
    file = copy.deepcopy(cfg.read_yaml(ROOT / "demo.yaml"))
    search.validate(file)
    with pytest.raises(jsonschema.ValidationError):
        search.validate(file | {key: value})


def test_wrong_recipes(recipe: Any) -> None:
    recipe.validate({"base": "b.yaml", "algorithm": {"threshold": 0.9}, "data": {"labeled": {"count": 3}}})
    for wrong in ({"base": 3}, {"base": "b", "seed": "x"}, {"algorithm": "fixmatch"}, {"base": "b", "views": None}):
        with pytest.raises(jsonschema.ValidationError):
            recipe.validate(wrong)
