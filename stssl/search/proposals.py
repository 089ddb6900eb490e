"""Where new trials come from: the base recipe, the first points, then the sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stssl.search.config import SearchConfig
from stssl.search.sampler import Draw, Sampler
from stssl.search.samplers.evidence import Evidence
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState


class Proposals:
    """Draws the points of new trials, none twice.

    Args:
        config: The search.
        space: Its space.
    """

    def __init__(self, config: SearchConfig, space: Space) -> None:
        self.space, self.ladder = space, config.ladder
        self.sampler = Sampler(config.sampler, space, self.ladder)
        self._base = space.base_point()
        self._points = [space.point(p, f"points[{i}]") for i, p in enumerate(config.points)]
        self._params: dict[str, dict[str, Any] | None] = {}
        self._tried = Evidence(self.ladder)
        self._view, self._read, self._imported = SearchState(), 0, 0

    def draw(self, state: SearchState) -> Draw | None:
        """The next point; None when the space is used up."""
        known = self._as_points(state)
        tried = self._tried.follow(known)
        if self._base not in tried:
            return Draw(self._base, {"sampler": "base"})
        for point in self._points:
            if point not in tried and self.space.fault(point) is None:  # a misfit is not tried
                return Draw(point, {"sampler": "point"})
        return self.sampler.draw(known)

    def holds(self, trial: TrialState, state: SearchState) -> bool:
        """Whether a trial lies in the space, which may have been changed since it was drawn."""
        return not state.extended or self._point_of(trial) is not None

    def _point_of(self, trial: TrialState) -> dict[str, Any] | None:
        if trial.id not in self._params:
            self._params[trial.id] = self.space.inside(trial.recipe)
        return self._params[trial.id]

    def _as_points(self, state: SearchState) -> SearchState:
        """The search as points of this space, without the trials that lie outside."""
        for trial in state.imported[self._imported :]:
            if self.space.has(trial.params):
                self._view.imported.append(trial)
        self._imported = len(state.imported)
        if not state.extended and len(self._view.imported) == self._imported:
            return state
        self._view.extended = state.extended
        for trial in {t.id: t for t in state.changes[self._read :] if t.kind == "search"}.values():
            params = self._point_of(trial) if state.extended else trial.params
            if params is not None:
                known = self._view.trials.setdefault(trial.id, trial if trial.params is params else replace(trial))
                if known is not trial:
                    vars(known).update(vars(trial) | {"params": params})
                self._view.put(known)
        self._read = len(state.changes)
        return self._view
