"""What a search found, in a few plain lines."""

from __future__ import annotations

from typing import Any

from stssl.search.config import SearchConfig
from stssl.search.replicate import standings
from stssl.search.results import interval, more_is_better, test_score
from stssl.search.state import SearchState


def settings(params: dict[str, Any]) -> str:
    """`optimizer.lr=0.0012, framework=plain`."""
    return ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())


def found(state: SearchState, config: SearchConfig) -> list[str]:
    """Counts, the replicated recipes with intervals, the test score, and what all this does not show."""
    sign = 1 if more_is_better(config.metric) else -1
    search = {s: len(state.of_kind("search", s)) for s in ("completed", "stopped", "failed")}  # type: ignore[arg-type]
    lines = [
        f"{len(state.of_kind('search'))} trials: {search['completed']} trained in full, {search['stopped']} stopped early, "
        f"{search['failed']} failed."
    ]
    table = standings(state)
    if table:
        seeds = len(table[0].replicates)
        lines.append(
            f"The best recipes over {seeds} seeds and labeled subsets (validation {config.metric}, mean [95 % interval]; "
            "the interval covers seeds and subsets, not the choice of validation images):"
        )
    for place, s in enumerate(table, start=1):
        lines.append(f"  {place}. {s.trial.id}  {interval(s, config.metric)}  {settings(s.trial.params)}")
    if len(table) > 1 and table[0].low <= table[1].high:
        lines.append("  The intervals overlap: the first is not proven to be better than the second.")
    best = state.best()
    if best is not None and not best.deployable:
        lines.append(
            f"{best.id} (metadata_input) scored {sign * best.score:.3f} in the search; it needs place and date at test time "
            "and has no student, so it is not replicated or exported."
        )
    if state.tested is not None:
        lines.append(
            f"Test split, read once, student of {state.tested['trial']}: {test_score(state.tested, config.metric)}."
        )
    failed = [t for t in state.trials.values() if t.status == "failed"]
    lines += [f"Failed: {t.id}: {t.reason}" for t in failed[:5]]
    if len(failed) > 5:
        lines.append(f"... and {len(failed) - 5} more failures (launch.py status lists all)")
    if config.note:
        lines += ["", config.note.strip()]
    return lines
