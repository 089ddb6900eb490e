"""Draws around what is believed to be good already (PriorBand: Mallik et al., NeurIPS 2023, arXiv 2306.12370).

The base recipe is what an expert would try: the prior. Early on, draws come from an ensemble of three distributions rather than
from the model: anywhere in the space, around the base recipe, and around the best trial so far, the incumbent. How much
each of the last two gets is decided by how well it would have explained the best trials. As evidence comes in,
the model takes over.

Deviations from the paper: r is how far the search has come, not the rung of a Hyperband bracket; the incumbent is
scored by the same kind of distribution as the prior, as if every key of it were drawn anew; and the ensemble fades, as it
stands beside a model here.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

from stssl.search.parameter import Parameter
from stssl.search.samplers import uniform
from stssl.search.samplers.base import Draw, SamplerConfig
from stssl.search.samplers.evidence import Evidence
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState

_ETA = 3  # the paper's; the search's own reduction factor would let the pace of pruning steer the draws
_SIGMA = 0.25  # of the unit interval, as in the paper
MOST = 333  # of the best trials of a rung count, the best third of a thousand
_MUTATED = 0.5  # chance that a draw around the incumbent changes a key, as in the paper


class Around:
    """Keys drawn near those of a centre, each by itself.

    Numbers have a normal distribution on the unit interval, cut off at its ends. A choice keeps the centre's value half
    of the time and is otherwise any of its values. Keys that the centre has not are drawn from anywhere.
    """

    def __init__(self, space: Space, centre: dict[str, Any]) -> None:
        self.space, self.centre = space, centre

    def draw(self, source: random.Random, mutated: float = 1.0) -> dict[str, Any]:
        """A point; each key of the centre is drawn anew with the chance `mutated`, and kept otherwise."""

        def value_of(key: str, parameter: Parameter) -> Any:
            if key not in self.centre:
                return parameter.draw(source)
            value = self.centre[key]
            if source.random() >= mutated:
                return value
            if parameter.choice is not None:
                return value if source.random() < 0.5 else parameter.draw(source)
            middle, unit = parameter.to_unit(value), -1.0
            while not 0 <= unit <= 1:  # half of the distribution at least lies inside: this ends soon
                unit = source.gauss(middle, _SIGMA)
            return parameter.from_unit(unit)

        return self.space.fill(value_of)

    def density(self, point: dict[str, Any]) -> float:
        """How likely a point is, with every key drawn anew, relative to a draw from anywhere."""
        density = 1.0
        for key, value in point.items():
            if key not in self.centre:
                continue
            parameter = self.space.parameters[key]
            if parameter.choice is not None:
                density *= 0.5 + (0.5 * len(parameter.choice) if value == self.centre[key] else 0)
            else:
                middle = parameter.to_unit(self.centre[key])
                z = (parameter.to_unit(value) - middle) / _SIGMA
                inside = _normal((1 - middle) / _SIGMA) - _normal(-middle / _SIGMA)
                density *= math.exp(-(z**2) / 2) / (math.sqrt(2 * math.pi) * _SIGMA * inside)
        return density


def _normal(z: float) -> float:
    """The standard normal distribution function."""
    return (1 + math.erf(z / math.sqrt(2))) / 2


class Ensemble:
    """The three distributions and their weights.

    Args:
        config: How much the prior counts.
        space: The space; its base recipe is the prior's centre.
        ladder: The rungs.

    Raises:
        ConfigError: The base recipe lies outside the space.
    """

    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        self.config, self.space, self.ladder = config, space, ladder
        self.prior = Around(space, space.base_point())
        self.evidence = Evidence(ladder)

    def share(self, state: SearchState) -> float:
        """The chance that a draw comes from here and not from the model: prior·m / (m + n).

        m is `startup_trials`, n the number of trials that reached a rung.
        """
        reached = self.evidence.follow(state).reached
        return self.config.prior_share * self.config.startup_trials / (self.config.startup_trials + reached)

    def weights(self, state: SearchState) -> dict[str, float]:
        """The chances of `uniform`, `prior` and `incumbent`; they sum to 1.

        Anywhere gets 1 / (1 + η^r), r the index of the highest rung that was reached. The rest
        is divided in proportion to the densities of the best trials at the highest rung with η results, weighted n for
        the best to 1 for the last of n; without such a rung the prior has it all.
        """
        evidence = self.evidence.follow(state)
        results = {rung: evidence.standing(rung) for rung in self.ladder}
        reached = max((i for i, rung in enumerate(self.ladder) if results[rung]), default=0)
        anywhere = 1 / (1 + _ETA**reached)
        best, known = evidence.best(), [rung for rung in self.ladder if results[rung] >= _ETA]
        if best is None or not known:
            return {"uniform": anywhere, "prior": 1 - anywhere, "incumbent": 0.0}
        # the best 1/η of a rung, η of them at least
        count = min(max(_ETA, math.ceil(results[known[-1]] / _ETA)), MOST)
        top = list(itertools.islice(evidence.order(known[-1]), count))
        prior = _weighted(self.prior, top)
        incumbent = _weighted(Around(self.space, best.params), top)
        return {
            "uniform": anywhere,
            "prior": (1 - anywhere) * prior / (prior + incumbent),
            "incumbent": (1 - anywhere) * incumbent / (prior + incumbent),
        }

    def draw(self, state: SearchState, source: random.Random) -> Draw:
        """A point from one of the three."""
        weights = self.weights(state)
        chosen = source.choices(list(weights), list(weights.values()))[0]
        if chosen == "uniform":
            return uniform.draw(self.space, source)
        if chosen == "prior":
            return Draw(self.prior.draw(source), {"sampler": "prior"})
        best = self.evidence.best()
        assert best is not None  # else its weight is 0
        return Draw(Around(self.space, best.params).draw(source, _MUTATED), {"sampler": "incumbent"})


def _weighted(distribution: Around, top: list[TrialState]) -> float:
    return sum((len(top) - rank) * distribution.density(trial.params) for rank, trial in enumerate(top))
