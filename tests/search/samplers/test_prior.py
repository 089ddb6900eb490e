"""Draws around the base recipe and around the best trial."""

import math
import random
import statistics
from collections import Counter
from typing import Any

import pytest

from stssl.search.sampler import Sampler, SamplerConfig
from stssl.search.samplers.prior import Around, Ensemble
from stssl.search.space import Space

LADDER = [10, 30, 90]
MIXED = {
    "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
    "optimizer.lr": {"loguniform": [1e-6, 1]},
    "algorithm.threshold": {"uniform": [0.5, 1.0]},
    "views.strong_ops": {"int": [0, 4]},
    "distillation.weight": {"uniform": [0, 1], "when": {"framework": "teacher_student"}},
}


@pytest.fixture
def space(search_config, space_of) -> Space:
    return space_of(search_config(space=MIXED))


def test_prior_draws_lie_around_the_base_recipe(space: Space, history) -> None:
    base = space.base_point()
    prior = Ensemble(SamplerConfig(), space, LADDER).prior
    source = random.Random(0)
    drawn = [prior.draw(source) for _ in range(2000)]
    for key, parameter in space.parameters.items():
        values = [point[key] for point in drawn if key in point]
        assert all(parameter.contains(value) for value in values)
        if parameter.choice is None:
            middle = parameter.to_unit(base[key])
            away = statistics.mean(abs(parameter.to_unit(v) - middle) for v in values)
            anywhere = statistics.mean(abs(parameter.to_unit(parameter.draw(source)) - middle) for _ in range(2000))
            assert away < 0.85 * anywhere, key
    shares = Counter(point["framework"] for point in drawn)
    assert shares["teacher_student"] / 2000 == pytest.approx(1 / 2 + 1 / 6, abs=0.04)  # the base recipe's


def test_an_incumbent_keeps_half_of_its_keys(space: Space) -> None:
    centre = {"framework": "plain", "optimizer.lr": 1e-3, "algorithm.threshold": 0.6, "views.strong_ops": 4}
    source = random.Random(0)
    drawn = [Around(space, centre).draw(source, mutated=0.5) for _ in range(2000)]
    for key in ("optimizer.lr", "algorithm.threshold"):
        assert statistics.mean(point[key] == centre[key] for point in drawn) == pytest.approx(0.5, abs=0.04)
    weights = [point["distillation.weight"] for point in drawn if point["framework"] == "teacher_student"]
    assert statistics.mean(weights) == pytest.approx(0.5, abs=0.1)  # which the centre has not: from anywhere
    assert statistics.pstdev(weights) == pytest.approx(1 / math.sqrt(12), abs=0.05)


def test_a_density_is_one_on_average(space: Space) -> None:
    """Relative to a draw from anywhere, so its mean over such draws is 1."""
    source = random.Random(0)
    points = [space.fill(lambda key, parameter: parameter.draw(source)) for _ in range(20_000)]
    for centre in (space.base_point(), {**space.base_point(), "optimizer.lr": 1.0, "views.strong_ops": 0}):
        around = Around(space, centre)
        # five levels of a number are weighed at their middles, which is not quite their share
        assert statistics.mean(map(around.density, points)) == pytest.approx(1, abs=0.07)
        elsewhere = around.density({**centre, "framework": "plain", "optimizer.lr": 1e-6})
        assert around.density(centre) > 5 and around.density(centre) > 5 * elsewhere


def test_the_share_of_the_prior_falls(space: Space, history) -> None:
    ensemble = Ensemble(SamplerConfig(prior=0.8, startup_trials=5), space, LADDER)
    assert ensemble.share(history.state) == 0.8
    for _ in range(5):
        history.new(space.base_point())
        history.add(space.base_point(), {}, "diverged")
    assert ensemble.share(history.state) == 0.8  # nothing has been learned
    for _ in range(15):
        history.add(space.base_point(), {10: 0.5}, "stop")
    assert ensemble.share(history.state) == pytest.approx(0.2)
    counts = {n: Counter(by(space, history.state, prior=0.8, startup_trials=5, name=n)) for n in ("random", "tpe")}
    assert 0.6 < counts["tpe"]["tpe"] / 200 < 0.95 and counts["random"]["uniform"] / 200 > 0.6
    assert Counter(by(space, history.state, prior=0, name="tpe")) == {"tpe": 200}
    assert Counter(by(space, type(history)().state, prior=1, name="tpe")).keys() == {"prior", "uniform"}


def by(space: Space, state: Any, **config: Any) -> list[str]:
    return [Sampler(SamplerConfig(seed=s, **config), space, LADDER).draw(state).by["sampler"] for s in range(200)]


def test_who_explains_the_best_trials_gets_more(space: Space, history) -> None:
    ensemble = Ensemble(SamplerConfig(), space, LADDER)
    base, other = space.base_point(), {"framework": "plain", "optimizer.lr": 0.9, "algorithm.threshold": 0.51}
    other["views.strong_ops"] = 4
    assert ensemble.weights(history.state) == {"uniform": 0.5, "prior": 0.5, "incumbent": 0.0}
    history.add(other, {10: 0.9}, "stop")
    history.add(base, {10: 0.1}, "stop")
    assert ensemble.weights(history.state)["incumbent"] == 0  # two results are no evidence
    told = type(history)()
    for shift in range(4):  # the best lie where the base recipe does not
        told.add({**other, "optimizer.lr": 0.9 - shift / 10}, {10: 0.9 - shift / 100, 30: 0.9}, "stop")
        told.add({**base, "views.strong_ops": shift}, {10: 0.1}, "stop")
    weights = ensemble.weights(told.state)
    assert weights["uniform"] == 0.25 and sum(weights.values()) == pytest.approx(1)
    assert weights["incumbent"] > 0.7 > 0.05 > weights["prior"]
    told = type(history)()
    for shift in range(4):  # the best one lies elsewhere, but the next ones at the base recipe
        told.add({**base, "optimizer.lr": 1e-4 + shift * 1e-5}, {10: 0.8}, "stop")
    told.add(other, {10: 0.81}, "stop")
    weights = ensemble.weights(told.state)
    assert weights["uniform"] == 0.5 and weights["prior"] > 0.1


def test_a_wrong_prior_is_got_over(search_config, space_of, history) -> None:
    """The base recipe lies far off the optimum; the search gets there all the same."""
    found = space_of(search_config(space={"optimizer.lr": {"loguniform": [1e-6, 1]}}, recipe__optimizer__lr=1e-6))
    sampler = Sampler(SamplerConfig(name="tpe", startup_trials=5, prior=1), found, LADDER)
    for _ in range(40):
        draw = sampler.draw(history.state)
        history.add(draw.params, {10: -abs(math.log10(draw.params["optimizer.lr"]) + 1)}, "stop", draw.by)
    assert history.state.best().scores[10] > -0.2
    late = Counter(t.by["sampler"] for t in list(history.state.trials.values())[20:])
    assert late["prior"] < 5 < late["tpe"]
