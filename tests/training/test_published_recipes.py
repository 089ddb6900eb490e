"""The recipes that come with the project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stssl import config as cfg
from stssl.data.dataset import Dataset
from stssl.data.sources.simulated import HOLDOUT_MONTHS, HOLDOUT_REGION
from stssl.data.store import ImageStore
from stssl.errors import ConfigError
from stssl.training.recipe import Recipe, read_data
from stssl.training.trainer import Trainer

RECIPES = sorted((Path(__file__).parents[2] / "search_spaces" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_they_are_valid(path: Path) -> None:
    recipe = Recipe.read(path)
    assert recipe.framework == "teacher_student" and recipe.data.shards == f"runs/data/{path.stem.split('_')[0]}"


@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_they_train_in_every_framework(path: Path, framework: str, stores: dict[str, ImageStore]) -> None:
    """Two steps on noise, of a small network, without the data's own bands and split."""
    task = "multi" if path.stem.startswith("bigearthnet") else "single"
    small: dict[str, Any] = {f"model.{k}": v for k, v in {"image_size": 16, "patch_size": 8, "embed_dim": 32}.items()}
    small |= {"model.depth": 1, "model.num_heads": 2, "data.bands": None, "data.labeled": {"count": 9}}
    small |= {"data.split": {"block_deg": 5}, "framework": framework, "training.batch_unlabeled": 4}
    recipe = Recipe.read(path, small | {"training.batch_labeled": 4})
    trainer = Trainer(recipe, Dataset(recipe.data, stores[task]))
    assert trainer.train(2)["loss"] > 0


@pytest.mark.parametrize("path", [path for path in RECIPES if "_" in path.stem], ids=lambda path: path.stem)
def test_a_variation_says_only_what_differs(path: Path) -> None:
    own = cfg.read_yaml(path)
    base = Recipe.read(path.parent / own["base"])
    ours, theirs = cfg.flatten(Recipe.read(path).dump()), cfg.flatten(base.dump())
    changed = {key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)}
    assert path.stem == f"{Path(own['base']).stem}_{own['algorithm']['name']}"
    assert changed and {key.split(".")[0] for key in changed} <= own.keys()


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Writes YAML files; returns the first."""

    def write(**contents: Any) -> Path:
        for name, data in contents.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(data))
        return tmp_path / f"{next(iter(contents))}.yaml"

    return write


def test_a_base_of_a_base(files: Callable[..., Path]) -> None:
    bottom = {
        "data": {"shards": "x", "labeled": {"count": 3}},
        "algorithm": {"name": "fixmatch", "threshold": 0.7},
        "seed": 4,
    }
    middle = {"base": "bottom.yaml", "algorithm": {"threshold": 0.8}, "data": {"labeled": {"seed": 2}}}
    top = files(
        top={"base": "middle.yaml", "algorithm": {"name": "freematch"}, "seed": 5}, middle=middle, bottom=bottom
    )
    assert read_data(top.parent / "middle.yaml") == {
        **bottom,
        "algorithm": {"name": "fixmatch", "threshold": 0.8},
        "data": {"shards": "x", "labeled": {"count": 3, "seed": 2}},
    }
    recipe = Recipe.read(top, {"data.labeled.count": 7})
    assert recipe.algorithm.name == "freematch" and (recipe.seed, recipe.data.labeled.count) == (5, 7)
    short = files(short={"base": "bottom.yaml", "algorithm": "supervised"})
    assert Recipe.read(short).algorithm.name == "supervised"  # the settings of the other plugin are gone


@pytest.mark.parametrize(
    "contents, said",
    [
        (
            {"a": {"base": "b.yaml"}, "b": {"base": "a.yaml"}},
            r"b.yaml: base: goes in a circle \(a.yaml -> b.yaml -> a.yaml\)",
        ),
        ({"a": {"base": "a.yaml"}}, r"a.yaml, line 1: base: goes in a circle \(a.yaml -> a.yaml\); remove one"),
        (
            {"a": {"base": "b.yaml"}, "b": {"base": "c.yaml"}},
            r"b.yaml: base: .*c.yaml: no such file; the path is taken from",
        ),
        ({"a": {"base": "b\0.yaml"}}, r"a.yaml, line 1: base: expected the path of a recipe \(got 'b.x00.yaml': "),
        ({"a": {"base": "b" * 300}}, "a.yaml, line 1: base: expected the path of a recipe .*File name too long"),
        (
            {"a": {"base": "b0.yaml"}, **{f"b{i}": {"base": f"b{i + 1}.yaml"} for i in range(30)}, "b30": {"seed": 1}},
            "b19.yaml: base: this is the end of a chain of more than 20",
        ),
        ({"a": {"base": "."}}, "a.yaml, line 1: base: .*: is no file; the path is taken from"),
        ({"a": {"base": 7}}, r"a.yaml, line 1: base: expected the path of a recipe \(got 7\)"),
        (
            {"a": {"base": "b.yaml", "seed": {"x": 1}}, "b": {"seed": 1}},
            "a.yaml, line 3: seed.x: 'seed' is a value, not a group",
        ),
        ({"a": {"base": "b.yaml"}, "b": [1]}, "b.yaml: expected a mapping of keys to values, got list"),
    ],
)
def test_faults_of_a_base(files: Callable[..., Path], contents: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Recipe.read(files(**contents))


def test_the_simulated_one_holds_out_what_was_made_to_be() -> None:
    recipe = Recipe.read(next(path for path in RECIPES if path.stem == "simulated"))
    holdout = recipe.data.split.holdout
    assert holdout is not None and (holdout.region, holdout.months) == (HOLDOUT_REGION, HOLDOUT_MONTHS)
