"""The search itself, without Ray: what to run next, what to do after a result. A state machine over the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stssl.errors import RunError
from stssl.search import replicate
from stssl.search.asha import Scheduler
from stssl.search.config import SearchConfig
from stssl.search.events import CONCLUSIONS, LARGEST, Event
from stssl.search.ledger import Ledger
from stssl.search.objectives import Objectives
from stssl.search.proposals import Proposals
from stssl.search.rungs import Rungs
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState
from stssl.training.recipe import Recipe

NODES_IN_A_ROW = 8  # of one trial and without a result in between
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

    Attributes:
        stopping: Nothing more is handed out: what runs goes on to its next result, and no further.
    """

    def __init__(self, config: SearchConfig, space: Space, ledger: Ledger) -> None:
        self.config, self.space, self.ledger = config, space, ledger
        self.state = SearchState.replay(ledger.events)
        self.ladder = config.ladder
        self.scheduler = Scheduler(config.scheduler, self.ladder)
        self.proposals = Proposals(config, space)
        self._rungs = Rungs(self.scheduler.brackets, lambda trial: self.proposals.holds(trial, self.state))
        self._told, self._chosen_at, self._chosen = 0, -1, list[TrialState]()
        self._paused_told = False
        self.objectives = Objectives(config.metric, config.second_metric)
        self.stopping = False
        self._unfinished = self._running()

    @property
    def rungs(self) -> Rungs:
        """The search trials that are judged: those in the space, which may have been changed on the way."""
        return self._rungs.follow(self.state)

    def _running(self) -> list[TrialState]:
        return [*self.state.of_kind("search", "running"), *self.state.of_kind("replicate", "running")]

    def record(self, event: str, **fields: Any) -> Event:
        """Write an event to the ledger and take it into the state.

        Raises:
            RunError: The event would end a search in which work is left.
        """
        if event in CONCLUSIONS and self.work_left():
            raise RunError(
                f"'{event}' is not recorded while trials are left to run; go on with: python launch.py resume {self.ledger.run}"
            )
        entry = self.ledger.append(event, **fields)
        self.state.apply(entry)
        return entry

    def begin(self) -> None:
        """Put on record that a driver has begun; trials that the machine failed are tried again.

        Not once a winner is on record: the test split may have been read.
        """
        if not self.state.started:
            self.record("started")
        else:
            failed = [*self.state.of_kind("search", "failed"), *self.state.of_kind("replicate", "failed")]
            again = [t.id for t in failed if t.fault == "infrastructure" and self.state.winner is None]
            self.record("resumed", retried=again)
        self._unfinished = self._running()

    def work_left(self) -> bool:
        """Whether anything runs or is left to run."""
        if self.state.count("running") or self._searching():
            return True
        return self._to_drop() is not None or bool(self._replicates_left())

    def next(self) -> Job | Next:
        """What to run now: what an interruption left unfinished, then promotions, then new trials, then replicates."""
        if self.stopping:
            return Next.DONE
        while self._unfinished:
            trial = self._unfinished.pop(0)
            if trial.status == "running":  # else a worker that outlived its driver has finished it
                return Job(trial.id, trial.recipe, trial.step)
        promoted = self.scheduler.promotion(self.rungs, more=bool(self.new_trials()))
        if promoted is not None:
            self.record("promoted", trial=promoted.id)
            return Job(promoted.id, promoted.recipe, promoted.step)
        if self.new_trials():
            job = self._new_trial()
            # with the last new trial a rung may be closed, and somebody on it be due
            return job if job is not None else self.next()
        if self.state.count("running", "search"):
            return Next.WAIT
        return self._new_replicate()

    def new_trials(self) -> int:
        """How many search trials are still to be created; none once the budget is spent."""
        if self.state.exhausted or self.spent() >= 3600 * (self.config.budget_hours or math.inf):
            return 0
        return max(0, self.config.trials - len(self.state.of_kind("search")))

    def spent(self) -> float:
        """What all search trials have cost so far: GPU seconds, or seconds of training where trials have no GPU."""
        return self.config.resources.cost(self.state.seconds("search"))

    def _new_trial(self) -> Job | None:
        draw = self.proposals.draw(self.state)
        if draw is None:
            self.record("exhausted")
            return None
        recipe = self.space.recipe(draw.params).dump()
        name = f"t{self.ledger.order.last_number + 1:04d}"
        bracket = self.scheduler.next_bracket(self.rungs)
        more = {"bracket": bracket} if bracket else {}
        self.record("created", trial=name, kind="search", params=draw.params, recipe=recipe, by=draw.by, **more)
        return Job(name, recipe, 0)

    def _new_replicate(self) -> Job | Next:
        while (drop := self._to_drop()) is not None:
            self.record("dropped", **drop)
        for trial, number in self._replicates_left():
            recipe = Recipe.model_validate(trial.recipe).replicate(number).dump()
            name = replicate.name(trial, number)
            self.record("created", trial=name, kind="replicate", of=trial.id, params=trial.params, recipe=recipe)
            return Job(name, recipe, 0)
        return Next.WAIT if self.state.count("running", "replicate") else Next.DONE

    def chosen(self) -> list[TrialState]:
        """The recipes that are replicated."""
        if self._chosen_at != self.state.index.searched:  # no search trial has changed since
            self._chosen = replicate.candidates(self.state, self.config.replicates.top, self.rungs.trials)
            self._chosen_at = self.state.index.searched
        return self._chosen

    def _to_drop(self) -> dict[str, Any] | None:
        config = self.config.replicates
        return replicate.to_drop(self.state, self.chosen(), config.seeds) if config.race else None

    def _replicates_left(self) -> list[tuple[TrialState, int]]:
        return replicate.unfinished(self.state, self.chosen(), self.config.replicates.seeds)

    def disposable_trials(self) -> list[str]:
        """Trials whose checkpoints may be deleted: stopped, failed, or paused without a prospect. Each is named once."""
        new, self._told = self.state.changes[self._told :], len(self.state.changes)
        found = [trial.id for trial in new if trial.status in ("stopped", "failed")]
        if searching := self._searching():
            found += [trial.id for trial in self.scheduler.unpromotable(self.rungs, self.config.trials)]
        elif not self._paused_told:
            found += [trial.id for trial in self.state.of_kind("search", "paused")]
        self._paused_told = not searching
        return list(dict.fromkeys(found))

    def _searching(self) -> bool:
        """Whether search trials are still to be run."""
        if self.new_trials() or self.state.count("running", "search"):
            return True
        return self.scheduler.promotion(self.rungs, more=False) is not None

    def report(self, name: str, step: int, seconds: float, validation: dict[str, Any], train: dict[str, Any]) -> str:
        """Take in a result.

        Args:
            name: The trial.
            step: Finished steps.
            seconds: What this interval took.
            validation: Scores; those of another split as `holdout/accuracy`.
            train: Mean losses.

        Returns:
            `continue`, `pause`, `stop`, `complete` or `failed` (an objective is not a finite number).
        """
        trial = self.state.trials[name]
        if trial.status != "running":
            return "stop"
        if step in trial.scores:
            return "continue"  # told twice: by a worker that outlived its driver
        score, second, fault = self.objectives.scores(validation)
        if fault:
            kind = "silent" if fault.endswith("not reported") else "diverged"
            return self.fail(name, kind, f"{fault} at step {step}")
        finite = {k: v for k, v in train.items() if abs(v) <= LARGEST}
        scores = {k: v for k, v in validation.items() if abs(v) <= LARGEST}
        result: Event = {
            "trial": name, "step": step, "score": score, **({} if second is None else {"second": second}),
            "seconds": round(seconds, 4), "validation": scores, "train": finite,
        }  # fmt: skip
        decision, reason = self._decide(trial, result)
        self.record("result", **result, decision=decision, **({"reason": reason} if reason else {}))
        return decision

    def _decide(self, trial: TrialState, result: Event) -> tuple[str, str]:
        """What becomes of a trial with this result, and why."""
        step = result["step"]
        if trial.kind == "replicate":
            of = self.state.trials.get(str(trial.of))
            if step >= self.ladder[-1]:
                return "complete", ""
            return ("stop", f"{of.id} is given up") if of is not None and of.dropped else ("continue", "")
        decision = self.scheduler.decide(self.rungs, trial.after(result, self.state.sequence + 1))
        share = f"the best 1/{self.config.scheduler.reduction_factor}"
        return decision, f"not among {share} at step {step}" if decision in ("pause", "stop") else ""

    def fail(self, name: str, kind: str, reason: str) -> str:
        """A trial failed by its own fault; one that raised or hung is tried again, `resources.code_retries` times.

        Args:
            name: The trial.
            kind: `diverged`, `raised`, `out_of_memory`, `hung`, `silent` or `infrastructure`.
            reason: One line for people.
        """
        trial = self.state.trials[name]
        if trial.status != "running":
            return "failed"
        if kind in ("raised", "hung") and trial.raised < self.config.resources.code_retries:
            self.record("lost", trial=name, kind=kind, reason=reason)
            self._unfinished.append(trial)
            return "again"
        times = f" (tried {trial.raised + 1} times)" if trial.raised else ""
        self.record("failed", trial=name, kind=kind, reason=f"{kind}: {reason}{times}")
        return "failed"

    def give_back(self, name: str) -> None:
        """A trial goes on elsewhere, from its checkpoint and with nobody at fault: its worker or node is to be taken away."""
        trial = self.state.trials[name]
        if trial.status == "running":
            self._unfinished.append(trial)

    def lost(self, name: str, reason: str, out_of_memory: bool = False, node: bool = False) -> None:
        """A trial's worker, node or disk failed: it is run again from its checkpoint, `resources.retries` times.

        Args:
            name: The trial.
            reason: One line for people.
            out_of_memory: The worker was killed for its memory; the same recipe would be killed again.
            node: The whole node is gone, as spot nodes go. That is no fault of the trial, and not counted as one unless it
                comes NODES_IN_A_ROW times without a result: then the trial may be what brings nodes down.
        """
        trial = self.state.trials[name]
        if trial.status != "running":
            return
        if out_of_memory:
            self.fail(name, "out_of_memory", reason)
            return
        if node and trial.nodes_lost < NODES_IN_A_ROW:
            self.record("lost", trial=name, kind="node", reason=reason)
            self._unfinished.append(trial)
            return
        losses = [*self.state.losses, name]
        if len(losses) >= LOSSES_IN_A_ROW and len(set(losses)) > 1:
            self.record("lost", trial=name, kind="infrastructure", reason=reason)
            raise RunError(
                f"{len(losses)} trials in a row were lost to the machine, the last one ({name}) by: {reason}; "
                f"mend that, then: python launch.py resume {self.ledger.run}"
            )
        if trial.lost >= self.config.resources.retries:
            self.fail(name, "infrastructure", f"{reason} (tried {trial.lost + 1} times)")
        else:
            self.record("lost", trial=name, kind="infrastructure", reason=reason)
            self._unfinished.append(trial)

    def remaining_steps(self) -> float:
        """Training steps still to come, estimated: at each rung one in `reduction_factor` goes on."""
        seeds = self.config.replicates.seeds
        replicates = self.state.of_kind("replicate", "running")
        left = float(sum(self.ladder[-1] - t.step for t in replicates))
        if self._searching():
            to_come = (self.config.replicates.top + 1) * seeds
            left += self.scheduler.remaining_steps(self.rungs, self.new_trials())
        else:
            to_come = len(self._replicates_left())
        return left + to_come * self.ladder[-1]
