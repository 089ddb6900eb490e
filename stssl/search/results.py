"""A search as tables and plain data, for people and other programs. Reads the ledger only."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from stssl.files import atomic_path
from stssl.search.config import SearchConfig
from stssl.search.events import Event, Status
from stssl.search.objectives import HOLDOUT, more_is_better
from stssl.search.ranking import front, rank_key
from stssl.search.replicate import Standing, baseline, standings
from stssl.search.state import Kind, SearchState, TrialState


def interval(standing: Standing, metric: str) -> str:
    """Mean with its interval, cut to the metric's range: `0.389 [0.181, 0.597]`."""
    sign = 1 if more_is_better(metric) else -1
    mean = f"{sign * standing.mean:.3f}"
    if math.isnan(standing.low):
        return f"{mean} [one replicate, no interval]"
    low, high = sorted((sign * standing.low, sign * standing.high))
    if not metric.endswith("loss"):  # all the others lie between 0 and 1
        low, high = max(0.0, low), min(1.0, high)
    return f"{mean} [{low:.3f}, {high:.3f}]"


def test_score(tested: Event, metric: str) -> str:
    """`accuracy 0.550 on 20 images`."""
    scores, metric = tested["scores"], metric.removeprefix(HOLDOUT)
    value = f"{scores[metric]:.3f}" if metric in scores else "not defined"  # average precision without a positive
    return f"{metric} {value} on {scores['count']} images"


STATUSES: tuple[Status, ...] = ("running", "paused", "stopped", "completed", "failed")


def by_rung(state: SearchState, ladder: list[int]) -> list[dict[str, Any]]:
    """For each rung: how many trials were judged there, wait there, and the best score."""
    table = []
    search = state.of_kind("search")
    for rung in ladder:
        reached = [t for t in search if rung in t.scores]
        standing = (t for t in reached if t.status != "failed")
        best = min(standing, key=lambda t: rank_key(t, rung), default=None)
        table.append({
            "step": rung, "reached": len(reached), "paused": sum(t.status == "paused" and t.step == rung for t in reached),
            "best": best and best.scores[rung], "trial": best and best.id,
        })  # fmt: skip
    return table


def failures(state: SearchState) -> dict[str, int]:
    """How many trials and replicates failed, by cause."""
    return dict(Counter(t.fault for t in (*state.of_kind("search", "failed"), *state.of_kind("replicate", "failed"))))


def hours(state: SearchState, config: SearchConfig, kind: Kind) -> float:
    """What all trials or replicates have cost: GPU hours, or hours of training where trials have no GPU."""
    return config.resources.cost(state.seconds(kind)) / 3600


def summary(state: SearchState, config: SearchConfig) -> dict[str, Any]:
    """What `status --json` prints; scores are given in their metric's own sign."""
    best = state.best()
    sign = 1 if more_is_better(config.metric) else -1
    rungs = by_rung(state, config.ladder)
    return {
        "finished": state.finished,
        "trials": {"planned": config.trials, **{s: state.count(s, "search") for s in STATUSES}},
        "rungs": [{**r, "best": None if r["best"] is None else sign * r["best"]} for r in rungs],
        "replicates": {s: state.count(s, "replicate") for s in STATUSES if s != "paused"},
        "best": {"trial": best.id, "step": best.step, "score": sign * best.score, "params": best.params} if best else None,
        "front": pareto(state, config) if config.second_metric else None,
        "standings": [_standing(s, config, state) for s in standings(state)],
        "failures": {t.id: t.reason for t in state.trials.values() if t.status == "failed"},
        "failures_by_cause": failures(state),
        "test": state.tested["scores"] if state.tested else None,
        "test_read": state.tests,
        "training_seconds": state.seconds("search") + state.seconds("replicate"),
        "hours": {
            "of": "GPU" if config.resources.gpus else "training", "search": hours(state, config, "search"),
            "replicates": hours(state, config, "replicate"), "budget": config.budget_hours,
        },
    }  # fmt: skip


def pareto(state: SearchState, config: SearchConfig) -> list[dict[str, Any]]:
    """The Pareto front of the trials that were trained in full, in the metrics' own signs; empty for one objective."""
    if config.second_metric is None:
        return []
    step = config.ladder[-1]
    signs = [1 if more_is_better(m) else -1 for m in (config.metric, config.second_metric)]
    return [
        {"trial": t.id, config.metric: signs[0] * t.scores[step], config.second_metric: signs[1] * t.second[step]}
        for t in front(with_both(state, step), step)
    ]


def with_both(state: SearchState, step: int) -> list[TrialState]:
    """Search trials with scores by both objectives at a step; none where search.yaml was given another one afterwards."""
    return [t for t in state.of_kind("search", "completed") if step in t.scores and step in t.second]


def _standing(standing: Standing, config: SearchConfig, state: SearchState) -> dict[str, Any]:
    s, sign = standing, 1 if more_is_better(config.metric) else -1
    base = baseline(state)
    compared = not math.isnan(s.gain)
    return {
        "trial": s.trial.id, "published": base is not None and s.trial.id == base.id, "mean": sign * s.mean,
        "interval_95": None if math.isnan(s.low) else sorted((sign * s.low, sign * s.high)),
        "gain": sign * s.gain if compared else None,
        "gain_interval_95": None if math.isnan(s.gain_half) else [sign * s.gain - s.gain_half, sign * s.gain + s.gain_half],
        "p": s.p if compared else None, "hours": config.resources.cost(s.seconds) / 3600, "failed": s.failed,
        "dropped": s.trial.dropped["reason"] if s.trial.dropped else None,
        "scores": [sign * r.score for r in s.replicates],
    }  # fmt: skip


def write_table(state: SearchState, path: Path, config: SearchConfig) -> None:
    """Write trials.parquet: a row for each trial and replicate, a column for each searched key.

    Scores are given in the metric's own sign, costs in GPU hours (hours of training where trials have no GPU).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sign = 1 if more_is_better(config.metric) else -1
    trials = list(state.trials.values())
    keys = sorted({key for t in trials for key in t.params})
    columns: dict[str, Any] = {
        "trial": [t.id for t in trials],
        "kind": [t.kind for t in trials],
        "of": [t.of for t in trials],
        "by": [str(t.by.get("sampler", "")) for t in trials],
        "status": [t.status for t in trials],
        "reason": [t.reason for t in trials],
        "step": [t.step for t in trials],
        "score": [sign * t.score if t.results else None for t in trials],
        "seconds": [t.seconds for t in trials],
        "hours": [config.resources.cost(t.seconds) / 3600 for t in trials],
    }
    if config.second_metric is not None:
        other = 1 if more_is_better(config.second_metric) else -1
        columns["second_score"] = [other * t.second[t.step] if t.step in t.second else None for t in trials]
    for key in keys:
        values = [t.params.get(key) for t in trials]
        kinds = {type(v) for v in values if v is not None}
        as_one = float if kinds == {int, float} else str if len(kinds) > 1 else lambda v: v  # a column has one type
        columns[key] = [None if v is None else as_one(v) for v in values]
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
