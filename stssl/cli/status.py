"""`status`: a running or finished search."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stssl.cli.common import RunFolder, duration, opened, out, rungs_table
from stssl.storage import Folder

if TYPE_CHECKING:
    from stssl.search.config import SearchConfig
    from stssl.search.state import SearchState, TrialState

SHOWN = 100  # trials


def status(
    folder: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the rungs anew until the search is finished.")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help=f"Show all trials; else the {SHOWN} best and those that run.")
    ] = False,
) -> None:
    """Show a search, running or finished, from anywhere that sees its folder.

    Example: `python launch.py status runs/demo-20260101-120000 --watch`
    """
    from stssl.analysis.text import found
    from stssl.search import ledger, results, run_folder

    run = opened(folder)
    config = run_folder.glance(run)
    state = _read(run)
    if as_json:
        print(json.dumps(results.summary(state, config)))
        return
    if watch:
        state = _watch(run, config)
    trials = list(state.trials.values())
    if all_ and len(trials) > SHOWN:
        _print_plainly(_rows(trials, config))
    else:
        chosen = _worth_showing(state)
        out.print(_table(_rows(chosen, config)))
        if len(chosen) < len(trials):
            out.print(
                f"{len(chosen)} of {len(trials)} trials and replicates, the best and those that run; all with --all"
            )
    out.print()
    out.print(rungs_table(state, config))
    out.print()
    for line in found(state, config):
        out.print(line, markup=False)
    if not state.finished:
        at_work = ledger.locked(run)
        now, what = ("a driver is at work; stop it", "stop") if at_work else ("no driver is at work; go on", "resume")
        out.print(f"\nnot finished; {now} with: python launch.py {what} {folder}")


def _read(run: Folder) -> SearchState:
    from stssl.search import ledger
    from stssl.search.state import SearchState

    return SearchState.replay(ledger.events_of(run))


def _worth_showing(state: SearchState) -> list[TrialState]:
    """All trials and replicates if they are few; else the best and those that run, in the order of their creation."""
    from stssl.search.ranking import furthest

    if len(state.trials) <= SHOWN:
        return list(state.trials.values())
    running = [*state.of_kind("search", "running"), *state.of_kind("replicate", "running")]
    best = furthest(t for t in state.trials.values() if t.status not in ("failed", "running"))[:SHOWN]
    return sorted([*best, *running], key=lambda t: t.number)


def _rows(trials: list[TrialState], config: SearchConfig) -> list[tuple[str, ...]]:
    """The cells of a table, its headings first."""
    from stssl.analysis.text import settings
    from stssl.search.objectives import more_is_better

    sign = 1 if more_is_better(config.metric) else -1
    rows: list[tuple[str, ...]] = [("trial", "status", "step", config.metric, "time", "settings, or why it failed")]
    for t in trials:
        score = f"{sign * t.score:.4f}" if t.results else ""
        last = t.reason if t.status == "failed" else settings(t.params)
        rows.append((t.id, t.status, str(t.step), score, duration(t.seconds), last))
    return rows


def _table(rows: list[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if 2 <= number <= 4 else "left")
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    return table


def _print_plainly(rows: list[tuple[str, ...]]) -> None:
    """The same without wrapped cells: rich takes a minute for ten thousands of rows."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        shown = [c.rjust(w) if 2 <= i <= 4 else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=False))]
        out.print("  ".join([*shown, last]), markup=False, highlight=False, soft_wrap=True)


def _watch(run: Folder, config: SearchConfig) -> SearchState:
    """Redraw the rungs until the search is finished, no driver is at work, or Ctrl-C."""
    from stssl.search import ledger

    with Live(console=out, auto_refresh=False, transient=True) as live:
        while True:
            state = _read(run)
            over = state.finished or not ledger.locked(run)
            counts = ", ".join(f"{state.count(s)} {s}" for s in ("running", "completed", "failed"))  # type: ignore[arg-type]
            trials = f"{len(state.of_kind('search'))}/{config.trials} trials"
            live.update(Group(Text(f"{trials}; with replicates {counts}"), rungs_table(state, config)), refresh=True)
            if over:
                return state
            try:
                time.sleep(2)
            except KeyboardInterrupt:
                return state
