"""Fixed values and plugins with their settings in a search file, and points that are earlier searches."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.search.config import SearchConfig
from stssl.search.shorthand import flat_key
from stssl.search.space import Space
from stssl.training.recipe import Recipe
from tests.search.conftest import RECIPE

LR = {"optimizer.lr": {"loguniform": [1e-5, 0.1]}}
FREQUENCIES = {"int": [32, 256], "step": 32}
NESTED: dict[str, Any] = {
    "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
    "encoding.location": {
        "plugin": {
            "scaled": {},
            "fourier": {"frequencies": FREQUENCIES, "sigma": {"loguniform": [0.1, 64]}},
            "multiscale": {"scales": {"int": [4, 32]}, "smallest_scale_deg": 1.0},
            "sphere": {"scales": {"int": [4, 32]}, "variant": {"choice": ["sphereC", "sphereM"]}},
            "wrap": None,
        },
        "when": {"framework": ["metadata_input", "teacher_student"]},
    },
    "algorithm": {
        "plugin": {
            "supervised": {},
            "fixmatch": {
                "hard_labels": {"choice": [True, False]},
                "temperature": {"uniform": [0.5, 1], "when": {"algorithm.hard_labels": False}},
            },
        }
    },
}
FLAT = {
    "framework": NESTED["framework"],
    "encoding.location.name": {
        "choice": ["scaled", "fourier", "multiscale", "sphere", "wrap"],
        "when": {"framework": ["metadata_input", "teacher_student"]},
    },
    "encoding.location.frequencies": {**FREQUENCIES, "when": {"encoding.location.name": "fourier"}},
    "encoding.location.sigma": {"loguniform": [0.1, 64], "when": {"encoding.location.name": "fourier"}},
    "encoding.location.scales": {"int": [4, 32], "when": {"encoding.location.name": ["multiscale", "sphere"]}},
    "encoding.location.smallest_scale_deg": {"choice": [1.0], "when": {"encoding.location.name": "multiscale"}},
    "encoding.location.variant": {"choice": ["sphereC", "sphereM"], "when": {"encoding.location.name": "sphere"}},
    "algorithm.name": {"choice": ["supervised", "fixmatch"]},
    "algorithm.hard_labels": {"choice": [True, False], "when": {"algorithm.name": "fixmatch"}},
    "algorithm.temperature": {
        "uniform": [0.5, 1],
        "when": {"algorithm.name": "fixmatch", "algorithm.hard_labels": False},
    },
}


@pytest.fixture
def reading(tmp_path: Path) -> Any:
    """Reads a search with this space."""

    def read(space: Any, overrides: dict[str, Any] | None = None, **more: Any) -> SearchConfig:
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump({"name": "s", "recipe": RECIPE, "space": space, **more}, sort_keys=False))
        return SearchConfig.read(path, overrides)

    return read


def test_plugins_with_their_settings(reading, tmp_path: Path, space_of) -> None:
    config = reading(NESTED)
    assert config == reading(FLAT) and list(config.space) == list(FLAT)
    (tmp_path / "again.yaml").write_text(cfg.dump_yaml(config.dump()))
    assert SearchConfig.read(tmp_path / "again.yaml") == config
    space_of(run(config)).check()


def run(config: SearchConfig) -> SearchConfig:
    """With the recipe in full."""
    return config.model_copy(update={"recipe": cfg.validate(Recipe, config.recipe, "r").dump()})


def sphere(**settings: Any) -> dict[str, Any]:
    return {"encoding.location": {"plugin": {"multiscale": {"scales": {"int": [4, 32]}}, "sphere": settings}}}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "ranges": (
        sphere(scales={"int": [4, 16]}),
        "space.encoding.location.plugin.sphere.scales: is another range than encoding.location.plugin.multiscale.scales; "
        "both are the key encoding.location.scales: give both the same range",
    ),
    "condition": (sphere(scales={"int": [4, 32], "when": {"framework": "plain"}}), "space.*sphere.scales: is another range"),
    "plugin": (
        {"injection": {"plugin": {"tokn": {}}}},
        "space.injection.plugin.tokn: no such plugin; did you mean 'token'? known: add, ",
    ),
    "setting": (
        {"injection": {"plugin": {"token": {"cuont": {"int": [1, 8]}}}}},
        "space.injection.plugin.token.cuont: no such setting; did you mean 'count'? known: before_block, count",
    ),
    "parameter": (
        {"injection": {"plugin": {"token": {"count": {"intt": [1, 8]}}}}},
        "space.injection.plugin.token.count: unknown key 'intt'; did you mean 'int'?",
    ),
    "list": (
        {"injection": {"plugin": {"token": {"count": [1, 8]}}}},
        "space.injection.plugin.token.count: a list alone says not how to search; write {choice: [1, 8]}, or uniform",
    ),
    "no settings": ({"injection": {"plugin": {"token": 7}}}, "space.injection.plugin.token: expected its settings, or {}"),
    "names": (
        {"injection": {"plugin": ["token", "add"]}},
        "space.injection.plugin: expected names of plugins, each with its settings (got ['token', 'add'])",
    ),
    "none": ({"injection": {"plugin": {}}}, "space.injection.plugin: expected names of plugins, .*(got {})"),
    "other key": ({"injection": {"plugin": {"token": {}}, "whn": {}}}, "space.injection: unknown key 'whn'; did you mean 'when'"),
    "no group": (
        {"framework": {"plugin": {"plain": {}}}},
        "space.framework: has no plugins, write choice; known: algorithm, encoding.location, encoding.time, injection",
    ),
    "name": ({"injection.name": {"plugin": {"token": {}}}}, "space.injection.name: has no plugins, .*did you mean 'injection'?"),
    "twice": (
        {"injection": {"plugin": {"token": {"count": {"int": [1, 8]}}}}, "injection.count": {"int": [1, 4]}},
        "space.injection.count: stands under space.injection too; remove one of them",
    ),
    "name twice": (
        {"injection.name": {"choice": ["token"]}, "injection": {"plugin": {"token": {}}}},
        "space.injection.name: stands under space.injection too; remove one of them",
    ),
    "fixed twice": (
        {"injection.count": 3, "injection": {"plugin": {"token": {"count": {"int": [1, 8]}}}}},
        "space.injection.count: stands under space.injection too; remove one of them",
    ),
    "fixed value": ({**LR, "optimizer.weight_decay": "big"}, "space.optimizer.weight_decay: input should be a valid number"),
    "fixed null": ({**LR, "optimizer.weight_decay": None}, "space.optimizer.weight_decay: input should be a valid number"),
    "fixed key": (
        {**LR, "optimizer.weight_decy": 0.1},
        "space.optimizer.weight_decy: no key of a recipe; did you mean 'optimizer.weight_decay'?",
    ),
    "fixed top": ({**LR, "sed": 1}, "space.sed: no key of a recipe; did you mean 'seed'?"),
    "fixed below": ({**LR, "seed.x": 1}, "space.seed.x: no key of a recipe; did you mean 'seed'?"),
    "fixed other plugin's": ({**LR, "algorithm.power": 2}, "space.algorithm.power: unknown key 'power'; known: "),
    "fixed plugin": ({**LR, "injection": "tokn"}, "space.injection: unknown choice 'tokn'; did you mean 'token'?"),
    "fixed parent": (
        {"framework": "plain", "distillation.weight": {"uniform": [0.1, 1], "when": {"framework": "plain"}}},
        "space.distillation.weight.when: framework is fixed to 'plain' in this file; write it as {choice: [plain]} where",
    ),
    "not fixed": ({"optimizer.lr": [1e-4, 1e-3]}, "space.optimizer.lr: a list alone says not how to search; write {choice"),
    "all fixed": ({"optimizer.lr": 1e-4}, ""),
}  # fmt: skip


@pytest.mark.parametrize("space, said", FAULTS.values(), ids=FAULTS)
def test_faults(reading, tmp_path: Path, space: dict[str, Any], said: str) -> None:
    if not said:
        with pytest.raises(ConfigError, match="space: is empty"):
            config = run(reading(space))
            Space(config.space, config.recipe)
        return
    with pytest.raises(ConfigError) as caught:
        reading(space)
    text = re.sub(r"^(.*s\.yaml)(, line \d+)?: ", "", str(caught.value))
    assert re.match(re.escape(said).replace(r"\.\*", ".*"), text), text


def test_fixed_values(reading) -> None:
    space = {**LR, "seed": 5, "algorithm": "freematch", "encoding.time.name": "month", "model.patch_size": 8}
    config = reading(space)
    assert list(config.space) == ["optimizer.lr"]
    recipe = run(config).recipe
    assert recipe["seed"] == 5 and recipe["algorithm"]["name"] == "freematch" and recipe["model"]["patch_size"] == 8
    assert recipe["encoding"]["time"] == {"name": "month"}
    assert reading(space, {"recipe.seed": 9}).recipe["seed"] == 9  # the command line has the last word
    with pytest.raises(ConfigError, match=r"s\.yaml.*: recipe: seed: "):
        reading(space, {"recipe.seed": -1})
    with pytest.raises(ConfigError, match="--set space: the space is changed in"):
        reading(space, {"space": {}})


def test_written_and_flat_keys() -> None:
    assert (
        flat_key("space.encoding.location.plugin.fourier.sigma.loguniform")
        == "space.encoding.location.sigma.loguniform"
    )
    assert flat_key("space.injection.plugin") == flat_key("space.injection.plugin.token") == "space.injection.name"
    assert flat_key("space.optimizer.lr") == "space.optimizer.lr" and flat_key("recipe.injection") == "recipe.injection"


def test_points_from_earlier_searches(reading, tmp_path: Path) -> None:
    best = tmp_path / "runs" / "earlier" / "best"
    best.mkdir(parents=True)
    (best.parent / "ledger.jsonl").touch()
    with pytest.raises(ConfigError) as caught:
        reading(LR, points=[{}, "runs/earlier"])
    text = str(caught.value)
    assert re.search(
        r"points\[1\]: \S+/runs/earlier holds no best/recipe.yaml, but best, ledger.jsonl; name the run f", text
    )
    assert text.endswith("resume " + str(best.parent) + "), or the file of a recipe")
    winner = cfg.with_overrides(run(reading(LR)).recipe, {"optimizer.lr": 0.03, "data.shards": "/elsewhere"})
    (best / "recipe.yaml").write_text(cfg.dump_yaml(winner))
    assert reading(LR, points=["runs/earlier", {}]).points == ({"optimizer.lr": 0.03}, {})
