"""What a ledger says: every trial, its results, how it ended. Plain data, rebuilt from the events."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stssl.search.events import Event, Status

_AFTER: dict[str, Status] = {"pause": "paused", "stop": "stopped", "complete": "completed"}


@dataclass
class TrialState:
    """One trial or one replicate.

    Attributes:
        kind: `search`, or `replicate` of the trial `of`.
        params: The searched values, dotted key to value.
        recipe: The full recipe as plain data.
        by: How the sampler came to it.
        bracket: Of Hyperband: how many rungs it skips.
        status: `paused` waits at a rung and may be promoted later; `stopped` never goes on.
        scores: Step to score; more is better whatever the metric.
        second: Step to score by the second objective, if there is one.
        arrived: Step to the number of that result among all results and failures of the ledger.
        results: The raw result events, oldest first.
        seconds: Training and evaluation time on record.
        reason: Why it was paused, stopped or failed.
        fault: Of a failed one: `diverged`, `raised`, `out_of_memory`, `hung`, `silent` or `infrastructure`.
        failed_at: The number of the failure, as in `arrived`.
        lost: How often its worker or node died.
        nodes_lost: How often its node died since its last result.
        raised: How often it raised or hung and was tried again.
        dropped: The event by which a replicated recipe was given up.
    """

    id: str
    kind: Literal["search", "replicate"]
    params: dict[str, Any]
    recipe: dict[str, Any]
    of: str | None = None
    by: dict[str, Any] = field(default_factory=dict)
    bracket: int = 0
    status: Status = "running"
    scores: dict[int, float] = field(default_factory=dict)
    second: dict[int, float] = field(default_factory=dict)
    arrived: dict[int, int] = field(default_factory=dict)
    results: list[Event] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""
    fault: str = ""
    failed_at: int | None = None
    lost: int = 0
    nodes_lost: int = 0
    raised: int = 0
    dropped: Event | None = None

    @property
    def step(self) -> int:
        """The last step with a result; 0 before the first."""
        return self.results[-1]["step"] if self.results else 0

    @property
    def score(self) -> float:
        """The score at the last result; -inf before the first."""
        return self.scores[self.step] if self.results else -math.inf

    def take(self, result: Event, number: int) -> None:
        """Add a result, the ledger's `number`-th."""
        step = result["step"]
        self.results.append(result)
        self.scores[step], self.arrived[step] = result["score"], number
        if "second" in result:
            self.second[step] = result["second"]
        self.seconds += result["seconds"]
        self.nodes_lost = 0

    def after(self, result: Event, number: int) -> TrialState:
        """The trial as it would be after a result."""
        copy = replace(
            self, scores={**self.scores}, second={**self.second}, arrived={**self.arrived}, results=[*self.results]
        )
        copy.take(result, number)
        return copy

    @property
    def deployable(self) -> bool:
        """Whether what it trains sees the image alone."""
        return self.recipe["framework"] != "metadata_input"


@dataclass
class SearchState:
    """All trials of a search in the order of their creation, and how far the search has come.

    Attributes:
        imported: Trials of other searches, which only the sampler hears of.
        sequence: How many results and failures there are.
        losses: Trials lost to the machine since the last result.
        exhausted: The space has no point left.
        started: A driver has begun.
        extended: The search was changed on its way.
        tests: How often the test split was read.
    """

    trials: dict[str, TrialState] = field(default_factory=dict)
    imported: list[TrialState] = field(default_factory=list)
    sequence: int = 0
    winner: str | None = None
    tested: Event | None = None
    tests: int = 0
    finished: bool = False
    losses: list[str] = field(default_factory=list)
    exhausted: bool = False
    started: bool = False
    extended: bool = False

    @classmethod
    def replay(cls, events: Iterable[Event]) -> SearchState:
        """Rebuild the state from a ledger."""
        state = cls()
        for event in events:
            state.apply(event)
        return state

    def apply(self, event: Event) -> None:
        """Take in one event; kinds that say nothing about trials are passed over."""
        kind = event["event"]
        if kind in _OF_A_TRIAL:
            trial = self.trials.get(event["trial"])
            if trial is not None:  # else the user deleted the damaged line that created it
                self._apply_to(trial, kind, event)
        elif kind == "created":
            self.trials[event["trial"]] = TrialState(
                event["trial"], event["kind"], event["params"], event["recipe"], event.get("of"),
                event.get("by", {}), event.get("bracket", 0),
            )  # fmt: skip
        elif kind == "imported":
            self._import(event)
        elif kind == "started":
            self.started = True
        elif kind == "resumed":  # somebody looked after the machine: count anew
            for trial in self.trials.values():
                trial.lost = trial.nodes_lost = 0
                # given up while the machine was at fault, as it seems
                if trial.id in self.losses and trial.fault == "infrastructure":
                    trial.status, trial.reason, trial.fault, trial.failed_at = "running", "", "", None
            self.losses = []
        elif kind == "extended":
            self.finished, self.exhausted, self.winner, self.tested = False, False, None, None
            self.extended = True
        elif kind == "winner":
            self.winner = event["trial"]
        elif kind == "tested":
            self.tested, self.tests = event, self.tests + 1
        elif kind == "exhausted":
            self.exhausted = True
        elif kind == "finished":
            self.finished = True

    def _apply_to(self, trial: TrialState, kind: str, event: Event) -> None:
        if kind == "result":
            self.sequence += 1
            trial.take(event, self.sequence)
            if event["decision"] != "continue":
                trial.status, trial.reason = _AFTER[event["decision"]], event.get("reason", "")
            self.losses = []
        elif kind == "promoted":
            trial.status, trial.reason = "running", ""
        elif kind == "failed":
            self.sequence += 1
            trial.status, trial.reason = "failed", event["reason"]
            trial.fault, trial.failed_at = event.get("kind", "raised"), self.sequence
            if trial.fault == "infrastructure":
                self.losses.append(trial.id)
        elif kind == "lost":
            kind = event.get("kind", "infrastructure")
            if kind == "infrastructure":
                trial.lost += 1
                self.losses.append(trial.id)
            elif kind == "node":
                trial.nodes_lost += 1
            else:
                trial.raised += 1
        elif kind == "dropped":
            trial.dropped = event

    def _import(self, event: Event) -> None:
        scores = {int(step): score for step, score in event["scores"].items()}
        trial = TrialState(event["trial"], "search", event["params"], {}, status=event["status"])
        trial.scores, trial.arrived = scores, dict.fromkeys(scores, 0)
        trial.second = {int(step): score for step, score in event.get("second", {}).items()}
        trial.fault, trial.failed_at = event.get("fault", ""), 0 if event["status"] == "failed" else None
        self.imported.append(trial)

    def of_kind(self, kind: str, *statuses: Status) -> list[TrialState]:
        """Trials of a kind, in these states if any are given."""
        return [t for t in self.trials.values() if t.kind == kind and (not statuses or t.status in statuses)]

    def count(self, status: Status) -> int:
        """How many trials and replicates are in a state."""
        return sum(t.status == status for t in self.trials.values())

    def best(self) -> TrialState | None:
        """The search trial that got furthest, among those the best ranked, the first on a tie."""
        return next(iter(furthest(t for t in self.of_kind("search") if t.status != "failed")), None)


_OF_A_TRIAL = ("result", "promoted", "failed", "lost", "dropped")


def ranked(trials: Iterable[TrialState], step: int) -> list[TrialState]:
    """Trials by their scores at a step, best first; of equals the one that arrived first.

    With two objectives by Pareto front, within a front by the first objective (non-dominated sorting, Deb et al. 2002).
    """
    left = sorted(trials, key=lambda t: (-t.scores[step], -t.second.get(step, 0.0), t.arrived[step]))
    if not any(step in t.second for t in left):
        return left
    order: list[TrialState] = []
    while left:
        first, left = _peel(left, step)
        order += first
    return order


def front(trials: Iterable[TrialState], step: int) -> list[TrialState]:
    """The Pareto front at a step: those that no other beats in one objective without losing in the other."""
    order = ranked((t for t in trials if step in t.scores), step)
    return _peel(order, step)[0] if any(step in t.second for t in order) else order[:1]


def _peel(order: list[TrialState], step: int) -> tuple[list[TrialState], list[TrialState]]:
    """The Pareto front of trials whose first objective falls, and the others."""
    first: list[TrialState] = []
    rest: list[TrialState] = []
    top = (0.0, -math.inf)  # the pair with the best second objective so far
    for trial in order:
        pair = (trial.scores[step], trial.second.get(step, -math.inf))
        if not first or pair[1] > top[1]:
            top = pair
        (first if pair == top else rest).append(trial)
    return first, rest


def furthest(trials: Iterable[TrialState]) -> list[TrialState]:
    """Trials that have a result: the furthest trained first, those of a length as `ranked`."""
    by_step: dict[int, list[TrialState]] = {}
    for trial in trials:
        if trial.results:
            by_step.setdefault(trial.step, []).append(trial)
    return [t for step in sorted(by_step, reverse=True) for t in ranked(by_step[step], step)]
