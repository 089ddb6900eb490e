"""What a ledger says: every trial, its results, how it ended. Plain data, rebuilt from the events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from stssl.search.ledger import Event

Status = Literal["running", "paused", "stopped", "completed", "failed"]  # paused: at a rung, may yet be promoted


@dataclass
class TrialState:
    """One trial or one replicate.

    Attributes:
        kind: `search`, or `replicate` of the trial `of`.
        params: The searched values, dotted key to value.
        recipe: The full recipe as plain data.
        scores: Step to score; more is better whatever the metric.
        results: The raw result events, oldest first.
        reason: Why it was stopped or failed.
        lost: How often its worker or node died.
        fault: The kind of failure: diverged, raised, out_of_memory, hung, silent, infrastructure; empty without one.
        by: How the sampler came upon it, as `Draw.by` says.
        arrived: Step to the place of its result in the order of all results and failures of the ledger.
        failed_at: The place of its failure in that order.
    """

    id: str
    kind: Literal["search", "replicate"]
    params: dict[str, Any]
    recipe: dict[str, Any]
    created: float
    of: str | None = None
    status: Status = "running"
    scores: dict[int, float] = field(default_factory=dict)
    results: list[Event] = field(default_factory=list)
    reason: str = ""
    lost: int = 0
    ended: float | None = None
    fault: str = ""
    by: dict[str, Any] = field(default_factory=dict)
    arrived: dict[int, int] = field(default_factory=dict)
    failed_at: int | None = None

    @property
    def step(self) -> int:
        """The last step with a result; 0 before the first."""
        return self.results[-1]["step"] if self.results else 0

    @property
    def score(self) -> float:
        """The score at the last result; -inf before the first."""
        return self.scores[self.step] if self.results else float("-inf")

    @property
    def seconds(self) -> float:
        """Training and evaluation time on record."""
        return sum(result["seconds"] for result in self.results)

    def ended_at(self, step: int) -> bool:
        """Whether it was stopped at this step."""
        return self.status == "stopped" and self.step == step

    @property
    def deployable(self) -> bool:
        """Whether what it trains sees the image alone."""
        return self.recipe["framework"] != "metadata_input"


@dataclass
class SearchState:
    """All trials of a search in the order of their creation, and how far the search has come.

    Attributes:
        sequence: How many results and failures the ledger holds.
        imported: Trials of other searches; a sampler learns from them, and nothing else looks at them.
    """

    trials: dict[str, TrialState] = field(default_factory=dict)
    winner: str | None = None
    tested: Event | None = None
    finished: bool = False
    losses: list[str] = field(default_factory=list)
    exhausted: bool = False
    sequence: int = 0
    imported: list[TrialState] = field(default_factory=list)

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
        if kind in ("result", "failed"):
            self.sequence += 1
        if kind in ("result", "failed", "lost") and event["trial"] not in self.trials:
            return  # the user deleted the damaged line that created it
        if kind == "created":
            self.trials[event["trial"]] = TrialState(
                event["trial"], event["kind"], event["params"], event["recipe"], event["time"], event.get("of"),
                by=event.get("by", {}),
            )  # fmt: skip
        elif kind == "imported":
            scores = {int(step): score for step, score in event["scores"].items()}  # JSON's keys are strings
            self.imported.append(
                TrialState(
                    event["trial"], "search", event["params"], {}, event["time"],
                    status=event["status"], scores=scores, fault=event.get("fault", ""),
                )
            )  # fmt: skip
        elif kind == "result":
            trial = self.trials[event["trial"]]
            trial.results.append(event)
            trial.scores[event["step"]] = event["score"]
            trial.arrived[event["step"]] = self.sequence
            if event["decision"] == "pause":
                trial.status = "paused"
            elif event["decision"] != "continue":
                trial.status = "stopped" if event["decision"] == "stop" else "completed"
                trial.reason, trial.ended = event.get("reason", ""), event["time"]
            self.losses = []
        elif kind == "lost":
            self.trials[event["trial"]].lost += 1
            self.losses.append(event["trial"])
        elif kind == "resumed":  # somebody looked after the machine: count anew
            self.losses = []
            for trial in self.trials.values():
                trial.lost = 0
        elif kind == "failed":
            trial = self.trials[event["trial"]]
            trial.status, trial.reason, trial.ended = "failed", event["reason"], event["time"]
            trial.fault, trial.failed_at = event.get("kind", ""), self.sequence
        elif kind == "winner":
            self.winner = event["trial"]
        elif kind == "tested":
            self.tested = event
        elif kind == "exhausted":
            self.exhausted = True
        elif kind == "finished":
            self.finished = True

    def of_kind(self, kind: str, *statuses: Status) -> list[TrialState]:
        """Trials of a kind, in these states if any are given."""
        return [t for t in self.trials.values() if t.kind == kind and (not statuses or t.status in statuses)]

    def count(self, status: Status) -> int:
        """How many trials and replicates are in a state."""
        return sum(t.status == status for t in self.trials.values())

    def best(self) -> TrialState | None:
        """The search trial that got furthest, among those the one with the best score, the first on a tie."""
        scored = [t for t in self.of_kind("search") if t.results and t.status != "failed"]
        return max(scored, key=lambda t: (t.step, t.score), default=None)
