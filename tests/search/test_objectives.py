"""What is optimised, and what is wrong with results that cannot be."""

import math

import pytest

from stssl.errors import ConfigError
from stssl.search.objectives import Objectives, more_is_better


def test_scores_have_one_direction() -> None:
    assert Objectives("accuracy").scores({"accuracy": 0.5, "loss": 2.0}) == (0.5, None, "")
    assert Objectives("loss", "holdout/accuracy").scores({"loss": 2.0, "holdout/accuracy": 0.25}) == (-2.0, 0.25, "")
    assert Objectives("accuracy", "holdout/loss").scores({"accuracy": 0.5, "holdout/loss": 3.0}) == (0.5, -3.0, "")


@pytest.mark.parametrize(
    ("results", "fault"),
    [
        ({}, "accuracy is not reported"),
        ({"accuracy": 0.5}, "holdout/loss is not reported"),
        ({"accuracy": math.nan, "holdout/loss": 1.0}, "accuracy is nan"),
        ({"accuracy": 0.5, "holdout/loss": math.inf}, "holdout/loss is inf"),
    ],
)
def test_faults(results: dict[str, float], fault: str) -> None:
    assert Objectives("accuracy", "holdout/loss").scores(results)[2] == fault


def test_what_the_data_cannot_answer_is_refused() -> None:
    Objectives("accuracy", "holdout/accuracy").check("single", 5)
    Objectives("holdout/map_macro").check("multi", 5)
    for objectives, task, holdout, said in (
        (Objectives("acuracy"), "single", 0, "^metric: 'acuracy' is no metric of this data; did you mean 'accuracy'"),
        (Objectives("accuracy"), "multi", 0, "^metric: 'accuracy' is no metric of this data"),
        (Objectives("accuracy", "holdout/acc"), "single", 5, "^second_metric: 'holdout/acc' is no metric"),
        (Objectives("accuracy", "holdout/loss"), "single", 0, r"nothing is held out; set recipe.data.split.holdout"),
        (Objectives("loss", "loss"), "single", 0, "^second_metric: loss is the first objective already"),
    ):
        with pytest.raises(ConfigError, match=said):
            objectives.check(task, holdout)  # type: ignore[arg-type]
    assert Objectives("holdout/loss").holdout and not Objectives("loss", "accuracy").holdout
    assert not more_is_better("holdout/loss")
