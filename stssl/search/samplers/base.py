"""What all samplers share: their configuration, what they answer, how they are asked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from stssl.config import Config
from stssl.search.samplers.evidence import Evidence
from stssl.search.state import SearchState

if TYPE_CHECKING:
    from stssl.search.space import Space


class SamplerConfig(Config):
    """Where the next recipe comes from.

    Attributes:
        name: `tpe`, Optuna's multivariate tree-structured Parzen estimator; `gp`, its Gaussian process, for few and costly
            trials; `cmaes`, an evolution strategy over the numeric keys, for many trials; `qmc`, a scrambled Sobol sequence;
            `random`; or `grid`, all combinations in order.
        startup_trials: So many trials are drawn at random before `tpe` or `gp` trusts its model. Where `prior` counts,
            the weight of the base recipe halves with so many trials.
        seed: Another seed, other draws.
        prior: How often, at first, a draw looks around the base recipe and the best trial so far rather than where the
            sampler says: 0 is never, 1 is always. It fades as trials report. By default 0.5 for `tpe`, `gp` and `cmaes`, and 0
            for the others; `grid` has no use for it.
    """

    name: Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"] = "tpe"
    startup_trials: int = Field(10, ge=1, le=100_000)
    seed: int = Field(0, ge=0, lt=2**31)
    prior: float | None = Field(None, ge=0, le=1)

    @property
    def prior_share(self) -> float:
        """`prior`, or what it is by default."""
        return self.prior if self.prior is not None else 0.5 if self.name in ("tpe", "gp", "cmaes") else 0.0


class Draw(NamedTuple):
    """A point to try.

    Attributes:
        params: Dotted key to value.
        by: How it came about, plain data for the ledger: the sampler's name and whatever it wants to find there again.
    """

    params: dict[str, Any]
    by: dict[str, Any]


class Model:
    """A sampler by itself: it proposes, and `Sampler` refuses what was tried already or is no recipe.

    Args:
        config: Its settings.
        space: The space.
        ladder: The training lengths at which trials are compared.

    Raises:
        ConfigError: It cannot work on this space.
    """

    attempts: int | None = 20  # so many proposals may be refused; None: they come to an end, and the space is used up

    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        self.config, self.space, self.ladder = config, space, ladder
        self.evidence = Evidence(ladder)

    def proposals(self, state: SearchState, source: random.Random) -> Iterator[Draw]:
        """Points to try next, the best one first; the next one is asked for when that one was refused.

        Args:
            state: All that is known.
            source: All chance comes from here.
        """
        raise NotImplementedError
