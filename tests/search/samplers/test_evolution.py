"""Generations out of trials that come back when they will."""

import random
from typing import Any

import numpy as np
import pytest
from cmaes import CMAwM

from stssl.search.sampler import Sampler, SamplerConfig
from stssl.search.samplers.evolution import Evolution
from stssl.search.space import Space

LADDER = [10, 30, 90]
SPACE = {
    "optimizer.lr": {"loguniform": [1e-6, 1]},
    "algorithm.threshold": {"uniform": [0, 1]},
    "views.strong_ops": {"int": [0, 3]},
    "framework": {"choice": ["plain", "teacher_student"]},
    "distillation.weight": {"uniform": [0, 1], "when": {"framework": "teacher_student"}},
}


@pytest.fixture
def space(search_config, space_of) -> Space:
    return space_of(search_config(space=SPACE))


def begin(sampler: Sampler, history: Any, count: int) -> list[str]:
    names = []
    for _ in range(count):
        draw = sampler.draw(history.state)
        assert draw.by["sampler"] == "cmaes"
        names.append(history.new(draw.params, draw.by))
    return names


def test_a_generation_closes_when_enough_are_judged(space: Space, history) -> None:
    sampler = Sampler(SamplerConfig(name="cmaes", prior=0), space, LADDER)
    size = 4 + int(3 * np.log(3))
    names = begin(sampler, history, size + 3)  # more workers than the generation has members
    state = history.state
    assert {t.by["generation"] for t in state.trials.values()} == {0} and all(
        len(t.by["x"]) == 3 for t in state.trials.values()
    )
    for number, name in enumerate(names[: size - 3]):
        history.result(name, 10, number / 10)
    history.fail(names[size], "infrastructure")  # says nothing
    history.fail(names[size - 3], "diverged")
    history.result(names[size - 2], 5, 0.9)  # between two rungs
    history.result(names[0], 30, 0.05, "stop")
    history.result(names[size - 2], 10, 0.99)
    assert sampler.draw(state).by["generation"] == 0
    history.result(names[size - 1], 10, 0.7)
    drawn = sampler.draw(state)
    assert drawn.by["generation"] == 1
    # what comes later changes nothing about it
    history.result(names[size + 1], 10, 1.0)
    history.result(names[1], 30, 1.0)
    history.fail(names[size - 2], "raised")
    assert sampler.draw(state) == drawn
    # the longest rung first, then the score there, failures last
    closed = Evolution(SamplerConfig(name="cmaes", prior=0), space, LADDER)._ranked(list(state.trials.values()), size)
    middle = [names[i] for i in reversed(range(1, size - 3))]
    assert [t.id for t in closed] == [names[0], names[size - 2], names[size - 1], *middle, names[size - 3]]


def test_the_replay_is_the_package_told_by_hand(space: Space, history) -> None:
    """Generation after generation, the distribution is the one that was told as it went."""
    sampler = Sampler(SamplerConfig(name="cmaes", prior=0), space, LADDER)
    steps = np.array([0, 0, 1 / 4])
    bounds = np.stack([steps / 2, 1 - steps / 2], axis=1)
    by_hand = CMAwM(np.full(3, 0.5), 0.3, bounds, steps, seed=0)
    for generation in range(6):
        replayed = Evolution(SamplerConfig(name="cmaes", prior=0), space, LADDER)._replay(history.state)
        assert replayed.generation == generation and (replayed.mean == by_hand.mean).all()
        solutions = []
        for name in begin(sampler, history, by_hand.population_size):
            trial = history.state.trials[name]
            history.result(name, 10, -abs(space.parameters["optimizer.lr"].to_unit(trial.params["optimizer.lr"]) - 0.9))
            solutions.append((np.array(trial.by["x"]), -trial.scores[10]))
        by_hand.tell(sorted(solutions, key=lambda s: s[1]))
    assert by_hand.mean[0] > 0.7


def test_levels_keep_a_margin(space: Space, history) -> None:
    """However sure it is of one level, others are drawn now and then."""
    sampler = Sampler(SamplerConfig(name="cmaes", prior=0), space, LADDER)
    source, late = random.Random(0), set()
    for number in range(200):
        draw = sampler.draw(history.state)
        history.add(draw.params, {10: draw.params["views.strong_ops"] + source.random() / 100}, "stop", draw.by)
        if number >= 140:
            late.add(draw.params["views.strong_ops"])
    assert 3 in late and len(late) > 1


def test_it_begins_around_the_base_recipe(search_config, space_of, history) -> None:
    found = space_of(
        search_config(space={"algorithm.threshold": {"uniform": [0, 1]}}, recipe__algorithm__threshold=0.95)
    )
    means = []
    for prior in (0, 0.001):
        samplers = [Sampler(SamplerConfig(name="cmaes", prior=prior, seed=s), found, LADDER) for s in range(40)]
        means.append(np.mean([s.draw(history.state).params["algorithm.threshold"] for s in samplers]))
    assert abs(means[0] - 0.5) < 0.1 and means[1] > 0.7
