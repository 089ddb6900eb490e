"""Who is ahead of whom: by one objective, or by Pareto fronts of two."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stssl.search.state import TrialState

Key = tuple[float, float, int]  # smaller is better; no two trials have the same


def rank_key(trial: TrialState, step: int) -> Key:
    """By the first objective, of equals by the second, then the one that arrived first."""
    return -trial.scores[step], -trial.second.get(step, 0.0), trial.arrived[step]


def ranked(trials: Iterable[TrialState], step: int) -> list[TrialState]:
    """Trials by their scores at a step, best first; of equals the one that arrived first.

    With two objectives by Pareto front, within a front by the first objective (non-dominated sorting, Deb et al. 2002).
    """
    order = sorted(trials, key=lambda t: rank_key(t, step))
    if not any(step in t.second for t in order):
        return order
    return [trial for front in _fronts(order, step) for trial in front]


def front(trials: Iterable[TrialState], step: int) -> list[TrialState]:
    """The Pareto front at a step: those that no other beats in one objective without losing in the other."""
    order = sorted((t for t in trials if step in t.scores), key=lambda t: rank_key(t, step))
    return _fronts(order, step)[0] if any(step in t.second for t in order) else order[:1]


def _fronts(order: list[TrialState], step: int) -> list[list[TrialState]]:
    """The Pareto fronts of trials whose first objective falls, in n log n: the best second objectives of the fronts fall too."""
    fronts: list[list[TrialState]] = []
    tops: list[tuple[float, float]] = []  # of each front, the pair with the best second objective so far
    worst: list[float] = []  # their second objectives, negated
    places: dict[tuple[float, float], int] = {}  # from such a pair to its front
    for trial in order:
        pair = (trial.scores[step], trial.second.get(step, -math.inf))
        place = places.get(pair)
        if place is None:
            place = bisect_right(worst, -pair[1])  # the first front in which nobody dominates it
            if place == len(fronts):
                fronts.append([])
                tops.append(pair)
                worst.append(-pair[1])
            else:
                del places[tops[place]]
                tops[place], worst[place] = pair, -pair[1]
            places[pair] = place
        fronts[place].append(trial)
    return fronts


def furthest(trials: Iterable[TrialState]) -> list[TrialState]:
    """Trials that have a result: the furthest trained first, those of a length as `ranked`."""
    by_step: dict[int, list[TrialState]] = {}
    for trial in trials:
        if trial.results:
            by_step.setdefault(trial.step, []).append(trial)
    return [t for step in sorted(by_step, reverse=True) for t in ranked(by_step[step], step)]
