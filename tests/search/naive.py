"""The rules of a search, computed from all trials anew each time: what the incremental ones are compared with."""

import math
from collections.abc import Callable
from typing import Any

from stssl.search.asha import Scheduler
from stssl.search.ranking import ranked
from stssl.search.samplers.evidence import Evidence
from stssl.search.state import SearchState, TrialState

Trials = list[TrialState]


def judged(trials: Trials, rungs: list[int], rung: int) -> tuple[Trials, int]:
    """The trials that may have a place at a rung, best first, and how many were judged there."""
    below = max((r for r in rungs if r < rung), default=0)
    scored = [t for t in trials if rung in t.scores]
    failed = [t for t in trials if t.status == "failed" and t.fault != "infrastructure" and below <= t.step < rung]
    return ranked((t for t in scored if t.status != "failed"), rung), len(scored) + len(failed)


def best(trials: Trials, rungs: list[int], rung: int, eta: int, rounding: Callable[[float], int]) -> Trials:
    order, count = judged(trials, rungs, rung)
    return order[: rounding(count / eta)]


def decision(scheduler: Scheduler, trials: Trials, trial: TrialState) -> str:
    rungs, eta = scheduler.brackets[trial.bracket], scheduler.factor
    mine = [t for t in trials if t.bracket == trial.bracket]
    if trial.step >= rungs[-1]:
        return "complete"
    if scheduler.config.name == "asha_stopping":
        for rung in (r for r in rungs if r <= trial.step):
            order, count = judged(mine, rungs, rung)
            own = (trial.scores[rung], trial.second.get(rung))
            order = [t for t in order if t.status != "stopped" or (t.scores[rung], t.second.get(rung)) != own]
            if trial.id not in [t.id for t in order[: math.ceil(count / eta)]]:
                return "stop"
        return "continue"
    if trial.step not in rungs:
        return "continue"
    return "continue" if trial.id in [t.id for t in best(mine, rungs, trial.step, eta, math.floor)] else "pause"


def promotion(scheduler: Scheduler, trials: Trials, more: bool) -> str | None:
    due: TrialState | None = None
    if scheduler.config.name not in ("asha", "hyperband"):
        return None
    for bracket, rungs in enumerate(scheduler.brackets):
        mine = [t for t in trials if t.bracket == bracket]
        running = [t.step for t in mine if t.status == "running"]
        closed = not more
        for rung in rungs[:-1]:
            closed = closed and not any(step < rung for step in running)
            ahead = best(mine, rungs, rung, scheduler.factor, math.ceil if closed else math.floor)
            waiting = next((t for t in ahead if t.status == "paused" and t.step == rung), None)
            if waiting is not None:
                closed = False
                if due is None or rung >= due.step:
                    due = waiting
    return due and due.id


def unpromotable(scheduler: Scheduler, trials: Trials, planned: int) -> set[tuple[str, int]]:
    found = set()
    for bracket, rungs in enumerate(scheduler.brackets):
        mine = [t for t in trials if t.bracket == bracket]
        most = max(math.ceil(planned * scheduler._shares[bracket]), len(mine))
        for rung in rungs[:-1]:
            places = math.ceil(most / scheduler.factor)
            order = ranked((t for t in mine if rung in t.scores and t.status != "failed"), rung)
            found |= {(t.id, rung) for t in order[places:] if t.status == "paused" and t.step == rung}
            most = max(places, sum(t.step > rung for t in mine))
    return found


def remaining_steps(scheduler: Scheduler, trials: Trials, new: int) -> float:
    left = 0.0
    for bracket, rungs in enumerate(scheduler.brackets):
        mine = [t for t in trials if t.bracket == bracket]
        expected = len(mine) + new * scheduler._shares[bracket]
        for start, end in zip([0, *rungs], rungs, strict=False):
            done = sum(min(max(0, t.step - start), end - start) for t in mine if t.status != "failed")
            done += sum((end - start) * (t.step >= start) for t in mine if t.status == "failed")
            running = sum(end - max(start, t.step) for t in mine if t.status == "running" and start <= t.step < end)
            left += max(running, expected * (end - start) - done)
            expected = max(expected / scheduler.factor, sum(t.step > end for t in mine))
    return left


def check_evidence(evidence: Evidence, state: SearchState) -> None:
    """What the samplers are told of a state is what its trials say."""
    search, imported = list(state.of_kind("search")), list(state.imported)
    everyone = [*search, *imported]
    two = any(t.second for t in everyone)
    assert evidence.reached == sum(any(r in t.scores for r in evidence.ladder) for t in everyone)
    assert len(evidence) == len(search) and all(t.params in evidence for t in search)
    by_rank: dict[str, dict[int, float]] = {t.id: {} for t in everyone}
    for rung in evidence.ladder:
        scored = [t for t in everyone if rung in t.scores]
        order = ranked(scored, rung) if two else sorted(scored, key=lambda t: -t.scores[rung])
        for place, trial in enumerate(order):
            by_rank[trial.id][rung] = 1 - place / len(order)
        standing = [t.id for t in order if t.status != "failed"]
        assert [t.id for t in evidence.order(rung)] == standing and evidence.standing(rung) == len(standing)
        if standing:
            found = evidence.best()
            assert found is not None
            leader = standing[0] if rung == max(r for r in evidence.ladder if evidence.standing(r)) else found.id
            assert found.id == leader
    told = [(t.id, t.scores if not two else by_rank[t.id]) for t in [*imported, *search] if t.fault != "infrastructure"]
    assert [(t.id, t.scores) for t in evidence.told(10**6)] == told
    few: list[Any] = [t.id for t in evidence.told(4)]
    assert set(few) <= {name for name, _ in told} and few == [name for name, _ in told if name in few]
    assert {t.id for t in state.of_kind("search", "running")} <= set(few)
    for number, trial in zip(range(2), (t for r in reversed(evidence.ladder) for t in evidence.order(r)), strict=False):
        assert trial.id in few or number == 1 or trial.fault == "infrastructure"
