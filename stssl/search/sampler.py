"""The next recipe: a pure function of the configuration, the space and what the ledger says."""

from __future__ import annotations

import itertools
import random

from stssl.search.samplers.base import Draw, Model, SamplerConfig
from stssl.search.samplers.evolution import Evolution
from stssl.search.samplers.grid import Grid
from stssl.search.samplers.optuna_model import GP, TPE
from stssl.search.samplers.prior import Ensemble
from stssl.search.samplers.sobol import Sobol
from stssl.search.samplers.uniform import Uniform
from stssl.search.space import Space
from stssl.search.state import SearchState

__all__ = ["Draw", "Sampler", "SamplerConfig"]

MODELS: dict[str, type[Model]] = {
    "tpe": TPE, "gp": GP, "cmaes": Evolution, "qmc": Sobol, "random": Uniform, "grid": Grid,
}  # fmt: skip


class Sampler:
    """Draws points of a space, and remembers nothing: the same ledger gives the same draw.

    Args:
        config: Which sampler.
        space: The space.
        ladder: The training lengths at which trials are compared, shortest first.

    Raises:
        ConfigError: The sampler cannot work on this space, or the base recipe lies outside it and `prior` counts.
    """

    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        self.config, self.space = config, space
        self._model = MODELS[config.name](config, space, ladder)
        self._prior = Ensemble(config, space, ladder) if config.prior_share > 0 and config.name != "grid" else None
        if self._prior:
            self._prior.evidence = self._model.evidence

    def draw(self, state: SearchState) -> Draw | None:
        """A point that no search trial of the state has, and that is a recipe; None when the space is used up."""
        tried = self._model.evidence.follow(state)
        # Optuna repeats itself when a study is rebuilt with the same seed, so the seed moves with the trials.
        source = random.Random(f"{self.config.seed}/{len(tried)}")
        share = self._prior.share(state) if self._prior else 0.0
        proposals = self._model.proposals(state, source)
        for _ in itertools.count() if self._model.attempts is None else range(self._model.attempts):
            if self._prior and source.random() < share:
                draw: Draw | None = self._prior.draw(state, source)
            else:
                draw = next(proposals, None)
            if draw is None:
                return None
            if draw.params not in tried and self.space.fault(draw.params) is None:
                return draw
        point = self.space.unseen(tried, source)
        return None if point is None else Draw(point, {"sampler": "unseen"})
