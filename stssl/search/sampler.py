"""Shim until the real one is merged."""

from __future__ import annotations

import random
from typing import Any, Literal, NamedTuple

from pydantic import Field

from stssl.config import Config
from stssl.search.space import Space
from stssl.search.state import SearchState


class SamplerConfig(Config):
    """Where the next recipe comes from."""

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    seed: int = Field(0, ge=0)


class Draw(NamedTuple):
    params: dict[str, Any]
    by: dict[str, Any]


class Sampler:
    def __init__(self, config: SamplerConfig, space: Space, ladder: list[int]) -> None:
        self.config, self.space = config, space

    def draw(self, state: SearchState) -> Draw | None:
        from stssl.errors import ConfigError

        seen = [t.params for t in state.of_kind("search")]
        source = random.Random(self.config.seed * 1000003 + len(seen))
        bad = []
        for _ in range(20):
            values = self.space._fill(lambda key, parameter: parameter.draw(source))
            if values not in seen:
                try:
                    self.space.recipe(values)
                except ConfigError:
                    bad.append(values)
                    continue
                return Draw(values, {"sampler": "random"})
        while (values := self.space.unseen(seen + bad, source)) is not None:
            try:
                self.space.recipe(values)
            except ConfigError:
                bad.append(values)
                continue
            return Draw(values, {"sampler": "unseen"})
        return None
