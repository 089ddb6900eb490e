"""Which trials are stopped early: by hand, and what holds for any search."""

import math
import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl.errors import ConfigError
from stssl.search.asha import SchedulerConfig, decide, rungs
from stssl.search.state import SearchState

THREE = SchedulerConfig(grace_steps=10, reduction_factor=3)


@pytest.mark.parametrize(
    "config, steps, interval, ladder",
    [
        ({"grace_steps": 10, "reduction_factor": 3}, 90, 10, [10, 30, 90]),
        ({"grace_steps": 10, "reduction_factor": 3}, 100, 10, [10, 30, 90, 100]),
        ({"grace_steps": 10, "reduction_factor": 2}, 100, 5, [10, 20, 40, 80, 100]),
        ({"grace_steps": 30, "reduction_factor": 16}, 90, 10, [30, 90]),
        ({"name": "none", "grace_steps": 7}, 90, 10, [90]),
        ({"grace_steps": 1, "reduction_factor": 10}, 1000, 1, [1, 10, 100, 1000]),
    ],
)
def test_rungs(config: dict[str, Any], steps: int, interval: int, ladder: list[int]) -> None:
    assert rungs(SchedulerConfig(**config), steps, interval) == ladder


@pytest.mark.parametrize("grace", [90, 2000])
def test_a_first_rung_beyond_the_end_is_refused(grace: int) -> None:
    with pytest.raises(ConfigError, match=rf"^scheduler.grace_steps {grace}: must be below recipe.training.steps 90"):
        rungs(SchedulerConfig(grace_steps=grace), 90, 10)


def test_a_rung_between_two_evaluations_is_refused() -> None:
    said = r"scheduler.grace_steps 15: the rung at step 15 is no multiple of recipe.training.eval_interval 10; choose"
    with pytest.raises(ConfigError, match=said):
        rungs(SchedulerConfig(grace_steps=15), 90, 10)
    assert rungs(SchedulerConfig(grace_steps=20, reduction_factor=4), 800, 20) == [20, 80, 320, 800]


class Rung:
    """Trials that arrive at one rung one after another."""

    def __init__(self, script: Any, config: SchedulerConfig = THREE, step: int = 10) -> None:
        self.script, self.config, self.step = script(), config, step
        self.state = SearchState()

    def arrive(self, score: float) -> str:
        name = f"t{len(self.state.trials) + 1:04d}"
        self.state.apply(self.script.trial(name).events[-1])
        decision = decide(self.state, name, self.step, score, self.config, [10, 30, 90])
        self.state.apply(self.script.result(name, self.step, score, decision).events[-1])
        return decision


def went_on(script: Any, scores: list[float], **options: Any) -> list[bool]:
    rung = Rung(script, **options)
    return [rung.arrive(score) == "continue" for score in scores]


Y, N = True, False


@pytest.mark.parametrize(
    "scores, passed",
    [  # of n arrivals ceil(n/3) may go on: 1 1 1 2 2 2 3
        ([0.1], [Y]),
        ([0.1, 0.2, 0.3], [Y, Y, Y]),  # the best so far always goes on
        ([0.3, 0.2, 0.1], [Y, N, N]),
        ([0.3, 0.2, 0.1, 0.25], [Y, N, N, Y]),  # a second place, and only one is better
        ([0.3, 0.2, 0.1, 0.15], [Y, N, N, N]),  # two are better
        ([0.3, 0.2, 0.1, 0.05, 0.06, 0.07, 0.25], [Y, N, N, N, N, N, Y]),
        ([0.5] * 7, [Y, N, N, Y, N, N, Y]),  # equals fill the free places in the order of arrival
        ([0.5, 0.9, 0.5, 0.5], [Y, Y, N, N]),  # both places are taken
        ([0.9, 0.5, 0.5, 0.5], [Y, N, N, Y]),  # equals that were stopped take no place
        ([-0.5, -0.7, -0.1], [Y, N, Y]),
        ([0.0, -0.0], [Y, N]),
    ],
)
def test_decisions_by_hand(script: Any, scores: list[float], passed: list[bool]) -> None:
    assert went_on(script, scores) == passed


def test_only_rungs_judge(script: Any) -> None:
    rung = Rung(script)
    assert [rung.arrive(s) for s in (0.9, 0.8)] == ["continue", "stop"]
    state = rung.script.trial("t0003").state
    at = lambda step, score, config=THREE: decide(state, "t0003", step, score, config, [10, 30, 90])  # noqa: E731
    assert at(10, 0.1) == "stop" and at(20, -1.0) == "continue" and at(30, -1.0) == "continue"
    assert at(90, -1.0) == "complete" and at(100, -1.0) == "complete"
    none = SchedulerConfig(name="none")
    assert at(10, -1.0, none) == at(30, -1.0, none) == "continue" and at(90, -1.0, none) == "complete"


def test_each_rung_has_its_own_places(script: Any) -> None:
    s = script()
    for number, (early, late) in enumerate([(0.9, 0.1), (0.9, 0.3), (0.9, 0.2)], start=1):
        s.trial(f"t000{number}").result(f"t000{number}", 10, early).result(f"t000{number}", 30, late)
    s.trial("t0004").result("t0004", 10, 0.9)
    decision = lambda score: decide(s.state, "t0004", 30, score, THREE, [10, 30, 90])  # noqa: E731
    assert [decision(score) for score in (0.31, 0.25, 0.15)] == ["continue", "continue", "stop"]


def test_failures_keep_their_place_and_replicates_have_none(script: Any) -> None:
    s = script().trial("t0001").result("t0001", 10, 0.9).failed("t0001").trial("t0002")
    assert decide(s.state, "t0002", 10, 0.8, THREE, [10, 90]) == "stop"
    s = script().trial("t0001").trial("t0001-r1", of="t0001").result("t0001-r1", 10, 0.9)
    assert decide(s.state, "t0001", 10, 0.1, THREE, [10, 90]) == "continue"


scores = st.lists(st.integers(0, 5), min_size=1, max_size=25)
eta = st.integers(2, 5)


@given(scores=scores, eta=eta)
@settings(max_examples=100, deadline=None)
def test_the_rule(script: Any, scores: list[int], eta: int) -> None:
    """Counted anew, from the whole list of arrivals."""
    passed = went_on(script, scores, config=SchedulerConfig(grace_steps=10, reduction_factor=eta))
    for n, score in enumerate(scores):
        before = list(zip(scores[:n], passed[:n], strict=True))
        places = math.ceil((n + 1) / eta)
        better, equal = sum(s > score for s, _ in before), sum(s == score and on for s, on in before)
        assert passed[n] == (better + equal < places)
        if all(s < score for s, _ in before):
            assert passed[n], "the best so far was stopped"
        if passed[n]:
            assert better < places, "went on though it was not among the best"
    # among equals no more than the places go on, and it is never too late for a better one
    assert all(
        sum(on for s, on in zip(scores, passed, strict=True) if s == v) <= math.ceil(len(scores) / eta) for v in scores
    )


def test_about_one_in_three_goes_on(script: Any) -> None:
    """Asynchronous halving lets early arrivals through that later ones beat, and keeps late ones from their places.

    Arrival n is among the best ceil(n/3) so far with probability ceil(n/3)/n, whatever went before.
    """
    chances = [math.ceil(n / 3) / n for n in range(1, 151)]
    slack = 4 * math.sqrt(sum(p * (1 - p) for p in chances))
    for seed in range(5):
        order = random.Random(seed).sample(range(150), 150)
        assert abs(sum(went_on(script, order)) - sum(chances)) < slack
    assert 50 < sum(chances) < 55
    assert all(went_on(script, sorted(order))) and sum(went_on(script, sorted(order, reverse=True))) == 1


def test_the_slack_on_average(script: Any) -> None:
    """Over all orders of 6 arrivals: ceil(n/3)/n summed over n, which is 1 + 1/2 + 1/3 + 2/4 + 2/5 + 2/6."""
    counts = [sum(went_on(script, list(order))) for order in permutations(range(6))]
    assert sum(counts) / len(counts) == pytest.approx(1 + 1 / 2 + 1 / 3 + 2 / 4 + 2 / 5 + 2 / 6)


@given(scores=scores)
@settings(max_examples=40, deadline=None)
def test_only_the_ledger_counts(script: Any, scores: list[int]) -> None:
    rung = Rung(script)
    for score in scores:
        rung.arrive(score)
    events = rung.script.events
    for number, event in enumerate(events):
        if event["event"] == "result":
            before = SearchState.replay(events[:number])
            assert decide(before, event["trial"], 10, event["score"], THREE, [10, 30, 90]) == event["decision"]
            # told again with its own result in the state, a trial does not compete with itself
            if event["decision"] == "continue":
                after = SearchState.replay(events[: number + 1])
                assert decide(after, event["trial"], 10, event["score"], THREE, [10, 30, 90]) == "continue"
