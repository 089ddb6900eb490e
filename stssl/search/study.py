"""The search itself, without Ray: what to run next, what to do after a result. A state machine over the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stssl.errors import RunError
from stssl.search import asha, replicate
from stssl.search.config import SearchConfig
from stssl.search.ledger import Event, Ledger
from stssl.search.results import more_is_better
from stssl.search.sampler import Draw, Sampler
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState
from stssl.training.recipe import Recipe

LOSSES_IN_A_ROW = 4  # of more than one trial and without a result in between: not one recipe's fault


class Next(Enum):
    """What `Study.next` says when there is nothing to run."""

    WAIT = "wait"
    DONE = "done"


@dataclass(frozen=True)
class Job:
    """A trial to run, or to go on with.

    Attributes:
        reported: Steps up to this one are in the ledger already.
    """

    trial: str
    recipe: dict[str, Any]
    reported: int


class Study:
    """Decides; others execute.

    A driver asks `next` for jobs and hands every result to `report` or `fail`. Each call that changes anything writes
    one event first, and all decisions follow from the events: the same ledger gives the same decisions.

    Args:
        config: The search.
        space: Its checked space.
        ledger: Open for writing; what it holds already is taken up.
    """

    def __init__(self, config: SearchConfig, space: Space, ledger: Ledger) -> None:
        self.config, self.space, self.ledger = config, space, ledger
        self.state = SearchState.replay(ledger.events)
        training = Recipe.model_validate(config.recipe).training
        self.ladder = asha.rungs(config.scheduler, training.steps, training.eval_interval)
        self.sampler = Sampler(config.sampler, space, self.ladder)
        self.more_is_better = more_is_better(config.metric)
        self._points = [space.base_point(), *(space.point(p, f"points[{i}]") for i, p in enumerate(config.points))]
        self._unfinished = [t for t in self.state.trials.values() if t.status == "running"]

    def record(self, event: str, **fields: Any) -> Event:
        """Write an event to the ledger and take it into the state."""
        entry = self.ledger.append(event, **fields)
        self.state.apply(entry)
        return entry

    def work_left(self) -> bool:
        """Whether anything is left to run."""
        if self._new_trials() or any(t.status == "running" for t in self._unfinished):
            return True
        wanted = len(self._chosen()) * self.config.replicates.seeds
        return len(self.state.of_kind("replicate")) < wanted

    def next(self) -> Job | Next:
        """What to run now: first what an interruption left unfinished, then new trials, then replicates."""
        while self._unfinished:
            trial = self._unfinished.pop(0)
            if trial.status == "running":  # else a worker that outlived its driver has finished it
                return Job(trial.id, trial.recipe, trial.step)
        if self._new_trials():
            job = self._new_trial()
            if job is not None:
                return job
        if self.state.of_kind("search", "running"):
            return Next.WAIT
        return self._new_replicate()

    def _new_trials(self) -> int:
        """How many search trials are still to be created."""
        return 0 if self.state.exhausted else max(0, self.config.trials - len(self.state.of_kind("search")))

    def _new_trial(self) -> Job | None:
        trials = self.state.of_kind("search")
        seen = [t.params for t in trials]
        # a misfit among the first points is skipped, not tried
        points = (p for p in self._points if p not in seen and self.space.fault(p) is None)
        point = next(points, None)
        draw = self.sampler.draw(self.state) if point is None else Draw(point, {"sampler": "point"})
        if draw is None:
            self.record("exhausted")
            return None
        name = f"t{max((int(t.id[1:]) for t in trials), default=0) + 1:04d}"
        recipe = self.space.recipe(draw.params).dump()
        self.record("created", trial=name, kind="search", params=draw.params, recipe=recipe, by=draw.by)
        return Job(name, recipe, 0)

    def _new_replicate(self) -> Job | Next:
        existing = {t.id for t in self.state.of_kind("replicate")}
        for trial in self._chosen():
            for number in range(1, self.config.replicates.seeds + 1):
                name = f"{trial.id}-r{number}"
                if name not in existing:
                    recipe = Recipe.model_validate(trial.recipe).replicate(number).dump()
                    self.record(
                        "created", trial=name, kind="replicate", of=trial.id, params=trial.params, recipe=recipe
                    )
                    return Job(name, recipe, 0)
        return Next.WAIT if self.state.of_kind("replicate", "running") else Next.DONE

    def _chosen(self) -> list[TrialState]:
        return replicate.candidates(self.state, self.config.replicates.top)

    def report(self, name: str, step: int, seconds: float, validation: dict[str, Any], train: dict[str, Any]) -> str:
        """Take in a result.

        Args:
            name: The trial.
            step: Finished steps.
            seconds: What this interval took.
            validation: Scores.
            train: Mean losses.

        Returns:
            `continue`, `stop`, `complete` or `failed` (the metric is not a finite number).
        """
        trial = self.state.trials[name]
        if trial.status != "running":
            return "stop"
        if step in trial.scores:
            return "continue"  # told twice: by a worker that outlived its driver
        value = validation.get(self.config.metric)
        if value is None or not math.isfinite(value):
            return self.fail(name, "diverged", f"{self.config.metric} is {value} at step {step}")
        score = value if self.more_is_better else -value
        decision, reason = "complete" if step >= self.ladder[-1] else "continue", ""
        if trial.kind == "search":
            decision = asha.decide(self.state, name, step, score, self.config.scheduler, self.ladder)
            reason = f"not among the best 1/{self.config.scheduler.reduction_factor} at step {step}"
        finite = {k: v for k, v in train.items() if math.isfinite(v)}
        scores = {k: v for k, v in validation.items() if math.isfinite(v)}
        self.record(
            "result", trial=name, step=step, score=score, decision=decision, seconds=round(seconds, 4),
            validation=scores, train=finite, **({"reason": reason} if decision == "stop" else {}),
        )  # fmt: skip
        return decision

    def fail(self, name: str, kind: str, reason: str) -> str:
        """A trial failed.

        Args:
            name: The trial.
            kind: `diverged`, `raised`, `out_of_memory` or `infrastructure`.
            reason: One line for people.
        """
        trial = self.state.trials[name]
        if trial.status == "running":
            self.record("failed", trial=name, kind=kind, reason=f"{kind}: {reason}")
        return "failed"

    def lost(self, name: str, reason: str, out_of_memory: bool) -> None:
        """A trial's worker, node or disk failed: it is run again from its checkpoint, `resources.retries` times.

        Args:
            name: The trial.
            reason: One line for people.
            out_of_memory: The worker was killed for its memory; the same recipe would be killed again.
        """
        trial = self.state.trials[name]
        if trial.status != "running":
            return
        if out_of_memory:
            self.fail(name, "out_of_memory", reason)
            return
        losses = [*self.state.losses, name]
        if len(losses) >= LOSSES_IN_A_ROW and len(set(losses)) > 1:
            self.record("lost", trial=name, reason=reason)
            raise RunError(
                f"{len(losses)} trials in a row were lost to the machine, the last one ({name}) by: {reason}; "
                f"mend that, then: python launch.py resume {self.ledger.path.parent}"
            )
        if trial.lost >= self.config.resources.retries:
            self.fail(name, "infrastructure", f"{reason} (tried {trial.lost + 1} times)")
        else:
            self.record("lost", trial=name, reason=reason)
            self._unfinished.append(trial)

    def remaining_steps(self) -> float:
        """Training steps still to come, estimated: trials to come cost what ended trials did on average."""
        full = self.ladder[-1]
        searched = self.state.of_kind("search", "stopped", "completed")
        mean = sum(t.step for t in searched) / len(searched) if searched else self.ladder[0] * 2
        # a trial that runs is asked for the mean, or for the next rung when it is past it
        running = sum(
            (max(mean, next(r for r in self.ladder if r > t.step)) if t.kind == "search" else full) - t.step
            for t in self.state.trials.values()
            if t.status == "running"
        )
        new = self._new_trials()
        searching = new or self.state.of_kind("search", "running")
        recipes = self.config.replicates.top if searching else len(self._chosen())
        replicates = recipes * self.config.replicates.seeds - len(self.state.of_kind("replicate"))
        return running + new * mean + max(0, replicates) * full
