"""One searched key: steps, its values in order, and its places between 0 and 1."""

import random
import re
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.search.parameter import Parameter

STEPS = Parameter(uniform=(0.5, 0.95), step=0.05)
EVEN = Parameter(int=(32, 256), step=32)
FINITE = {
    "choice": Parameter(choice=("a", None, 2, True, 0.5)),
    "int": Parameter(int=(-3, 8)),
    "one step": Parameter(int=(1, 9), step=8),
    "even": EVEN,
    "steps": STEPS,
    "large": Parameter(uniform=(1e6, 3e6), step=1e5),
    "huge": Parameter(int=(0, 10**9)),
}
CONTINUOUS = {"uniform": Parameter(uniform=(-2, 5)), "log": Parameter(loguniform=(1e-6, 1e3))}


@pytest.mark.parametrize(
    "given_, said",
    [
        ({"uniform": [0.5, 0.97], "step": 0.05}, "0.5 to 0.97 is no whole number of steps of 0.05; end at 0.95"),
        ({"int": [32, 250], "step": 32}, "32 to 250 is no whole number of steps of 32; end at 256"),
        ({"int": [0, 3], "step": 10}, "0 to 3 is no whole number of steps of 10; end at 10"),
        ({"int": [0, 3], "step": 1.5}, "the step 1.5 of an int range must be a whole number"),
        ({"uniform": [0, 1], "step": 0}, "step: input should be greater than 0"),
        ({"uniform": [0, 1], "step": True}, "step: input should be a number, not true or false"),
        ({"uniform": [0, 1], "step": 1e-9}, "a step of 1e-09 makes more than 1000000 values; leave step out"),
        ({"loguniform": [1, 2], "step": 0.5}, "step is for uniform and int"),
        ({"choice": [1, 2], "step": 1}, "step is for uniform and int"),
    ],
)
def test_faults_of_a_step(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^s.yaml: {re.escape(said)}"):
        cfg.validate(Parameter, given_, "s.yaml")


def test_values_of_steps() -> None:
    assert STEPS.levels() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert EVEN.levels() == [32, 64, 96, 128, 160, 192, 224, 256] and all(type(v) is int for v in EVEN.levels() or ())
    assert all(map(STEPS.contains, [0.5, 0.65, 0.5 + 3 * 0.05, 0.95]))
    assert not any(map(STEPS.contains, [0.45, 0.66, 0.975, 1.0, True, None, "0.65", float("nan"), float("inf")]))
    assert EVEN.contains(64) and not any(map(EVEN.contains, [33, 0, 288, 64.0]))
    assert STEPS.describe() == "uniform from 0.5 to 0.95 in steps of 0.05"
    assert FINITE["huge"].levels() is None and all(p.levels() is None for p in CONTINUOUS.values())


@pytest.mark.parametrize("parameter", FINITE.values(), ids=FINITE)
def test_there_and_back_through_the_unit_interval(parameter: Parameter) -> None:
    values = parameter.levels() or [0, 1, 12345678, 10**9]
    for value in values:
        assert parameter.contains(value)
        assert repr(parameter.from_unit(parameter.to_unit(value))) == repr(value)
    assert [parameter.from_unit(0), parameter.from_unit(1)] == [values[0], values[-1]]


@pytest.mark.parametrize("parameter", CONTINUOUS.values(), ids=CONTINUOUS)
@given(u=st.floats(0, 1))
def test_a_continuous_range_in_the_unit_interval(parameter: Parameter, u: float) -> None:
    value = parameter.from_unit(u)
    assert parameter.contains(value) and parameter.to_unit(value) == pytest.approx(u, abs=1e-9)


@pytest.mark.parametrize("parameter", [*FINITE.values(), *CONTINUOUS.values()], ids=[*FINITE, *CONTINUOUS])
def test_drawn_asked_and_walked_values_are_the_same(parameter: Parameter) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    source = random.Random(0)
    levels = parameter.levels()
    for _ in range(60):
        trial = study.ask()
        asked, drawn = parameter.suggest(trial, "k"), parameter.draw(source)
        assert parameter.contains(asked) and parameter.contains(drawn)
        assert levels is None or {repr(asked), repr(drawn)} <= set(map(repr, levels))
        assert trial.distributions["k"] == parameter.distribution()
    if levels is not None:
        assert sorted(map(repr, parameter.walk(source))) == sorted(map(repr, levels))
