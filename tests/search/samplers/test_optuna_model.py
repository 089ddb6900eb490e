"""What Optuna is told, and that its models earn their keep."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState as Told

from stssl.search.sampler import Sampler, SamplerConfig
from stssl.search.samplers.optuna_model import GP, TPE
from stssl.search.space import Space
from stssl.search.state import SearchState

LADDER = [10, 30, 90]
POINT = {"optimizer.lr": 1e-3, "algorithm.threshold": 0.5}
BOWL = {
    "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
    "optimizer.lr": {"loguniform": [1e-6, 1]},
    "algorithm.threshold": {"uniform": [0, 1]},
}


@pytest.fixture
def plane(search_config, space_of) -> Space:
    return space_of(search_config(space={key: BOWL[key] for key in POINT}))


def test_tpe_is_told_what_is_the_case(plane: Space, history) -> None:
    def told() -> list[tuple[Told, dict[int, float], float | None]]:
        return [
            (t.state, t.intermediate_values, t.value) for t in TPE(SamplerConfig(), plane, LADDER).told(history.state)
        ]

    history.new(POINT)
    history.add(POINT, {10: 0.1, 20: 0.2})
    history.add(POINT, {10: 0.1, 20: 0.2, 30: 0.3}, "pause")
    history.add(POINT, {10: 0.1, 20: 0.2}, "stop")
    history.add(POINT, {10: 0.1, 20: 0.2, 30: 0.3, 60: 0.4, 90: 0.5}, "complete")
    for kind in ("diverged", "raised", "out_of_memory", "hung", "silent", "infrastructure"):
        history.add(POINT, {10: 0.9}, kind)
    assert told() == [
        (Told.RUNNING, {}, None),
        (Told.RUNNING, {10: 0.1, 20: 0.2}, None),
        (Told.PRUNED, {10: 0.1, 30: 0.3}, None),
        (Told.PRUNED, {10: 0.1}, None),  # not 20: it would beat all that went on at 10 to be stopped at 30
        (Told.COMPLETE, {10: 0.1, 20: 0.2, 30: 0.3, 60: 0.4, 90: 0.5}, 0.5),
        *[(Told.PRUNED, {}, None)] * 5,  # and nothing of what the machine did
    ]


def test_tpe_is_told_of_other_searches(plane: Space, history) -> None:
    history.new(POINT)
    history.imported(POINT, {10: 0.1, 90: 0.5})
    history.imported(POINT, {10: 0.1, 30: 0.5})  # trained in full, which was less than here
    history.imported(POINT, {10: 0.1}, "running")  # not here
    history.imported(POINT, {}, "failed", fault="diverged")
    history.imported(POINT, {}, "failed", fault="infrastructure")
    history.imported(POINT, {7: 0.9}, "stopped")  # never where trials are compared
    told = TPE(SamplerConfig(), plane, LADDER).told(history.state)
    assert [(t.state, t.intermediate_values) for t in told] == [
        (Told.COMPLETE, {10: 0.1, 90: 0.5}),
        (Told.PRUNED, {10: 0.1, 30: 0.5}),
        (Told.PRUNED, {10: 0.1}),
        (Told.PRUNED, {}),
        (Told.RUNNING, {}),
    ]


def test_gp_looks_at_the_longest_rung_that_has_enough(plane: Space, history) -> None:
    def told(startup: int) -> list[tuple[Told, float | None]]:
        model = GP(SamplerConfig(name="gp", startup_trials=startup), plane, LADDER)
        return [(t.state, t.value) for t in model.told(history.state)]

    for score in (0.1, 0.2, 0.3):
        history.add(POINT, {10: score, 30: score + 0.25}, "stop")
    assert told(3) == []  # two keys want four scores
    history.add(POINT, {10: 0.4}, "stop")
    assert told(3) == [(Told.COMPLETE, score) for score in (0.1, 0.2, 0.3, 0.4)] and told(5) == []
    history.new(POINT)
    history.add(POINT, {10: 0.05, 30: 0.6})
    history.add(POINT, {10: 0.9, 30: 0.9}, "diverged")
    history.add(POINT, {}, "infrastructure")
    history.imported(POINT, {30: 0.5}, "stopped")
    assert told(4) == [
        (Told.COMPLETE, 0.5),
        *[(Told.COMPLETE, score) for score in (0.35, 0.45, 0.55)],
        (Told.RUNNING, None),
        (Told.COMPLETE, 0.6),
        (Told.COMPLETE, 0.35),  # the worst
    ]
    assert told(5) == told(4) and told(6) == []


def bowl(point: dict[str, Any]) -> float:
    """Best at lr 1e-3, threshold 0.8, `plain`, where it is 0."""
    score = -((math.log10(point["optimizer.lr"]) + 3) ** 2) - (5 * (point["algorithm.threshold"] - 0.8)) ** 2
    return score - (point.get("framework", "plain") != "plain")


def search(config: SamplerConfig, space: Space, history: Any, count: int) -> float:
    """The best of `count` trials on the bowl."""
    sampler, best = Sampler(config, space, [90]), -math.inf
    for _ in range(count):
        draw = sampler.draw(history.state)
        assert draw is not None
        best = max(best, bowl(draw.params))
        history.add(draw.params, {90: bowl(draw.params)}, "complete", draw.by)
    return best


@pytest.mark.parametrize(
    ("name", "seeds", "count", "wins"), [("tpe", 12, 40, 10), ("gp", 6, 16, 6), ("cmaes", 12, 60, 10)]
)
def test_a_model_beats_random(search_config, space_of, history, name: str, seeds: int, count: int, wins: int) -> None:
    space = space_of(search_config(space=BOWL))
    new: Callable[[], Any] = type(history)
    gains = []
    for seed in range(seeds):
        model, luck = (
            search(SamplerConfig(name=n, seed=seed, startup_trials=8, prior=0), space, new(), count)
            for n in (name, "random")
        )
        gains.append(math.log(luck / model))  # both are below zero: regrets
    # paired, one-sided, by a sign test: 10 of 12 has p = 0.02, 6 of 6 the same
    assert sum(gain > 0 for gain in gains) >= wins, gains
    assert sum(gains) / len(gains) > 0.5, gains


@pytest.mark.parametrize(("name", "draws"), [("tpe", 20), ("gp", 4)])
def test_failures_push_away(plane: Space, history, name: str, draws: int) -> None:
    """Scores do not tell the two halves apart; that one of them diverges does."""
    for number in range(40):
        lr, score = 10 ** (-6 + 6 * (number + 0.5) / 40), 0.5 + 0.01 * (number * 7 % 10)
        point = {"optimizer.lr": lr, "algorithm.threshold": number * 13 % 40 / 40}
        history.add(point, {10: score} if lr < 1e-3 else {}, "stop" if lr < 1e-3 else "diverged")
    assert statistics.mean(lr < 1e-3 for lr in lrs(name, plane, history.state, draws)) >= 0.9
    for trial in history.state.trials.values():  # the same, had it been the machine's fault
        trial.fault = "infrastructure" if trial.fault else ""
    unknown = lrs(name, plane, history.state, draws)
    assert statistics.mean(lr < 1e-3 for lr in unknown) < 0.9


def lrs(name: str, space: Space, state: SearchState, count: int) -> list[float]:
    samplers = [Sampler(SamplerConfig(name=name, seed=seed, prior=0), space, LADDER) for seed in range(count)]
    return [sampler.draw(state).params["optimizer.lr"] for sampler in samplers]


@pytest.mark.parametrize(("name", "draws"), [("tpe", 20), ("gp", 4)])
def test_other_searches_are_learned_from(plane: Space, history, name: str, draws: int) -> None:
    for number in range(40):
        point = {"optimizer.lr": 10 ** (-6 + 6 * (number + 0.5) / 40), "algorithm.threshold": number * 13 % 40 / 40}
        history.imported(point, {10: bowl(point)}, "stopped")
    near = [abs(math.log10(lr) + 3) for lr in lrs(name, plane, history.state, draws)]
    assert statistics.mean(near) < 0.75  # 1.5 anywhere
