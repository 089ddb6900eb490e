"""Which recipes are trained again, and what their replicates say."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from scipy import stats

from stssl.search.state import SearchState, TrialState


def candidates(state: SearchState, top: int) -> list[TrialState]:
    """The recipes to replicate: the furthest trained, among those the best; the earlier one on a tie.

    Only recipes that end in a network that sees the image alone: that is what gets exported. Trials of the same
    recipe count once.
    """
    ranked = sorted(
        (t for t in state.of_kind("search", "completed", "stopped") if t.deployable and t.results),
        key=lambda t: (-t.step, -t.score),
    )
    chosen: list[TrialState] = []
    for trial in ranked:
        if len(chosen) < top and all(trial.recipe != other.recipe for other in chosen):
            chosen.append(trial)
    return chosen


@dataclass(frozen=True)
class Standing:
    """What the replicates of one recipe say; scores are validation scores at full length, more is better.

    Attributes:
        low, high: 95 % confidence interval of the mean over seeds and labeled subsets (Student's t), NaN for
            fewer than two.
    """

    trial: TrialState
    replicates: list[TrialState]
    mean: float
    low: float
    high: float


def standings(state: SearchState) -> list[Standing]:
    """Replicated recipes, best mean first; recipes none of whose replicates completed are left out."""
    table = []
    groups: dict[str, list[TrialState]] = {}
    for replicate in state.of_kind("replicate", "completed"):
        groups.setdefault(str(replicate.of), []).append(replicate)
    for trial, replicates in groups.items():
        scores = [replicate.score for replicate in replicates]
        mean, half = statistics.fmean(scores), math.nan
        if len(scores) > 1:
            half = float(stats.t.ppf(0.975, len(scores) - 1)) * statistics.stdev(scores) / math.sqrt(len(scores))
        table.append(Standing(state.trials[trial], replicates, mean, mean - half, mean + half))
    # a recipe whose replicates failed in part has shown less: it ranks behind
    return sorted(table, key=lambda s: (-len(s.replicates), -s.mean, s.trial.id))
