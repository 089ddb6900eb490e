"""Successive halving as pure decisions over the state of a search: who goes on, who waits, who is stopped.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), and Hyperband (Li et al., JMLR 2018). Of the
n trials that were judged at a rung, about one in η (`reduction_factor`) trains on to the next. A trial that failed on its way
to a rung was judged there too, as the worst; one that failed later leaves its place to the next in line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from stssl.config import Config
from stssl.errors import ConfigError
from stssl.search.state import TrialState, ranked


class SchedulerConfig(Config):
    """Which trials train on, and how far.

    Attributes:
        name: `asha` pauses each trial at each rung and promotes the best, so nobody goes on without evidence.
            `asha_stopping` lets a trial go on until enough others have done better at a rung that it passed.
            `hyperband` is `asha` in several brackets, whose first rung is a later one each. `none` trains all in full.
        grace_steps: The first rung.
        reduction_factor: Each further rung is so many times as long.
    """

    name: Literal["asha", "asha_stopping", "hyperband", "none"] = "asha"
    grace_steps: int = Field(2_000, ge=1)
    reduction_factor: int = Field(3, ge=2, le=16)


def rungs(config: SchedulerConfig, steps: int, eval_interval: int) -> list[int]:
    """Training lengths at which trials are compared; the last one is the full length.

    Args:
        config: The scheduler.
        steps: Full length of a trial.
        eval_interval: Trials report every so many steps, so a rung must be a multiple of it.

    Raises:
        ConfigError: A rung falls between two evaluations, or the first one is not below the full length.
    """
    if config.name == "none":
        return [steps]
    if config.grace_steps >= steps:
        raise ConfigError(
            f"scheduler.grace_steps {config.grace_steps}: must be below recipe.training.steps {steps}, or no trial is ever "
            "stopped; lower it, or set scheduler.name: none"
        )
    lengths, rung = [], config.grace_steps
    while rung < steps:
        lengths.append(rung)
        rung *= config.reduction_factor
    wrong = [length for length in lengths if length % eval_interval]
    if wrong:
        raise ConfigError(
            f"scheduler.grace_steps {config.grace_steps}: the rung at step {wrong[0]} is no multiple of "
            f"recipe.training.eval_interval {eval_interval}; choose a grace_steps that is"
        )
    return [*lengths, steps]


class Scheduler:
    """The decisions of one search.

    Args:
        config: Which rule.
        ladder: The rungs.
    """

    def __init__(self, config: SchedulerConfig, ladder: list[int]) -> None:
        self.config, self.ladder, self.factor = config, ladder, config.reduction_factor
        halvings = range(len(ladder) - 1, -1, -1) if config.name == "hyperband" else [len(ladder) - 1]
        # Hyperband's bracket with s halvings holds (s_max + 1) / (s + 1) η^s trials (its algorithm 1, line 3)
        weights = [self.factor**s / (s + 1) for s in halvings]
        self._shares = [weight / sum(weights) for weight in weights]

    @property
    def brackets(self) -> list[list[int]]:
        """The rungs of each bracket, the full length included."""
        return [self.ladder[b:] for b in range(len(self._shares))]

    def next_bracket(self, trials: list[TrialState]) -> int:
        """The bracket of a new trial: the one that lacks most to its share."""
        lacks = [share * (len(trials) + 1) for share in self._shares]
        for trial in trials:
            lacks[trial.bracket] -= 1
        return lacks.index(max(lacks))

    def decide(self, trials: list[TrialState], trial: TrialState) -> str:
        """Whether a trial goes on after its last result.

        Args:
            trials: All search trials, this one with that result.
            trial: This one.

        Returns:
            `continue`, `pause`, `stop` or `complete`.
        """
        rungs = self.brackets[trial.bracket]
        mine = [t for t in trials if t.bracket == trial.bracket]
        if trial.step >= rungs[-1]:
            return "complete"
        if self.config.name == "asha_stopping":
            # at every rung it has passed, at every result: or those who came early would never be measured
            passed = [rung for rung in rungs if rung <= trial.step]
            return "continue" if all(self._has_a_place(mine, trial, rungs, rung) for rung in passed) else "stop"
        if trial.step not in rungs:
            return "continue"
        return "continue" if trial in self._best(mine, rungs, trial.step, math.floor) else "pause"

    def promotion(self, trials: list[TrialState], more: bool) -> TrialState | None:
        """The paused trial to train on: the best of the highest rung where one is due.

        A rung that nobody can reach any more, since no trial is to come and none below it runs or is due, is closed: of its n
        trials ceil(n/η) train on where otherwise floor(n/η) do. So a search ends with trials of the full length.

        Args:
            trials: All search trials.
            more: New ones are still to come.
        """
        due: TrialState | None = None
        if self.config.name not in ("asha", "hyperband"):
            return None
        for bracket, rungs in enumerate(self.brackets):
            mine = [t for t in trials if t.bracket == bracket]
            running = [t.step for t in mine if t.status == "running"]
            closed = not more
            for rung in rungs[:-1]:
                closed = closed and not any(step < rung for step in running)
                best = self._best(mine, rungs, rung, math.ceil if closed else math.floor)
                waiting = next((t for t in best if t.status == "paused" and t.step == rung), None)
                if waiting is not None:
                    closed = False  # it will reach the rungs above
                    if due is None or rung >= due.step:
                        due = waiting
        return due

    def hopeless(self, trials: list[TrialState], planned: int) -> list[TrialState]:
        """Paused trials that will hardly be promoted: at least as many others are ahead as places can open.

        They can be all the same, when some of those ahead fail; without weights they are then trained from the start.

        Args:
            trials: All search trials.
            planned: How many there are to be.
        """
        found: list[TrialState] = []
        for bracket, rungs in enumerate(self.brackets):
            mine = [t for t in trials if t.bracket == bracket]
            most = max(math.ceil(planned * self._shares[bracket]), len(mine))  # that may come to this rung
            for rung in rungs[:-1]:
                places = math.ceil(most / self.factor)
                order = ranked((t for t in mine if rung in t.scores and t.status != "failed"), rung)
                found += [t for t in order[places:] if t.status == "paused" and t.step == rung]
                most = max(places, sum(t.step > rung for t in mine))
        return found

    def remaining_steps(self, trials: list[TrialState], new: int) -> float:
        """Steps that trials will take from now on, if at each rung one in η goes on.

        Args:
            trials: All search trials.
            new: How many are still to come.
        """
        left = 0.0
        for bracket, rungs in enumerate(self.brackets):
            mine = [t for t in trials if t.bracket == bracket]
            expected = len(mine) + new * self._shares[bracket]
            for start, end in zip([0, *rungs], rungs, strict=False):
                done = sum(min(max(0, t.step - start), end - start) for t in mine if t.status != "failed")
                done += sum((end - start) * (t.step >= start) for t in mine if t.status == "failed")
                running = sum(end - max(start, t.step) for t in mine if t.status == "running" and start <= t.step < end)
                left += max(running, expected * (end - start) - done)
                expected = max(expected / self.factor, sum(t.step > end for t in mine))
        return left

    def most_kept(self, trials: int) -> int:
        """Of how many trials weights are kept in the end: of those that go on from each rung, and the last ones."""
        if self.config.name == "none":
            return trials
        kept = 0
        for share, rungs in zip(self._shares, self.brackets, strict=True):
            here = math.ceil(trials * share)
            kept += here if len(rungs) == 1 else 0
            for _ in rungs[:-1]:
                here = math.ceil(here / self.factor)
                kept += here
        return kept

    def _has_a_place(self, trials: list[TrialState], trial: TrialState, rungs: list[int], rung: int) -> bool:
        """Whether a trial is among the best ceil(n/η) of a rung; equals that were stopped leave it their places."""
        order, count = self._judged(trials, rungs, rung)
        own = (trial.scores[rung], trial.second.get(rung))
        order = [t for t in order if t.status != "stopped" or (t.scores[rung], t.second.get(rung)) != own]
        return trial in order[: math.ceil(count / self.factor)]

    def _best(
        self, trials: list[TrialState], rungs: list[int], rung: int, rounding: Callable[[float], int]
    ) -> list[TrialState]:
        """Those of the trials judged at a rung that train on, best first."""
        order, count = self._judged(trials, rungs, rung)
        return order[: rounding(count / self.factor)]

    def _judged(self, trials: list[TrialState], rungs: list[int], rung: int) -> tuple[list[TrialState], int]:
        """The trials that may have a place at a rung, best first, and how many were judged there."""
        below = max((r for r in rungs if r < rung), default=0)
        scored = [t for t in trials if rung in t.scores]
        failed = sum(t.status == "failed" and t.fault != "infrastructure" and below <= t.step < rung for t in trials)
        return ranked((t for t in scored if t.status != "failed"), rung), len(scored) + failed
