"""Which trials train on: by hand, and what holds for any search."""

import math
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl.errors import ConfigError
from stssl.search.asha import Scheduler, SchedulerConfig, rungs
from stssl.search.ranking import front, ranked
from stssl.search.rungs import Rungs
from stssl.search.state import SearchState, TrialState


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


class Arena:
    """Search trials under one scheduler, event by event."""

    def __init__(self, script: Any, name: str = "asha", eta: int = 3, ladder: tuple[int, ...] = (10, 30, 90)) -> None:
        self.script = script()
        self.scheduler = Scheduler(
            SchedulerConfig(name=name, grace_steps=ladder[0], reduction_factor=eta), list(ladder)
        )
        self.state = SearchState()
        self._rungs = Rungs(self.scheduler.brackets)

    def unpromotable(self, planned: int) -> list[TrialState]:
        return self.scheduler.unpromotable(Rungs(self.scheduler.brackets).follow(self.state), planned)

    def remaining_steps(self, new: int) -> float:
        return self.scheduler.remaining_steps(self.rungs, new)

    @property
    def rungs(self) -> Rungs:
        return self._rungs.follow(self.state)

    @property
    def trials(self) -> list[TrialState]:
        return self.state.of_kind("search")

    def new(self, bracket: int = 0) -> str:
        name = f"t{len(self.state.trials) + 1:04d}"
        self.script.add("created", trial=name, kind="search", params={}, recipe={"framework": "plain"}, bracket=bracket)
        self.state.apply(self.script.events[-1])
        return name

    def tell(self, name: str, step: int, score: float, **more: float) -> str:
        trial = self.state.trials[name]
        event = {"step": step, "score": score, "seconds": 1.0, **more}
        after = trial.after(event, self.state.sequence + 1)
        decision = self.scheduler.decide(self.rungs, after)
        self.script.add("result", trial=name, **event, decision=decision)
        self.state.apply(self.script.events[-1])
        return decision

    def fail(self, name: str, kind: str = "raised") -> None:
        self.state.apply(self.script.add("failed", trial=name, kind=kind, reason="x").events[-1])

    def arrive(self, score: float, step: int = 10) -> str:
        return self.tell(self.new(), step, score)

    def promote(self, more: bool = True) -> str | None:
        trial = self.scheduler.promotion(self.rungs, more)
        if trial is not None:
            self.state.apply(self.script.add("promoted", trial=trial.id).events[-1])
        return trial and trial.id


def test_promotion_by_hand(script: Any) -> None:
    a = Arena(script)
    assert [a.arrive(score) for score in (0.1, 0.3)] == ["pause", "pause"] and a.promote() is None  # of 2, 2/3 go on
    assert a.arrive(0.2) == "pause" and a.promote() == "t0002" and a.promote() is None
    assert [a.arrive(score) for score in (0.4, 0.5)] == ["continue", "continue"]  # the best of 4 and of 5
    assert a.arrive(0.45) == "continue" and a.promote() is None  # the second of 6, and there are two places
    assert a.tell("t0002", 20, 0.9) == "continue"  # no rung
    assert [a.tell(t, 30, s) for t, s in (("t0002", 0.6), ("t0004", 0.5))] == ["pause", "pause"]
    assert a.promote() is None
    assert a.tell("t0005", 30, 0.4) == "pause" and a.promote() == "t0002"
    assert a.tell("t0002", 90, 0.0) == "complete" and a.promote() is None


def test_the_highest_rung_first_and_the_best_of_it(script: Any) -> None:
    a = Arena(script)
    for _ in range(6):
        a.new()
    for number, score in enumerate((0.6, 0.5, 0.4, 0.3, 0.2, 0.1), start=1):
        assert a.tell(f"t000{number}", 10, score) == "pause" or number > 3
    assert [a.promote(), a.promote(), a.promote()] == ["t0001", "t0002", None]
    for name, score in (("t0001", 0.1), ("t0002", 0.2)):
        assert a.tell(name, 30, score) == "pause"
    for _ in range(3):
        a.new()
    assert [a.tell(f"t000{n}", 10, 0.55) for n in (7, 8)] == ["continue", "pause"]  # 7 and 8 judged: two places
    assert a.tell("t0007", 30, 0.15) == "pause"
    assert a.tell("t0009", 10, 0.0) == "pause"  # now there are three places
    assert [a.promote(), a.promote(), a.promote()] == ["t0002", "t0008", None]


def test_equals_go_on_in_the_order_of_their_arrival(script: Any) -> None:
    a = Arena(script)
    names = [a.new() for _ in range(7)]
    for name in reversed(names):
        a.tell(name, 10, 0.5)
    going = [t.id for t in a.trials if t.status == "running"]
    going += iter(a.promote, None)
    assert sorted(going) == ["t0006", "t0007"]


def test_the_end_of_a_search(script: Any) -> None:
    a = Arena(script)
    for _ in range(4):
        a.new()
    for number, score in enumerate((0.1, 0.4, 0.2), start=1):
        a.tell(f"t000{number}", 10, score)
    assert a.promote(more=False) == "t0002" and a.promote(more=False) is None  # t0004 may still come
    a.fail("t0004")
    assert a.promote(more=False) == "t0003" and a.promote(more=False) is None  # of 4, ceil(4/3)
    assert a.tell("t0003", 30, 0.1) == "pause" and a.promote(more=False) is None  # t0002 may still come
    a.fail("t0002")  # leaves its place to the next in line, at both rungs
    assert a.promote(more=False) == "t0001" and a.promote(more=False) is None
    assert a.tell("t0001", 30, 0.2) == "continue"  # the best of 3: t0002 was judged here too
    assert a.tell("t0001", 90, 0.2) == "complete" and a.promote(more=False) is None


def test_failures_are_evidence(script: Any) -> None:
    a = Arena(script)
    assert a.arrive(0.1) == "pause"
    for kind in ("raised", "diverged", "infrastructure"):
        a.fail(a.new(), kind)
    assert a.promote() == "t0001"  # the best of 3: what the machine did says nothing
    b = Arena(script)
    b.arrive(0.1)
    for _ in range(2):
        b.fail(b.new(), "infrastructure")
    assert b.promote() is None
    c = Arena(script, ladder=(10, 30, 90))
    for _ in range(9):
        c.new()
    for n in range(1, 10):
        c.tell(f"t000{n}", 10, 1 - n / 10)
    while c.promote():
        pass
    c.tell("t0001", 20, 0.9)
    c.fail("t0001")  # between two rungs: judged at the second
    c.tell("t0002", 30, 0.5)
    assert c.promote() == "t0004"  # the place of t0001 at the first rung
    assert c.tell("t0003", 30, 0.6) == "continue"  # t0001, t0002 and t0003 were judged


def test_hopeless(script: Any) -> None:
    a = Arena(script)
    for n in range(1, 10):
        a.arrive(1 - n / 10)
    assert {t.id for t in a.unpromotable(9)} == {"t0004", "t0005", "t0006", "t0007", "t0008", "t0009"}
    assert {t.id for t in a.unpromotable(15)} == {"t0006", "t0007", "t0008", "t0009"}
    assert a.unpromotable(27) == []


def test_brackets_of_hyperband(script: Any) -> None:
    a = Arena(script, "hyperband")
    assert a.scheduler.brackets == [[10, 30, 90], [30, 90], [90]]
    for _ in range(33):
        a.new(a.scheduler.next_bracket(a.rungs))
    # 9/3 : 3/2 : 1/1, that is 6 : 3 : 2 of 11
    assert [sum(t.bracket == b for t in a.trials) for b in range(3)] == [18, 9, 6]
    assert [t.bracket for t in a.trials[:4]] == [0, 1, 0, 2]
    early, late, full = (next(t.id for t in a.trials if t.bracket == b) for b in range(3))
    assert [a.tell(early, 10, 0.1), a.tell(late, 10, 0.1), a.tell(full, 10, 0.1)] == ["pause", "continue", "continue"]
    assert [a.tell(late, 30, 0.1), a.tell(full, 30, 0.1), a.tell(full, 90, 0.1)] == ["pause", "continue", "complete"]
    others = [t.id for t in a.trials if t.bracket == 1][1:3]
    assert a.tell(others[0], 30, 0.05) == "pause"
    a.fail(others[1])  # before its first result: judged at its bracket's first rung
    assert a.promote() == late
    assert Scheduler(SchedulerConfig(name="asha"), [10, 90]).brackets == [[10, 90]]


def test_two_objectives(script: Any) -> None:
    a = Arena(script, eta=2)
    for first, second in ((0.9, 0.1), (0.1, 0.9), (0.5, 0.5), (0.4, 0.4), (0.4, 0.6), (0.05, 0.95)):
        a.tell(a.new(), 10, first, second=second)
    assert [t.id for t in front(a.trials, 10)] == ["t0001", "t0003", "t0005", "t0002", "t0006"]
    assert [t.id for t in ranked(a.trials, 10)] == ["t0001", "t0003", "t0005", "t0002", "t0006", "t0004"]
    assert [a.promote() for _ in range(4)] == ["t0001", "t0003", "t0005", None]


pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20)


@given(pairs=pairs)
@settings(max_examples=100, deadline=None)
def test_fronts(script: Any, pairs: list[tuple[int, int]]) -> None:
    a = Arena(script, "none", ladder=(90,))
    for first, second in pairs:
        a.tell(a.new(), 10, first, second=second)
    beats = lambda x, y: x != y and x[0] >= y[0] and x[1] >= y[1]  # noqa: E731
    value = lambda t: (t.scores[10], t.second[10])  # noqa: E731
    assert {t.id for t in front(a.trials, 10)} == {
        t.id for t in a.trials if not any(beats(value(o), value(t)) for o in a.trials)
    }
    order = ranked(a.trials, 10)
    assert len(order) == len(pairs)
    assert not any(beats(value(y), value(x)) for i, x in enumerate(order) for y in order[i:])


@given(data=st.data(), eta=st.integers(2, 4), name=st.sampled_from(["asha", "hyperband"]), total=st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_promotion_always(script: Any, data: st.DataObject, eta: int, name: str, total: int) -> None:
    """No promotion without evidence, none of a worse one before a better one, and in the end somebody is trained in full."""
    ladder = [10 * eta**k for k in range(3)]
    a = Arena(script, name, eta, tuple(ladder))
    running: list[str] = []
    while True:
        more = len(a.trials) < total
        promoted = a.promote(more)
        if promoted:
            trial = a.state.trials[promoted]
            same = [t for t in a.trials if t.bracket == trial.bracket]
            judged = [t for t in same if trial.step in t.scores or t.status == "failed"]
            rank = [t.id for t in ranked((t for t in judged if t.status != "failed" and t.scores), trial.step)].index(
                promoted
            )
            assert rank < math.ceil(len(judged) / eta)
            assert more is False or rank < len(judged) // eta or not any(t.step < trial.step for t in same)
            running.append(promoted)
        elif more and (len(running) < 3 or data.draw(st.booleans())):
            running.append(a.new(a.scheduler.next_bracket(a.rungs)))
        if not running:
            break
        if len(running) >= 3 or not (more or promoted):
            name_ = data.draw(st.sampled_from(running))
            trial = a.state.trials[name_]
            if data.draw(st.integers(0, 9)) == 0:
                a.fail(name_)
                running.remove(name_)
                continue
            step = next(r for r in ladder if r > trial.step)
            if a.tell(name_, step, data.draw(st.integers(0, 3))) != "continue":
                running.remove(name_)
    assert not any(t.status == "running" for t in a.trials) and len(a.trials) == total
    assert any(t.status == "completed" for t in a.trials) or all(t.status == "failed" for t in a.trials)
    assert a.scheduler.promotion(a.rungs, more=False) is None
    replayed = SearchState.replay(a.script.events)
    assert replayed == a.state


def went_on(script: Any, scores: list[float], eta: int = 3) -> list[bool]:
    arena = Arena(script, "asha_stopping", eta)
    return [arena.arrive(score) == "continue" for score in scores]


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
        ([0.9, 0.5, 0.5, 0.5], [Y, N, N, Y]),  # equals that were stopped take no place
        ([-0.5, -0.7, -0.1], [Y, N, Y]),
        ([0.0, -0.0], [Y, N]),
    ],
)
def test_stopping_by_hand(script: Any, scores: list[float], passed: list[bool]) -> None:
    assert went_on(script, scores) == passed


def test_those_who_came_early_are_stopped_late(script: Any) -> None:
    """Ray's and the published stopping rule let the first arrivals pass every rung unmeasured."""
    a = Arena(script, "asha_stopping")
    assert [a.arrive(score) for score in (0.1, 0.2, 0.3)] == ["continue"] * 3
    assert a.tell("t0001", 20, 0.9) == "stop"  # at step 10 two of three are ahead, whatever it became since
    assert a.tell("t0002", 20, 0.9) == "stop" and a.tell("t0003", 20, 0.0) == "continue"
    assert a.tell("t0003", 30, 0.0) == "continue" and a.tell("t0003", 90, 0.0) == "complete"
    assert a.promote(more=False) is None


def test_about_one_in_three_goes_on(script: Any) -> None:
    """Over all orders of 6 arrivals: ceil(n/3)/n summed over n, which is 1 + 1/2 + 1/3 + 2/4 + 2/5 + 2/6."""
    counts = [sum(went_on(script, list(order))) for order in permutations(range(6))]
    assert sum(counts) / len(counts) == pytest.approx(1 + 1 / 2 + 1 / 3 + 2 / 4 + 2 / 5 + 2 / 6)


def test_none_trains_all_in_full(script: Any) -> None:
    a = Arena(script, "none", ladder=(90,))
    assert [a.arrive(score) for score in (0.5, 0.1)] == ["continue", "continue"]
    assert a.tell("t0002", 90, 0.0) == "complete" and a.promote(more=False) is None


def test_steps_to_come(script: Any) -> None:
    a = Arena(script)
    assert a.scheduler.remaining_steps(Rungs(a.scheduler.brackets), 9) == 9 * 10 + 3 * 20 + 60
    for n in range(1, 4):
        a.arrive(1 - n / 10)
    assert a.scheduler.remaining_steps(a.rungs, 6) == 6 * 10 + 3 * 20 + 60
    assert a.promote() == "t0001" and a.tell("t0001", 20, 1.0) == "continue"
    assert a.scheduler.remaining_steps(a.rungs, 0) == 10 + 20
    assert Arena(script, "none", ladder=(90,)).remaining_steps(2) == 180
