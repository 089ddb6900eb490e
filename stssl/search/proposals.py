"""Where new trials come from: the base recipe, the first points, then the sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stssl.search.config import SearchConfig
from stssl.search.sampler import Draw, Sampler
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState, ranked


class Proposals:
    """Draws the points of new trials, none twice.

    Args:
        config: The search.
        space: Its space.
    """

    def __init__(self, config: SearchConfig, space: Space) -> None:
        self.space, self.ladder = space, config.ladder
        self.sampler = Sampler(config.sampler, space, self.ladder)
        self._two = config.second_metric is not None
        self._base = space.base_point()
        self._points = [space.point(p, f"points[{i}]") for i, p in enumerate(config.points)]
        self._params: dict[str, dict[str, Any] | None] = {}

    def draw(self, state: SearchState) -> Draw | None:
        """The next point; None when the space is used up."""
        known = self._as_points(state)
        seen = [t.params for t in known.of_kind("search")]
        if self._base not in seen:
            return Draw(self._base, {"sampler": "base"})
        for point in self._points:
            if point not in seen and self.space.fault(point) is None:  # a misfit is not tried
                return Draw(point, {"sampler": "point"})
        return self.sampler.draw(self._by_rank(known) if self._two else known)

    def holds(self, trial: TrialState, state: SearchState) -> bool:
        """Whether a trial lies in the space, which may have been changed since it was drawn."""
        return not state.extended or self._point_of(trial) is not None

    def _point_of(self, trial: TrialState) -> dict[str, Any] | None:
        if trial.id not in self._params:
            self._params[trial.id] = self.space.inside(trial.recipe)
        return self._params[trial.id]

    def _as_points(self, state: SearchState) -> SearchState:
        """The search as points of this space, without the trials that lie outside."""
        imported = [t for t in state.imported if self.space.has(t.params)]
        if not state.extended:
            return replace(state, imported=imported) if imported != state.imported else state
        points = {t.id: (t, self._point_of(t)) for t in state.of_kind("search")}
        trials = {name: replace(t, params=params) for name, (t, params) in points.items() if params is not None}
        return replace(state, trials=trials, imported=imported)

    def _by_rank(self, state: SearchState) -> SearchState:
        """With two objectives a score is a trial's rank at that rung: samplers know one objective, and most only ranks."""
        everyone = [*state.of_kind("search"), *state.imported]
        scores: dict[str, dict[int, float]] = {t.id: {} for t in everyone}
        for rung in self.ladder:
            order = ranked((t for t in everyone if rung in t.scores), rung)
            for place, trial in enumerate(order):
                scores[trial.id][rung] = 1 - place / len(order)
        trials = {t.id: replace(t, scores=scores[t.id]) for t in state.of_kind("search")}
        return replace(state, trials=trials, imported=[replace(t, scores=scores[t.id]) for t in state.imported])
