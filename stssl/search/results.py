"""A search as tables and plain data, for people and other programs. Reads the ledger only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stssl.files import atomic_path
from stssl.search.ledger import Event
from stssl.search.replicate import Standing, standings
from stssl.search.state import SearchState
from stssl.training.evaluate import METRICS


def more_is_better(metric: str) -> bool:
    """Whether a metric is to be maximised."""
    return next(table[metric] for table in METRICS.values() if metric in table)


def interval(standing: Standing, metric: str) -> str:
    """Mean with its interval, cut to the metric's range: `0.389 [0.181, 0.597]`."""
    sign = 1 if more_is_better(metric) else -1
    mean = f"{sign * standing.mean:.3f}"
    if math.isnan(standing.low):
        return f"{mean} [one replicate, no interval]"
    low, high = sorted((sign * standing.low, sign * standing.high))
    if metric != "loss":  # all the others lie between 0 and 1
        low, high = max(0.0, low), min(1.0, high)
    return f"{mean} [{low:.3f}, {high:.3f}]"


def test_score(tested: Event, metric: str) -> str:
    """`accuracy 0.550 on 20 images`."""
    scores = tested["scores"]
    value = f"{scores[metric]:.3f}" if metric in scores else "not defined"  # average precision without a positive
    return f"{metric} {value} on {scores['count']} images"


def summary(state: SearchState, trials: int, metric: str = "accuracy") -> dict[str, Any]:
    """What `status --json` prints.

    Args:
        state: The search.
        trials: How many trials it is meant to have.
        metric: What the scores are; they are given in its own sign.
    """
    best = state.best()
    sign = 1 if more_is_better(metric) else -1
    counts = {s: len(state.of_kind("search", s)) for s in ("running", "stopped", "completed", "failed")}  # type: ignore[arg-type]
    replicates = {s: len(state.of_kind("replicate", s)) for s in ("running", "completed", "failed")}  # type: ignore[arg-type]
    return {
        "finished": state.finished,
        "trials": {"planned": trials, **counts},
        "replicates": replicates,
        "best": {"trial": best.id, "step": best.step, "score": sign * best.score, "params": best.params} if best else None,
        "standings": [
            {
                "trial": s.trial.id, "mean": sign * s.mean,
                "interval_95": None if math.isnan(s.low) else sorted((sign * s.low, sign * s.high)),
                "scores": [sign * r.score for r in s.replicates],
            }
            for s in standings(state)
        ],
        "failures": {t.id: t.reason for t in state.trials.values() if t.status == "failed"},
        "test": state.tested["scores"] if state.tested else None,
        "training_seconds": sum(t.seconds for t in state.trials.values()),
    }  # fmt: skip


def write_table(state: SearchState, path: Path, metric: str = "accuracy") -> None:
    """Write trials.parquet: a row for each trial and replicate, a column for each searched key.

    Scores are given in the metric's own sign.
    """
    sign = 1 if more_is_better(metric) else -1
    trials = list(state.trials.values())
    keys = sorted({key for t in trials for key in t.params})
    columns: dict[str, Any] = {
        "trial": [t.id for t in trials],
        "kind": [t.kind for t in trials],
        "of": [t.of for t in trials],
        "status": [t.status for t in trials],
        "reason": [t.reason for t in trials],
        "step": [t.step for t in trials],
        "score": [sign * t.score if t.results else None for t in trials],
        "seconds": [t.seconds for t in trials],
    }
    for key in keys:
        values = [t.params.get(key) for t in trials]
        kinds = {type(v) for v in values if v is not None}
        as_one = float if kinds == {int, float} else str if len(kinds) > 1 else lambda v: v  # a column has one type
        columns[key] = [None if v is None else as_one(v) for v in values]
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
