"""All combinations, in order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from stssl.errors import ConfigError
from stssl.search.samplers.base import Draw, Model, SamplerConfig
from stssl.search.space import Space
from stssl.search.state import SearchState


class Grid(Model):
    """Every combination of values once; the last key changes fastest, and conditional keys faster than their parents.

    Raises:
        ConfigError: A key has no end of values.
    """

    attempts = None

    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        super().__init__(config, space, ladder)
        levels = {key: parameter.levels() for key, parameter in space.parameters.items()}
        for key, values in levels.items():
            if values is None:
                raise ConfigError(
                    f"{space.source}: sampler.name grid: space.{key} ({space.parameters[key].describe()}) has no end of "
                    f"values; give it a `step:`, make it a choice, or choose another sampler"
                )
        self._levels = {key: values for key, values in levels.items() if values is not None}
        self._next, self._walk = 0, self._all(0, {})  # how many were walked over, and the walk

    def proposals(self, state: SearchState, source: random.Random) -> Iterator[Draw]:
        # in order: what lies before the last one drawn was drawn, was seen, or is no recipe
        done = self.evidence.follow(state).last_index.get("grid", -1)
        if state.extended or self._next > done + 1:  # the index may be that of another space; or a draw came to nothing
            self._next, self._walk = 0, self._all(0, {})
        for values in self._walk:
            self._next += 1
            if self._next > done + 1 or state.extended:
                yield Draw(values, {"sampler": "grid", "index": self._next - 1})

    def _all(self, position: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        keys = list(self._levels)
        if position == len(keys):
            yield values
        elif not self.space.active(keys[position], values):
            yield from self._all(position + 1, values)
        else:
            for value in self._levels[keys[position]]:
                yield from self._all(position + 1, {**values, keys[position]: value})
