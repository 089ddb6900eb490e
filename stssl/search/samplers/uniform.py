"""Random search."""

from __future__ import annotations

import random
from collections.abc import Iterator

from stssl.search.samplers.base import Draw, Model
from stssl.search.space import Space
from stssl.search.state import SearchState


def draw(space: Space, source: random.Random) -> Draw:
    """A point from anywhere in the space."""
    return Draw(space.fill(lambda key, parameter: parameter.draw(source)), {"sampler": "uniform"})


class Uniform(Model):
    """Every draw by itself, whatever came of the others."""

    def proposals(self, state: SearchState, source: random.Random) -> Iterator[Draw]:
        while True:
            yield draw(self.space, source)
