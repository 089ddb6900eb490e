"""Successive halving as pure decisions over the state of a search: who goes on, who waits, who is stopped.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), and Hyperband (Li et al., JMLR 2018). Of the
n trials that were judged at a rung, about one in η (`reduction_factor`) trains on to the next. A trial that failed on its way
to a rung was judged there too, as the worst; one that failed later leaves its place to the next in line.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from stssl.config import Config
from stssl.errors import ConfigError
from stssl.search.ranking import rank_key
from stssl.search.rungs import Rung, Rungs
from stssl.search.state import TrialState


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
    grace_steps: int = Field(2_000, ge=1, le=10**9)
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

    def next_bracket(self, rungs: Rungs) -> int:
        """The bracket of a new trial: the one that lacks most to its share."""
        lacks = [share * (len(rungs) + 1) - bracket.count for share, bracket in zip(self._shares, rungs, strict=True)]
        return lacks.index(max(lacks))

    def decide(self, rungs: Rungs, trial: TrialState) -> str:
        """Whether a trial goes on after its last result.

        Args:
            rungs: All search trials; of this one, what was known before that result.
            trial: This one, with that result.

        Returns:
            `continue`, `pause`, `stop` or `complete`.
        """
        ladder = rungs.brackets[trial.bracket].rungs
        if trial.step >= ladder[-1].end:
            return "complete"
        if self.config.name == "asha_stopping":
            # at every rung it has passed, at every result: or those who came early would never be measured
            passed = [rung for rung in ladder if rung.end <= trial.step]
            return "continue" if all(self._has_a_place(rungs, trial, rung) for rung in passed) else "stop"
        here = next((rung for rung in ladder if rung.end == trial.step), None)
        if here is None:
            return "continue"
        ahead = here.place_with(trial, rungs.trials)
        inside = trial.id in rungs.trials  # else it lies outside the space, which was changed on the way
        return "continue" if inside and ahead < (here.judged + 1) // self.factor else "pause"

    def promotion(self, rungs: Rungs, more: bool) -> TrialState | None:
        """The paused trial to train on: the best of the highest rung where one is due.

        A rung that nobody can reach any more, since no trial is to come and none below it runs or is due, is closed: of its n
        trials ceil(n/η) train on where otherwise floor(n/η) do. So a search ends with trials of the full length.

        Args:
            rungs: All search trials.
            more: New ones are still to come.
        """
        due: TrialState | None = None
        if self.config.name not in ("asha", "hyperband"):
            return None
        for bracket in rungs:
            running = [trial.step for trial in bracket.running.values()]
            closed = not more
            for rung in bracket.rungs[:-1]:
                closed = closed and not any(step < rung.end for step in running)
                places = math.ceil(rung.judged / self.factor) if closed else rung.judged // self.factor
                waiting = rungs.best(rung, places)
                if waiting is not None:
                    closed = False  # it will reach the rungs above
                    if due is None or rung.end >= due.step:
                        due = waiting
        return due

    def unpromotable(self, rungs: Rungs, planned: int) -> list[TrialState]:
        """Paused trials that will hardly be promoted any more: at least as many others are ahead as places can open.

        They can be all the same, when some of those ahead fail; without weights they are then trained from the start. Each
        is named once.

        Args:
            rungs: All search trials.
            planned: How many there are to be.
        """
        found: list[TrialState] = []
        for bracket, share in zip(rungs, self._shares, strict=True):
            most = max(math.ceil(planned * share), bracket.count)  # that may come to this rung
            for rung in bracket.rungs[:-1]:
                places = math.ceil(most / self.factor)
                found += rungs.beyond_places(rung, places)
                most = max(places, rung.beyond)
        return found

    def remaining_steps(self, rungs: Rungs, new: int) -> float:
        """Steps that trials will take from now on, if at each rung one in η goes on.

        Args:
            rungs: All search trials.
            new: How many are still to come.
        """
        left = 0.0
        for bracket, share in zip(rungs, self._shares, strict=True):
            expected = bracket.count + new * share
            steps = [trial.step for trial in bracket.running.values()]
            for rung in bracket.rungs:
                start, end = rung.start, rung.end
                running = sum(end - max(start, step) for step in steps if start <= step < end)
                left += max(running, expected * (end - start) - rung.done)
                expected = max(expected / self.factor, rung.beyond)
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

    def _has_a_place(self, rungs: Rungs, trial: TrialState, rung: Rung) -> bool:
        """Whether a trial is among the best ceil(n/η) of a rung; equals that were stopped leave it their places."""
        if trial.id not in rungs.trials:
            return False
        new = rung.end == trial.step
        place = (rank_key(trial, rung.end), trial.id)
        ahead = rung.place_with(trial, rungs.trials) if new else rung.place_of(place, rungs.trials)
        return ahead - rungs.equals_ahead(trial, rung) < math.ceil((rung.judged + new) / self.factor)
