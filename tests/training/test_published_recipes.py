"""The recipes that come with the project."""

from pathlib import Path

import pytest

from stssl.data.sources.simulated import HOLDOUT_MONTHS, HOLDOUT_REGION
from stssl.training.recipe import Recipe

RECIPES = sorted((Path(__file__).parents[2] / "search_spaces" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_they_are_valid(path: Path) -> None:
    recipe = Recipe.read(path)
    assert recipe.framework == "teacher_student" and recipe.data.shards == f"runs/data/{path.stem}"


def test_the_simulated_one_holds_out_what_was_made_to_be() -> None:
    recipe = Recipe.read(next(path for path in RECIPES if path.stem == "simulated"))
    holdout = recipe.data.split.holdout
    assert holdout is not None and (holdout.region, holdout.months) == (HOLDOUT_REGION, HOLDOUT_MONTHS)
