"""CMA-ES, its generations read from the ledger (Hansen 2016, arXiv 1604.00772; with margin: Hamano et al., GECCO 2022)."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.search.samplers.base import Draw, Model, SamplerConfig
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState

if TYPE_CHECKING:
    from cmaes import CMAwM

_SIGMA = 0.3  # of the unit cube: the optimum is expected within a few of these (Hansen 2016, appendix C.1)


class Evolution(Model):
    """A normal distribution over the numeric keys that always exist, moved by one generation after the other.

    Integers and stepped ranges keep a margin of probability on both sides, or a step that fell below one level could
    never be taken again. Choices and conditional keys are drawn from anywhere. The distribution begins around the base
    recipe, or with `prior: 0` in the middle of the space.

    Trials come back when they will, so a generation is no batch: draws go on from the distribution of generation g
    until so many of its trials reached the first rung, or failed, as the population has members. Those are ranked by what
    was known at that moment: the longest rung first, then the score there, failures last. Later trials of that
    generation no longer count.

    Raises:
        ConfigError: No numeric key exists in all recipes.
    """

    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        super().__init__(config, space, ladder)
        levels = {k: p.levels() for k, p in space.parameters.items() if p.choice is None and not p.when}
        sizes = {key: 0 if values is None else len(values) for key, values in levels.items()}
        self._keys = [key for key, size in sizes.items() if size != 1]
        if not self._keys:
            raise ConfigError(
                f"{space.source}: sampler.name cmaes: space has no range (uniform, loguniform, int) without `when`, and an "
                "evolution strategy moves in nothing else; add one, or choose another sampler, such as tpe"
            )
        self._steps = np.array([1 / sizes[key] if sizes[key] else 0.0 for key in self._keys])
        self._bounds = np.stack([self._steps / 2, 1 - self._steps / 2], axis=1)  # the first and last bin's middle
        # where another space has other ranges, its generations mean other points
        self._ranges = cfg.digest({key: space.parameters[key].model_dump(mode="json") for key in self._keys})
        self._mean = np.full(len(self._keys), 0.5)
        self._state: SearchState | None = None  # whose generations were told so far
        self._generations: dict[int, list[str]] = {}
        if config.prior_share > 0:
            base = space.base_point()
            self._mean = np.array([space.parameters[key].to_unit(base[key]) for key in self._keys])

    def proposals(self, state: SearchState, source: random.Random) -> Iterator[Draw]:
        evolution = copy.deepcopy(self._replay(state))  # a draw leaves nothing behind
        evolution.reseed_rng(source.randrange(2**32))
        while True:
            values, x = evolution.ask()
            units = dict(zip(self._keys, values.tolist(), strict=True))
            params = self.space.fill(
                lambda key, parameter, at=units: parameter.from_unit(at[key]) if key in at else parameter.draw(source)  # type: ignore[misc]
            )
            # x, and not the values: the distribution moves by where it drew, before that was rounded to a level
            by = {"sampler": "cmaes", "ranges": self._ranges, "generation": evolution.generation}
            yield Draw(params, {**by, "x": x.round(6).tolist()})

    def _replay(self, state: SearchState) -> CMAwM:
        """The distribution after all closed generations, of which none is told twice."""
        if state is not self._state:
            self._state, self._evolution, self._read, self._generations = state, self._start(self._mean), 0, {}
        evolution, trials = self._evolution, state.of_kind("search")
        for trial in trials[self._read :]:
            if trial.by.get("sampler") == "cmaes" and trial.by["ranges"] == self._ranges:
                self._generations.setdefault(trial.by["generation"], []).append(trial.id)
        self._read = len(trials)
        while ranked := self._ranked(
            [state.trials[name] for name in self._generations.get(evolution.generation, [])], evolution.population_size
        ):
            evolution.tell([(np.array(trial.by["x"]), float(rank)) for rank, trial in enumerate(ranked)])
        return evolution

    def _start(self, mean: np.ndarray) -> CMAwM:
        from cmaes import CMAwM  # brings scipy.stats, which takes half a second

        return CMAwM(np.clip(mean, *self._bounds.T), _SIGMA, self._bounds, self._steps, seed=0)

    def _ranked(self, trials: list[TrialState], size: int) -> list[TrialState]:
        """A generation, best first; empty while it is open."""
        judged = sorted((moment, trial.id) for trial in trials if (moment := self._judged_at(trial)) < math.inf)[:size]
        if len(judged) < size:
            return []
        closed = judged[-1][0]
        members = {trial.id: trial for trial in trials}

        def worth(trial: TrialState) -> tuple[int, float]:
            if _failed_at(trial) <= closed:
                return -1, 0.0
            rung = max(r for r in self.ladder if trial.arrived.get(r, math.inf) <= closed)
            return rung, trial.scores[rung]

        return sorted((members[name] for _, name in judged), key=worth, reverse=True)

    def _judged_at(self, trial: TrialState) -> float:
        return min(trial.arrived.get(self.ladder[0], math.inf), _failed_at(trial))


def _failed_at(trial: TrialState) -> float:
    """When a trial failed by its own fault; the machine's says nothing about it."""
    return math.inf if trial.failed_at is None or trial.fault == "infrastructure" else trial.failed_at
