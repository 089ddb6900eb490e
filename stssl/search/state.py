"""What a ledger says: every trial, its results, how it ended. Plain data, rebuilt from the events."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stssl.search.events import OF_TRIAL, Event, Status
from stssl.search.ranking import rank_key

Kind = Literal["search", "replicate"]
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
        number: How many trials and replicates were created before it.
    """

    id: str
    kind: Kind
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
    number: int = 0

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

    def copy(self) -> TrialState:
        """The trial as it is now, with its last result alone."""
        return replace(
            self, scores={**self.scores}, second={**self.second}, arrived={**self.arrived}, results=self.results[-1:]
        )

    def after(self, result: Event, number: int) -> TrialState:
        """The trial as it would be after a result."""
        copy = self.copy()
        copy.take(result, number)
        return copy

    @property
    def deployable(self) -> bool:
        """Whether what it trains sees the image alone."""
        return self.recipe["framework"] != "metadata_input"


@dataclass
class TrialIndex:
    """What is asked of the trials again and again, kept up to date trial by trial.

    Attributes:
        trials: By kind, in the order of their creation.
        by_status: By kind and status, then by name.
        standing: Search trials with a result that have not failed: by their last step, then by name.
        seconds: Time on record, by kind.
        steps: Training steps on record, of both kinds.
        searched: How many changes of search trials there were.
    """

    trials: dict[str, list[TrialState]] = field(default_factory=lambda: defaultdict(list))
    by_status: dict[tuple[str, str], dict[str, TrialState]] = field(default_factory=lambda: defaultdict(dict))
    standing: dict[int, dict[str, TrialState]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0
    searched: int = 0
    _known: dict[str, tuple[str, int, float]] = field(default_factory=dict)  # status, step, seconds as they were

    def put(self, trial: TrialState) -> None:
        """Take in a new trial, or what has changed of one."""
        kind, step = trial.kind, trial.step
        status, before, seconds = self._known.get(trial.id, ("", 0, 0.0))
        if not status:
            self.trials[kind].append(trial)
        else:
            del self.by_status[kind, status][trial.id]
            if trial.id in self.standing.get(before, {}):
                del self.standing[before][trial.id]
                if not self.standing[before]:
                    del self.standing[before]
        self.by_status[kind, trial.status][trial.id] = trial
        if kind == "search" and step and trial.status != "failed":
            self.standing.setdefault(step, {})[trial.id] = trial
        self.seconds[kind] += trial.seconds - seconds
        self.steps += step - before
        self.searched += kind == "search"
        self._known[trial.id] = (trial.status, step, trial.seconds)


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
        index: What of the trials is asked for again and again.
        changes: The trial that each event changed, in order: by this a reader of the state keeps up with it.
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
    index: TrialIndex = field(default_factory=TrialIndex)
    changes: list[TrialState] = field(default_factory=list, compare=False, repr=False)

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
        if kind in OF_TRIAL:
            trial = self.trials.get(event["trial"])
            if trial is not None:  # else the user deleted the damaged line that created it
                self._apply_to(trial, kind, event)
                self.put(trial)
        elif kind == "created":
            self.put(TrialState(
                event["trial"], event["kind"], event["params"], event["recipe"], event.get("of"),
                event.get("by", {}), event.get("bracket", 0), number=len(self.trials),
            ))  # fmt: skip
        elif kind == "imported":
            self._import(event)
        elif kind == "started":
            self.started = True
        elif kind == "resumed":  # somebody looked after the machine: count anew
            again = event.get("retried", self.losses)  # older drivers retried what was lost last, and did not say so
            for trial in self.trials.values():
                trial.lost = trial.nodes_lost = 0
                if trial.id in again and trial.fault == "infrastructure":
                    trial.status, trial.reason, trial.fault, trial.failed_at = "running", "", "", None
                    self.put(trial)
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

    def put(self, trial: TrialState) -> None:
        """Take in a new trial, or what has changed of one."""
        self.trials[trial.id] = trial
        self.index.put(trial)
        self.changes.append(trial)

    def of_kind(self, kind: Kind, *statuses: Status) -> Sequence[TrialState]:
        """Trials of a kind in the order of their creation, in these states if any are given; not to be changed."""
        if not statuses:
            return self.index.trials.get(kind, [])
        found = [trial for status in statuses for trial in self.index.by_status.get((kind, status), {}).values()]
        return sorted(found, key=lambda t: t.number)

    def count(self, status: Status, kind: Kind | None = None) -> int:
        """How many trials and replicates, or those of one kind, are in a state."""
        kinds: tuple[Kind, ...] = ("search", "replicate") if kind is None else (kind,)
        return sum(len(self.index.by_status.get((k, status), {})) for k in kinds)

    def seconds(self, kind: Kind) -> float:
        """Training and evaluation time on record."""
        return self.index.seconds.get(kind, 0.0)

    def best(self) -> TrialState | None:
        """The search trial that got furthest, among those the best ranked, the first on a tie."""
        reached = self.index.standing
        return (
            min(reached[step].values(), key=lambda t: rank_key(t, step)) if (step := max(reached, default=0)) else None
        )
