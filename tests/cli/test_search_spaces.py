"""The studies that come with the project, checked as a user would: a dry run on data of the same form."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stssl.cli.app import main
from stssl.search.config import SearchConfig
from stssl.search.space import Space
from stssl.training.recipe import Recipe

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
RECIPES = sorted((Path(__file__).parents[2] / "search_spaces" / "recipes").glob("*.yaml"))
ONE_FACTOR = ("algorithms", "encodings", "injection", "thresholds", "distillation")
FULL = ("eurosat", "bigearthnet")
METHOD = {  # what the method offers; a plugin of one's own may be added to a space, and need not
    "encoding.location": ["scaled", "wrap", "cartesian", "fourier", "multiscale", "sphere", "spherical_harmonics"],
    "encoding.time": ["none", "day_of_year", "month", "time2vec", "seasonal_hemisphere"],
    "injection": ["token", "add", "film", "cross_attention", "concat", "logit_prior"],
}


@pytest.fixture(scope="session")
def several_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty patches of noise with the bands, the splits and the kind of labels that BigEarthNet has."""
    folder = tmp_path_factory.mktemp("several")
    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        labels = ";".join(name for name in ("forest", "sea", "town") if random.random() < 0.5) or "-"
        split = ("train", "train", "validation", "test")[number % 4]
        rows.append((f"{number}.png", labels, 50 + number / 10, 10, f"2017-{1 + number % 12:02d}-15", split))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "lat", "lng", "time", "split"), *rows])
    assert (
        main(["prepare", "table", str(folder), "--out", str(folder / "shards"), "--set", "bands=[B04, B03, B02]"]) == 0
    )
    return folder / "shards"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_dry_run(path: Path, shards: Path, several_labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shards if path.stem in ("demo", "eurosat") else several_labels
    capsys.readouterr()
    code = main(["search", str(path), "--dry-run", "--set", f"recipe.data.shards={data}"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert f"name: {path.stem}" in said.out and "trials, rungs at steps" in said.out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_dry_run_of_recipes(path: Path, shards: Path, several_labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = path.stem.startswith("bigearthnet")
    data, sets = several_labels if several else shards, ["model.depth=1", "data.labeled={count: 20}"]
    if path.stem == "simulated":
        sets += ["data.split.holdout=null"]
    capsys.readouterr()
    options = [word for setting in sets for word in ("--set", setting)]
    assert main(["train", str(path), "--dry-run", "--shards", str(data), *options]) == 0, capsys.readouterr().err
    assert f"shards: {data}" in capsys.readouterr().out


def space_of(path: Path) -> tuple[SearchConfig, Space]:
    config = SearchConfig.read(path)
    return config, Space(config.space, Recipe.model_validate(config.recipe).dump(), str(path), config.constraints)


@pytest.mark.parametrize("name", ONE_FACTOR)
def test_a_study_changes_one_thing_at_a_time(name: str) -> None:
    """Every variant, and no other trial; none twice; all of them trained in full and replicated."""
    config, space = space_of(next(path for path in SPACES if path.stem == name))
    assert config.trials == config.replicates.top == 1 + len(config.points) and config.replicates.seeds >= 5
    assert config.scheduler.name == "none"
    base = space.base_point()
    variants = [space.point(point, "points") for point in config.points]
    recipes = {space.recipe(variant).digest() for variant in [base, *variants]}
    assert len(recipes) == 1 + len(variants)
    choices = {"encoding.location.name", "encoding.time.name", "injection.name", "distillation.loss", "distillation.on"}
    choices.add("algorithm.hard_labels")
    if name == "algorithms":  # whole recipes, each another algorithm
        assert {point["algorithm.name"] for point in config.points} | {"fixmatch"} == set(
            config.space["algorithm.name"].choice or ()
        )
        return
    for point in config.points:  # one key, or a choice and its own settings
        (chosen, *own) = point
        assert not own or chosen in choices, point
        assert all(config.space[key].when.keys() == {chosen} for key in own), point


@pytest.mark.parametrize("name", FULL)
def test_a_full_space_can_draw_every_choice(name: str) -> None:
    """Every plugin of the method, and every setting that it has but for seeds and what the data fix."""
    from stssl import plugins
    from stssl.encodings.base import LocationEncoding, TimeEncoding
    from stssl.models.injection.base import Injection

    config, _ = space_of(next(path for path in SPACES if path.stem == name))
    kinds: list[tuple[str, str, Any]] = [
        ("encoding.location", "stssl.encodings.location", LocationEncoding),
        ("injection", "stssl.models.injection", Injection),
    ]
    if name == "bigearthnet":
        kinds.append(("encoding.time", "stssl.encodings.time", TimeEncoding))
    for key, package, base in kinds:
        choice = config.space[f"{key}.name"].choice
        assert choice is not None and set(METHOD[key]) <= set(choice)
        found = plugins.find(package, base)
        settings = {f for n in choice for f in found[str(n)].Config.model_fields}
        searched = {k.removeprefix(f"{key}.") for k in config.space if k.startswith(f"{key}.")}
        assert settings - searched <= {"seed", "period_days"}
    for key in ("encoding.mlp_depth", "encoding.mlp_width", "encoding.dropout", "encoding.jitter_deg"):
        assert key in config.space
    own = {"loss", "weight", "on", "predictor", "views", "rampup_steps", "temperature"}
    assert {f"distillation.{key}" for key in own} | {"training.target_source"} <= set(config.space)
