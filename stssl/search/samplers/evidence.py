"""What samplers know of the trials, kept up to date trial by trial, and how much of it a model is told."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stssl.search.ranking import ranked
from stssl.search.state import SearchState, TrialState

_IMPORTED = 10**9  # trials of other searches are numbered from here


class Evidence:
    """The trials of a state as samplers ask for them: which points were tried, and who is best at each rung.

    With two objectives a score is a trial's rank at that rung, between 0 and 1: samplers know one objective, and most of
    them only ranks.

    Args:
        ladder: The training lengths at which trials are compared.

    Attributes:
        state: What it follows.
        imported: Trials of other searches.
        reached: How many of both have a score at a rung.
        last_index: Sampler to the highest index that any of its trials has in its sequence; -1 before the first.
    """

    def __init__(self, ladder: list[int]) -> None:
        self.ladder = ladder
        self._begin(SearchState())

    def _begin(self, state: SearchState) -> None:
        self.state, self._read, self._counted = state, 0, 0
        self.imported: list[TrialState] = []
        self.reached = 0
        self.last_index: dict[str, int] = {}
        self._points: set[frozenset[tuple[str, Any]]] = set()
        self._places: dict[int, list[tuple[float, int]]] = {rung: [] for rung in self.ladder}  # -score, number
        self._standing = dict.fromkeys(self.ladder, 0)
        self._known: dict[int, tuple[dict[int, float], bool]] = {}  # number to scores and whether it stands, as put
        self._by_number: dict[int, TrialState] = {}
        self._two = False
        self._orders: dict[int, list[TrialState]] = {}

    def follow(self, state: SearchState) -> Evidence:
        """Take in what has changed in a state since the last time."""
        if state is not self.state:
            self._begin(state)
        for trial in state.imported[len(self.imported) :]:
            self._put(_IMPORTED + len(self.imported), trial)
            self.imported.append(trial)
        for trial in state.of_kind("search")[self._counted :]:
            self._points.add(_key(trial.params))
            name, index = trial.by.get("sampler", ""), trial.by.get("index", -1)
            self.last_index[name] = max(self.last_index.get(name, -1), index)
            self._counted += 1
        for trial in {t.id: t for t in state.changes[self._read :] if t.kind == "search"}.values():
            self._put(trial.number, trial)
        self._read = len(state.changes)
        return self

    def _put(self, number: int, trial: TrialState) -> None:
        scores, stands = self._known.get(number, ({}, False))
        for rung, score in scores.items():
            places = self._places[rung]
            del places[bisect_left(places, (-score, number))]
            self._standing[rung] -= stands
        self.reached -= bool(scores)
        scores, stands = {r: trial.scores[r] for r in self.ladder if r in trial.scores}, trial.status != "failed"
        for rung, score in scores.items():
            insort(self._places[rung], (-score, number))
            self._standing[rung] += stands
        self.reached += bool(scores)
        self._known[number], self._by_number[number] = (scores, stands), trial
        self._two = self._two or bool(trial.second)
        self._orders = {}

    def __contains__(self, params: object) -> bool:
        """Whether a point was tried in this search."""
        return isinstance(params, dict) and _key(params) in self._points

    def __len__(self) -> int:
        """How many search trials there are."""
        return self._counted

    def standing(self, rung: int) -> int:
        """How many trials have a score at a rung and have not failed."""
        return self._standing[rung]

    def order(self, rung: int) -> Iterator[TrialState]:
        """The trials with a score at a rung that have not failed, best first."""
        everyone = self._ranked(rung) if self._two else (self._by_number[n] for _, n in self._places[rung])
        return (trial for trial in everyone if trial.status != "failed")

    def best(self) -> TrialState | None:
        """The incumbent: the best at the highest rung that any reached."""
        rung = next((rung for rung in reversed(self.ladder) if self._standing[rung]), None)
        return None if rung is None else next(self.order(rung))

    def told(self, most: int) -> list[TrialState]:
        """What a model learns from, trials of other searches first, each in the order of their creation.

        Left out are trials that the machine failed. Of more than `most` trials it is told of the best, those that were trained
        furthest before all others, and of the newest, one half each, and of all that run.
        """
        trials = self.state.of_kind("search")
        if len(trials) + len(self.imported) <= most:
            chosen = [*self.imported, *trials]
        else:
            found: dict[str, TrialState] = {}
            for rung in reversed(self.ladder):
                for trial in self.order(rung):
                    if len(found) >= most // 2:
                        break
                    found[trial.id] = trial
            for trial in reversed(trials):
                if len(found) >= most:
                    break
                found[trial.id] = trial
            found |= {trial.id: trial for trial in self.state.of_kind("search", "running")}
            chosen = [t for t in self.imported if t.id in found]
            chosen += sorted((t for t in found.values() if t.id in self.state.trials), key=lambda t: t.number)
        chosen = [self._here(trial) for trial in chosen if trial.fault != "infrastructure"]
        return self._with_ranks(chosen) if self._two else chosen

    def _here(self, trial: TrialState) -> TrialState:
        """What was running in another search is not running here."""
        elsewhere = trial.status == "running" and trial.id not in self.state.trials
        return replace(trial, status="stopped") if elsewhere else trial

    def _with_ranks(self, trials: list[TrialState]) -> list[TrialState]:
        scores: dict[str, dict[int, float]] = {}
        for rung in self.ladder:
            order = self._ranked(rung)
            for place, trial in enumerate(order):
                scores.setdefault(trial.id, {})[rung] = 1 - place / len(order)
        return [replace(trial, scores=scores.get(trial.id, {})) for trial in trials]

    def _ranked(self, rung: int) -> list[TrialState]:
        if rung not in self._orders:
            self._orders[rung] = ranked((self._by_number[n] for _, n in self._places[rung]), rung)
        return self._orders[rung]


def _key(params: dict[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset(params.items())
