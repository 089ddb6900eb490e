"""Where new trials come from: the base recipe, the first points, then the sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stssl.search.config import SearchConfig
from stssl.search.sampler import Draw, Sampler
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState


class Proposals:
    """Draws the points of new trials, none twice.

    Args:
        config: The search.
        space: Its space.
    """

    def __init__(self, config: SearchConfig, space: Space) -> None:
        self.space = space
        self.sampler = Sampler(config.sampler, space, config.ladder)
        self._base = space.base_point()
        self._points = [space.point(p, f"points[{i}]") for i, p in enumerate(config.points)]
        self._inside: dict[str, dict[str, Any] | None] = {}

    def draw(self, state: SearchState) -> Draw | None:
        """The next point; None when the space is used up."""
        state = self._in_this_space(state)
        seen = [t.params for t in state.of_kind("search")]
        if self._base not in seen:
            return Draw(self._base, {"sampler": "base"})
        for point in self._points:
            if point not in seen and self.space.fault(point) is None:  # a misfit is not tried
                return Draw(point, {"sampler": "point"})
        return self.sampler.draw(state)

    def _in_this_space(self, state: SearchState) -> SearchState:
        """Without the trials that lie outside the space since the search was extended; the others as points of it."""
        if not state.extended:
            return state
        trials: dict[str, TrialState] = {}
        for trial in state.of_kind("search"):
            if trial.id not in self._inside:
                self._inside[trial.id] = self.space.inside(trial.recipe)
            if (params := self._inside[trial.id]) is not None:
                trials[trial.id] = replace(trial, params=params)
        return replace(state, trials=trials)
