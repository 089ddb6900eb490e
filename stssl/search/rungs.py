"""The search trials at each rung, in the order of their scores: kept up to date trial by trial, whatever their number."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stssl.search.ranking import Key, rank_key, ranked
from stssl.search.state import SearchState, TrialState

Place = tuple[Key, str]  # how a trial compares, and its name


@dataclass
class Rung:
    """One rung of one bracket.

    Attributes:
        start: The rung below, 0 for the first.
        end: This rung.
        places: Trials with a score here that have not failed, best first by the first objective.
        paused: Of these, those that wait here.
        kept: Of these, those whose weights were not given up yet.
        judged: How many have a score here, or failed by their own fault on the way from the rung below.
        beyond: How many were trained further.
        done: Steps between start and end that nobody has to train any more.
        seconds: How many of the places have a second objective.
    """

    start: int
    end: int
    places: list[Place] = field(default_factory=list)
    paused: list[Place] = field(default_factory=list)
    kept: list[Place] = field(default_factory=list)
    judged: int = 0
    beyond: int = 0
    done: int = 0
    seconds: int = 0
    _order: dict[str, int] | None = None

    def place_of(self, place: Place, trials: dict[str, TrialState]) -> int:
        """How many are ahead of a trial that has a place here."""
        if not self.seconds:
            return bisect_left(self.places, place)
        if self._order is None:  # a new trial can move all others from front to front
            order = ranked((trials[name] for _, name in self.places), self.end)
            self._order = {trial.id: number for number, trial in enumerate(order)}
        return self._order[place[1]]

    def place_with(self, trial: TrialState, trials: dict[str, TrialState]) -> int:
        """How many would be ahead of a trial that has just got a score here."""
        if not self.seconds and self.end not in trial.second:
            return bisect_left(self.places, (rank_key(trial, self.end), trial.id))
        others = [trials[name] for _, name in self.places if name != trial.id]
        return [t.id for t in ranked([*others, trial], self.end)].index(trial.id)

    def put(self, trial: TrialState) -> None:
        """Take a trial in as it is now."""
        self._add(trial, 1)
        if self.end in trial.scores and trial.status != "failed":
            place = (rank_key(trial, self.end), trial.id)
            insort(self.places, place)
            if trial.status == "paused" and trial.step == self.end:
                insort(self.paused, place)
                insort(self.kept, place)

    def take_out(self, trial: TrialState) -> None:
        """Forget a trial as it was when it was put."""
        self._add(trial, -1)
        if self.end in trial.scores and trial.status != "failed":
            place = (rank_key(trial, self.end), trial.id)
            for places in (self.places, self.paused, self.kept):
                number = bisect_left(places, place)
                if number < len(places) and places[number] == place:
                    del places[number]

    def _add(self, trial: TrialState, count: int) -> None:
        step, failed, length = trial.step, trial.status == "failed", self.end - self.start
        at_fault = failed and trial.fault != "infrastructure" and self.start <= step < self.end
        self.judged += count * ((self.end in trial.scores) + at_fault)
        self.beyond += count * (step > self.end)
        self.done += count * (length * (step >= self.start) if failed else min(max(0, step - self.start), length))
        self.seconds += count * (self.end in trial.second and not failed)
        self._order = None


@dataclass
class Bracket:
    """The rungs of one bracket, the full length included; `count` trials, of which `running` run."""

    rungs: list[Rung]
    count: int = 0
    running: dict[str, TrialState] = field(default_factory=dict)


class Rungs:
    """The search trials of a state by bracket and rung.

    Args:
        brackets: The training lengths of each bracket at which trials are compared.
        holds: Which search trials count; all by default.

    Attributes:
        brackets: One of Hyperband's, or the only one.
        trials: Name to trial, of all that count.
    """

    def __init__(self, brackets: list[list[int]], holds: Callable[[TrialState], bool] = lambda trial: True) -> None:
        self._lengths, self._holds = brackets, holds
        self._begin(None)

    def _begin(self, state: SearchState | None) -> None:
        self.brackets = [
            Bracket([Rung(start, end) for start, end in zip([0, *lengths], lengths, strict=False)])
            for lengths in self._lengths
        ]
        self.trials: dict[str, TrialState] = {}
        self._known: dict[str, TrialState] = {}  # as they were put
        self._state, self._read = state, 0

    def follow(self, state: SearchState) -> Rungs:
        """Take in what has changed in a state since the last time."""
        if state is not self._state:
            self._begin(state)
        if self._read < len(state.changes):
            for trial in {t.id: t for t in state.changes[self._read :]}.values():
                if trial.kind == "search" and self._holds(trial):
                    self._update(trial)
            self._read = len(state.changes)
        return self

    def _update(self, trial: TrialState) -> None:
        bracket = self.brackets[trial.bracket]
        if (before := self._known.get(trial.id)) is None:
            bracket.count += 1
        else:
            for rung in bracket.rungs:
                rung.take_out(before)
            bracket.running.pop(trial.id, None)
        for rung in bracket.rungs:
            rung.put(trial)
        if trial.status == "running":
            bracket.running[trial.id] = trial
        self.trials[trial.id], self._known[trial.id] = trial, trial.copy()

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Bracket]:
        return iter(self.brackets)

    def best(self, rung: Rung, places: int) -> TrialState | None:
        """The best trial that waits at a rung, if it is among the best `places` there."""
        if not rung.paused:
            return None
        # with two objectives, the places are not in the order of the ranks
        first = min(rung.paused, key=self._rank(rung)) if rung.seconds else rung.paused[0]
        return self.trials[first[1]] if rung.place_of(first, self.trials) < places else None

    def beyond_places(self, rung: Rung, places: int) -> list[TrialState]:
        """Those who wait at a rung with at least `places` ahead of them, each once."""
        kept = sorted(rung.kept, key=self._rank(rung)) if rung.seconds else rung.kept
        found = []
        while kept and rung.place_of(kept[-1], self.trials) >= places:
            found.append(self.trials[kept.pop()[1]])
        if rung.seconds:
            rung.kept = sorted(kept)
        return found

    def _rank(self, rung: Rung) -> Callable[[Place], int]:
        return lambda place: rung.place_of(place, self.trials)

    def equals_ahead(self, trial: TrialState, rung: Rung) -> int:
        """How many stopped trials are ahead of a trial with the very same scores at a rung."""
        own = (trial.scores[rung.end], trial.second.get(rung.end))
        first = bisect_left(rung.places, ((-own[0], -math.inf, 0), ""))
        found = 0
        for (score, _, arrived), name in rung.places[first:]:
            if score != -own[0]:
                break
            other = self.trials[name]
            same = (other.scores[rung.end], other.second.get(rung.end)) == own
            found += same and other.status == "stopped" and arrived < trial.arrived[rung.end]
        return found
