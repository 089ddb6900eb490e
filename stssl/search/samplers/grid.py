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

    def proposals(self, state: SearchState, source: random.Random) -> Iterator[Draw]:
        keys = list(self._levels)

        def walk(position: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if position == len(keys):
                yield values
            elif not self.space.active(keys[position], values):
                yield from walk(position + 1, values)
            else:
                for value in self._levels[keys[position]]:
                    yield from walk(position + 1, {**values, keys[position]: value})

        # in order: what lies before the last one drawn was drawn, was seen, or is no recipe
        done = max((t.by["index"] for t in state.of_kind("search") if t.by.get("sampler") == "grid"), default=-1)
        for index, values in enumerate(walk(0, {})):
            if index > done or state.extended:  # the index may be that of another space
                yield Draw(values, {"sampler": "grid", "index": index})
