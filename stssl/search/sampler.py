"""Optuna by ask and tell, rebuilt from the search's state whenever a driver starts."""

from __future__ import annotations

import random
import warnings
from typing import Any, Literal

import optuna
from optuna.trial import TrialState as OptunaState
from pydantic import Field

from stssl.config import Config
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)


class SamplerConfig(Config):
    """Where the next recipe comes from.

    `tpe` is Optuna's multivariate tree-structured Parzen estimator; the first `startup_trials` are drawn at random.
    """

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    seed: int = Field(0, ge=0)


class Sampler:
    """Draws points of a space, given all that the search has seen.

    Args:
        config: Which sampler.
        space: The space.
        state: The search so far; its trials are told as what they are (running, pruned, complete, failed).
    """

    def __init__(self, config: SamplerConfig, space: Space, state: SearchState) -> None:
        self.config, self.space = config, space
        self._trials: dict[str, optuna.Trial] = {}
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        for trial in state.of_kind("search"):
            self.add(trial.id, trial.params)
            for step, score in trial.scores.items():
                self.report(trial.id, step, score)
            if trial.status != "running":
                self.end(trial)

    def draw(self, seen: list[dict[str, Any]], attempts: int = 20) -> dict[str, Any] | None:
        """A new point.

        Args:
            seen: All earlier points.
            attempts: How many draws may repeat an earlier point before one is looked for among those not yet tried.

        Returns:
            Dotted key to value, or None when the space is used up.
        """
        for attempt in range(attempts):
            # Optuna repeats itself when a study is rebuilt with the same seed, so the seed moves with the trials.
            seed = (self.config.seed * 1_000_003 + len(seen) * 101 + attempt) % 2**32
            self._study.sampler = self._make_sampler(seed)
            trial = self._study.ask()
            values = self.space.suggest(trial)
            # A draw is only a proposal: the trial that comes of it enters by `add`, just as it does after a restart.
            self._study.tell(trial, state=OptunaState.FAIL)
            if values not in seen:
                return values
        return self.space.unseen(seen, random.Random(seed))

    def _make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.config.name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group: conditional keys
            return optuna.samplers.TPESampler(
                n_startup_trials=self.config.startup_trials,
                group=True,
                multivariate=True,
                constant_liar=True,
                seed=seed,
            )

    def add(self, name: str, values: dict[str, Any]) -> None:
        """A trial with these values is running."""
        self._study.sampler = optuna.samplers.RandomSampler(seed=0)  # the values are given: no model is needed
        self._study.enqueue_trial(values)
        trial = self._study.ask()
        self.space.suggest(trial)
        self._trials[name] = trial

    def report(self, name: str, step: int, score: float) -> None:
        """A running trial has a score at a step."""
        self._trials[name].report(score, step)

    def end(self, trial: TrialState) -> None:
        """A trial ended: completed, stopped (told as pruned at its last step) or failed."""
        handle = self._trials.pop(trial.id)
        if trial.status == "completed":
            self._study.tell(handle, trial.score)
        else:
            state = OptunaState.PRUNED if trial.status == "stopped" else OptunaState.FAIL
            self._study.tell(handle, state=state)
