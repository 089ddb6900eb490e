"""Optuna's models, in a study that is made from the search's state for every draw."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as Told

from stssl.search.samplers.base import Draw, Model, SamplerConfig
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState

# its warnings are for those who call it: of an optional package that would make it faster, of keys drawn independently
optuna.logging.set_verbosity(optuna.logging.ERROR)

_ONCE = datetime(2000, 1, 1)  # Optuna wants times, and does nothing with them


class _Frozen(FrozenTrial):
    """A trial that is made for one study, which may have it: to copy it deeply took most of a draw's time."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Frozen:
        return self


class OptunaModel(Model):
    """A model of Optuna's; which one, and what it is told, is the subclass's business.

    Attributes:
        most: Of how many trials it is told at most, see `Evidence.told`.
    """

    most = 1_000

    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        super().__init__(config, space, ladder)
        self._distributions = {key: parameter.distribution() for key, parameter in space.parameters.items()}

    def told(self, state: SearchState) -> list[FrozenTrial]:
        """All that the model learns from, oldest first."""
        raise NotImplementedError

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """The model before it has learned anything."""
        raise NotImplementedError

    def proposals(self, state: SearchState, source: random.Random) -> Iterator[Draw]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group: conditional keys
            sampler = self.sampler(source.randrange(2**32))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(self.told(state))
        while True:  # what was refused stays there as a running trial: the next proposal keeps away from it
            yield Draw(self.space.suggest(study.ask()), {"sampler": self.config.name})

    def frozen(
        self, trial: TrialState, state: Told, scores: dict[int, float] | None = None, value: float | None = None
    ) -> FrozenTrial:
        """A trial as Optuna knows it."""
        return _Frozen(
            number=-1,  # this and the id are the study's to give
            trial_id=-1,
            state=state,
            value=value,
            datetime_start=_ONCE,
            datetime_complete=_ONCE if state.is_finished() else None,
            params=dict(trial.params),
            distributions={key: self._distributions[key] for key in trial.params},
            user_attrs={},
            system_attrs={},
            intermediate_values=dict(scores or {}),
        )


class TPE(OptunaModel):
    """The multivariate tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011; Falkner et al., ICML 2018).

    Trials that went further rank above those that did not, whatever their scores, and those that failed by their own
    fault below all others; running ones count as bad for the time being, so that several at a time do not all go to
    the same place (the constant liar).
    """

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            n_startup_trials=self.config.startup_trials, group=True, multivariate=True, constant_liar=True, seed=seed
        )

    def told(self, state: SearchState) -> list[FrozenTrial]:
        trials = self.evidence.follow(state).told(self.most)
        return [told for trial in trials if (told := self._tell(trial)) is not None]

    def _tell(self, trial: TrialState) -> FrozenTrial | None:
        if trial.status == "failed":
            return self.frozen(trial, Told.PRUNED)
        if trial.status == "running":
            return self.frozen(trial, Told.RUNNING, trial.scores)
        if trial.status == "completed" and self.ladder[-1] in trial.scores:
            return self.frozen(trial, Told.COMPLETE, trial.scores, trial.scores[self.ladder[-1]])
        # Optuna compares the last steps: a score between two rungs would win against all that stopped at the lower one
        scores = {step: score for step, score in trial.scores.items() if step in self.ladder}
        return self.frozen(trial, Told.PRUNED, scores) if scores else None  # without one it would rank as a failure


class GP(OptunaModel):
    """A Gaussian process with expected improvement over the keys that always exist; conditional ones by TPE, each alone.

    The process knows one training length. It is fitted to the longest one at which there are `startup_trials` scores
    and two for each key that always exists (as in Falkner et al., ICML 2018, section 3.3, with twice the number);
    before that it draws at random. A trial that failed by its own fault counts as the worst score there; one on its
    way there is pending: expected improvement is taken over what it may yet find.
    """

    attempts = 5  # each one is fitted anew
    most = 250  # the time of a fit grows with the cube of their number

    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        super().__init__(config, space, ladder)
        always = sum(not parameter.when for parameter in space.parameters.values())
        self._needed = max(config.startup_trials, 2 * always)

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.GPSampler(
            n_startup_trials=1,  # `told` sees to it that there are enough
            deterministic_objective=False,
            independent_sampler=optuna.samplers.TPESampler(
                n_startup_trials=self.config.startup_trials, multivariate=False, seed=seed
            ),
            warn_independent_sampling=False,
            seed=seed,
        )

    def told(self, state: SearchState) -> list[FrozenTrial]:
        evidence = self.evidence.follow(state)
        rung = max((r for r in self.ladder if evidence.standing(r) >= self._needed), default=None)
        if rung is None:
            return []
        trials = evidence.told(self.most)
        worst = min(t.scores[rung] for t in trials if rung in t.scores)
        told = []
        for trial in trials:
            if trial.status == "failed":
                told.append(self.frozen(trial, Told.COMPLETE, value=worst))
            elif rung in trial.scores:
                told.append(self.frozen(trial, Told.COMPLETE, value=trial.scores[rung]))
            elif trial.status == "running":
                told.append(self.frozen(trial, Told.RUNNING))
        return told
