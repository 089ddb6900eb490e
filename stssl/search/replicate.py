"""The proof: which recipes are trained again, which of them are given up early, and what all this shows.

A replicate is a recipe with another seed and another labeled subset; replicate number r of every recipe has the same ones, so
recipes are compared pair by pair. The published recipe (the search's base recipe) is always among them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from scipy import special  # scipy.stats takes a second to import

from stssl.search.ranking import furthest
from stssl.search.state import SearchState, TrialState

ROUNDS = 3  # replicates of each recipe before any is given up
ALPHA = 0.05


def candidates(state: SearchState, top: int, among: Container[str] | None = None) -> list[TrialState]:
    """The recipes to replicate: the furthest trained, among those the best; the earlier one on a tie.

    Only recipes that end in a network that sees the image alone: that is what gets exported. Trials of the same
    recipe count once. The published recipe comes on top of these if it is not among them.

    Args:
        state: The search.
        top: How many.
        among: Names of the trials that may be chosen; None = all.
    """
    chosen: list[TrialState] = []
    ended = state.of_kind("search", "completed", "paused", "stopped")
    for trial in furthest(t for t in ended if t.deployable and (among is None or t.id in among)):
        if len(chosen) < top and all(trial.recipe != other.recipe for other in chosen):
            chosen.append(trial)
    base = baseline(state)
    if base is not None and chosen and all(base.recipe != other.recipe for other in chosen):
        chosen.append(base)
    return chosen


def baseline(state: SearchState) -> TrialState | None:
    """The trial of the published recipe; None if it failed by its own fault or has no network that sees the image alone."""
    for trial in state.of_kind("search"):
        if trial.by.get("sampler") == "base":
            failed = trial.status == "failed" and trial.fault != "infrastructure"
            return trial if trial.deployable and not failed else None
    return None


def unfinished(state: SearchState, chosen: list[TrialState], seeds: int) -> list[tuple[TrialState, int]]:
    """Replicates that are still to be created, as recipe and number: all recipes with one seed before the next seed."""
    existing = {t.id for t in state.of_kind("replicate")}
    return [
        (trial, number)
        for number in range(1, seeds + 1)
        for trial in chosen
        if not trial.dropped and name(trial, number) not in existing
    ]


def name(trial: TrialState, number: int) -> str:
    """What a replicate is called."""
    return f"{trial.id}-r{number}"


def number_of(replicate: str) -> int:
    """The number of a replicate by what it is called."""
    return int(replicate.rpartition("-r")[2])


def to_drop(state: SearchState, chosen: list[TrialState], seeds: int) -> dict[str, Any] | None:
    """A recipe to give up, in the first round in which one is due.

    After each round from the third on (the last one decides nothing any more) every recipe is compared with the one of
    the best mean, by a one-sided paired t-test on the replicates that both have; the level of 5 % is divided by the
    number of rounds (Bonferroni). The published recipe stays: everything is compared with it.

    Returns:
        The fields of the event `dropped`; None if there is none.
    """
    base = baseline(state)
    for number in range(ROUNDS, seeds):
        alive = [t for t in chosen if not t.dropped or t.dropped["round"] >= number]
        scores = [_scores(state, t, number) for t in alive]
        if any(s is None for s in scores):
            return None  # this round is under way
        table = [(t, s) for t, s in zip(alive, scores, strict=True) if s]
        if not table:
            return None
        leader, best = max(table, key=lambda entry: statistics.fmean(entry[1].values()))
        for trial, own in table:
            if trial is leader or trial.dropped or (base is not None and trial.id == base.id):
                continue
            difference, _, p = paired(best, own, one_sided=True)
            if difference > 0 and p < ALPHA / (seeds - ROUNDS):
                reason = (
                    f"behind {leader.id} by {difference:.4g} after {number} replicates (paired t-test, p = {p:.2g})"
                )
                return {"trial": trial.id, "round": number, "p": p, "leader": leader.id, "reason": reason}
    return None


def _scores(state: SearchState, trial: TrialState, number: int) -> dict[int, float] | None:
    """Scores of the first replicates of a recipe, by number; without those that failed; None if one is not over."""
    found = {}
    for n in range(1, number + 1):
        replicate = state.trials.get(name(trial, n))
        if replicate is None or replicate.status == "running":
            return None
        if replicate.status == "completed":
            found[n] = replicate.score
    return found


def paired(a: dict[int, float], b: dict[int, float], one_sided: bool = False) -> tuple[float, float, float]:
    """Paired t-test of a - b over the keys that both have.

    Differences that are all the same, as of accuracies on few images, tell nothing of their spread: then it is a sign test,
    without an interval.

    Returns:
        Mean difference, half of its 95 % interval, p (two-sided, or one-sided for a > b); NaN for fewer than two pairs.
    """
    common = sorted(set(a) & set(b))
    if len(common) < 2:
        return math.nan, math.nan, math.nan
    differences = [a[n] - b[n] for n in common]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(common))
    freedom = len(common) - 1
    half = _t_quantile(freedom) * error
    if error < 1e-12 * max(1.0, abs(mean)):
        if abs(mean) < 1e-12 or (one_sided and mean < 0):
            return mean, math.nan, 1.0
        return mean, math.nan, 0.5 ** len(common) * (1 if one_sided else 2)
    t = mean / error
    return mean, half, _t_tail(t, freedom) if one_sided else 2 * _t_tail(abs(t), freedom)


def _t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution."""
    return float(special.stdtrit(freedom, 0.975))


def _t_tail(t: float, freedom: int) -> float:
    """The chance that Student's t is larger than that."""
    return float(special.stdtr(freedom, -t))


@dataclass
class Standing:
    """What the replicates of one recipe say; scores are validation scores at full length, more is better.

    Attributes:
        low, high: 95 % confidence interval of the mean over seeds and labeled subsets (Student's t), NaN for
            fewer than two.
        failed: How many replicates failed by their own fault.
        gain: Mean paired difference to the published recipe; NaN for that recipe itself or without pairs.
        gain_half: Half of its 95 % interval.
        p: Of a two-sided paired t-test against the published recipe, corrected for their number (Holm 1979).
        seconds: Training time of the replicates on record.
    """

    trial: TrialState
    replicates: list[TrialState]
    mean: float
    low: float
    high: float
    failed: int = 0
    gain: float = math.nan
    gain_half: float = math.nan
    p: float = math.nan
    seconds: float = 0.0


def standings(state: SearchState) -> list[Standing]:
    """Replicated recipes, ranked; recipes none of whose replicates completed are left out.

    First those that were replicated to the end without a failure, then those that failed in part, then those that were
    given up; each by the lower end of the interval, so that a recipe counts by what it has proven. With two replicates,
    whose intervals are nearly all chance, by the mean.
    """
    base = baseline(state)
    groups: dict[str, list[TrialState]] = {}
    for replicate in state.of_kind("replicate"):
        if str(replicate.of) in state.trials:  # else its line was taken out of the ledger by hand
            groups.setdefault(str(replicate.of), []).append(replicate)
    table = [_standing(state.trials[trial], group) for trial, group in groups.items()]
    table = [s for s in table if s.replicates]
    _share_spread(table)
    ours = next((s for s in table if base is not None and s.trial.id == base.id), None)
    if ours is not None:
        others = [s for s in table if s is not ours]
        for standing in others:
            standing.gain, standing.gain_half, standing.p = paired(_by_number(standing), _by_number(ours))
        _holm(others)
    few = all(len(s.replicates) < ROUNDS for s in table)
    low = lambda s: s.mean if few else -math.inf if math.isnan(s.low) else s.low  # noqa: E731
    return sorted(table, key=lambda s: (s.trial.dropped is not None, s.failed > 0, -low(s), -s.mean, s.trial.id))


def _standing(trial: TrialState, group: list[TrialState]) -> Standing:
    done = [r for r in group if r.status == "completed"]
    scores = [replicate.score for replicate in done]
    mean, half = statistics.fmean(scores) if scores else math.nan, math.nan
    if len(scores) > 1:
        half = _t_quantile(len(scores) - 1) * statistics.stdev(scores) / math.sqrt(len(scores))
    failed = sum(r.status == "failed" and r.fault != "infrastructure" for r in group)
    seconds = sum(r.seconds for r in group)
    return Standing(trial, done, mean, mean - half, mean + half, failed, seconds=seconds)


def _share_spread(table: list[Standing]) -> None:
    """Replicates whose scores happen to be all the same get the pooled spread of the other recipes' replicates."""
    groups = [[r.score for r in s.replicates] for s in table if s.low < s.high]
    freedom = sum(len(g) - 1 for g in groups)
    pooled = math.sqrt(sum((len(g) - 1) * statistics.variance(g) for g in groups) / freedom) if freedom else 0.0
    for s in table:
        if s.low == s.high:
            half = _t_quantile(len(s.replicates) - 1) * pooled / math.sqrt(len(s.replicates))
            s.low, s.high = s.mean - half, s.mean + half


def _by_number(standing: Standing) -> dict[int, float]:
    return {number_of(r.id): r.score for r in standing.replicates}


def _holm(table: list[Standing]) -> None:
    """Correct the p-values of a family of tests, step down."""
    tested = sorted((s for s in table if not math.isnan(s.p)), key=lambda s: s.p)
    least = 0.0
    for place, standing in enumerate(tested):
        least = standing.p = min(1.0, max(least, standing.p * (len(tested) - place)))
