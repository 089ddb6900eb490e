"""What a search found, in a few plain lines."""

from __future__ import annotations

import math
from typing import Any

from stssl.search.config import SearchConfig
from stssl.search.objectives import more_is_better
from stssl.search.replicate import ALPHA, Standing, baseline, standings
from stssl.search.results import STATUSES, interval, pareto, test_score
from stssl.search.state import SearchState

_WORDS = {"running": "running", "paused": "paused", "stopped": "stopped early", "completed": "trained in full"}


def settings(params: dict[str, Any]) -> str:
    """`optimizer.lr=0.0012, framework=plain`."""
    return ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())


def found(state: SearchState, config: SearchConfig) -> list[str]:
    """Counts, the replicated recipes with intervals, the test score, and what all this does not show."""
    sign = 1 if more_is_better(config.metric) else -1
    counts = {s: len(state.of_kind("search", s)) for s in STATUSES}
    words = [f"{counts[s]} {_WORDS[s]}" for s in ("completed", "paused", "stopped", "running") if counts[s]]
    words.append(f"{counts['failed']} failed")
    lines = [f"{len(state.of_kind('search'))} trials: {', '.join(words)}."]
    table = standings(state)
    if table:
        seeds = max(len(s.replicates) for s in table)
        lines.append(
            f"The best recipes over {seeds} seeds and labeled subsets (validation {config.metric}, mean [95 % interval], best "
            "lower end first; the interval covers seeds and subsets, not the choice of validation images):"
        )
    base = baseline(state)
    for place, s in enumerate(table, start=1):
        lines.append(f"  {place}. {s.trial.id}  {interval(s, config.metric)}  {settings(s.trial.params)}")
        lines.append(f"     {'; '.join(_remarks(s, base is not None and s.trial.id == base.id, config))}")
    lines += _proven(table, state)
    lines += _pareto(state, config)
    best = state.best()
    if best is not None and not best.deployable:
        lines.append(
            f"{best.id} (metadata_input) scored {sign * best.score:.3f} in the search; it needs place and date at test time "
            "and has no student, so it is not replicated or exported."
        )
    lines += tested(state, config)
    failed = [t for t in state.trials.values() if t.status == "failed"]
    lines += [f"Failed: {t.id}: {t.reason}" for t in failed[:5]]
    if len(failed) > 5:
        lines.append(f"... and {len(failed) - 5} more failures (launch.py status lists all)")
    if config.note:
        lines += ["", config.note.strip()]
    return lines


def gain(standing: Standing, metric: str) -> str:
    """`+0.045 [+0.010, +0.080], p = 0.03`; empty for the published recipe itself."""
    if math.isnan(standing.gain):
        return ""
    return difference((1 if more_is_better(metric) else -1) * standing.gain, standing.gain_half, standing.p)


def difference(mean: float, half: float, p: float) -> str:
    """`+0.045 [+0.010, +0.080], p = 0.03`; differences that are all the same have no interval."""
    interval = "all the same" if math.isnan(half) else f"[{mean - half:+.3f}, {mean + half:+.3f}]"
    return f"{mean:+.3f} {interval}, p = {p:.2g}"


def _remarks(standing: Standing, published: bool, config: SearchConfig) -> list[str]:
    unit = "GPU hours" if config.resources.gpus else "hours of training"
    remarks = ["the published recipe"] if published else []
    if compared := gain(standing, config.metric):
        remarks.append(f"against the published recipe {compared}")
    remarks.append(
        f"{len(standing.replicates)} replicates, {config.resources.cost(standing.seconds) / 3600:.2g} {unit}"
    )
    if standing.trial.dropped:
        remarks.append(f"given up: {standing.trial.dropped['reason']}")
    elif standing.failed:
        remarks.append(f"{standing.failed} replicates failed")
    return remarks


def _proven(table: list[Standing], state: SearchState) -> list[str]:
    """What may be claimed of the first."""
    if not table:
        return []
    first, base = table[0], baseline(state)
    if base is None:
        return [
            "  There is no published recipe to compare with: it failed, or trains no network that sees the image alone."
        ]
    if first.trial.id == base.id:
        return ["  No recipe has proven more than the published one."]
    if math.isnan(first.p):
        return ["  It cannot be compared with the published recipe: too few replicates of both ran to their end."]
    better = first.gain > 0 and first.p < ALPHA
    how = "is better than" if better else "is not proven to be better than"
    return [
        f"  {first.trial.id} {how} the published recipe (paired t-test over seeds, Holm's correction, p = {first.p:.2g})."
    ]


def _pareto(state: SearchState, config: SearchConfig) -> list[str]:
    if config.second_metric is None:
        return []
    lines = [f"Pareto front of the trials trained in full (validation {config.metric}, {config.second_metric}):"]
    for entry in pareto(state, config):
        values = f"{entry[config.metric]:.3f}, {entry[config.second_metric]:.3f}"
        lines.append(f"  {entry['trial']}  {values}  {settings(state.trials[entry['trial']].params)}")
    return lines


def tested(state: SearchState, config: SearchConfig) -> list[str]:
    """What the test split says, and how often it was read."""
    event = state.tested
    if event is None:
        return []
    times = "read once" if state.tests == 1 else f"read for the {state.tests}. time, since the search was extended"
    lines = [f"Test split, {times}, student of {event['trial']}: {test_score(event, config.metric)}."]
    if "gain" in event:
        means = [
            sum(v.values()) / len(v)
            for v in (event["replicates"][event["trial"]], event["replicates"][event["published"]])
        ]
        lines.append(
            f"  Over all replicates: {event['trial']} {means[0]:.3f}, the published recipe {means[1]:.3f}; difference "
            f"{difference(event['gain'], event.get('gain_half', math.nan), event['p'])}."
        )
    return lines
