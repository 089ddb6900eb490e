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
    from stssl.search.state import SearchState


def status(
    folder: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the rungs anew until the search is finished.")] = False,
) -> None:
    """Show a search, running or finished, from anywhere that sees its folder.

    Example: `python launch.py status runs/demo-20260101-120000 --watch`
    """
    from stssl.analysis.text import found
    from stssl.search import ledger, results, run_folder

    run = opened(folder)
    config, _ = run_folder.load(run)
    state = _read(run)
    if as_json:
        print(json.dumps(results.summary(state, config)))
        return
    if watch:
        state = _watch(run, config)
    out.print(_trials(state, config))
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


def _trials(state: SearchState, config: SearchConfig) -> Table:
    from stssl.analysis.text import settings
    from stssl.search.objectives import more_is_better

    sign = 1 if more_is_better(config.metric) else -1
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "status", "step", config.metric, "time", "settings, or why it failed"):
        table.add_column(name, justify="right" if name in ("step", config.metric, "time") else "left")
    for t in state.trials.values():
        score = f"{sign * t.score:.4f}" if t.results else ""
        last = t.reason if t.status == "failed" else settings(t.params)
        table.add_row(t.id, t.status, str(t.step), score, duration(t.seconds), escape(last))
    return table


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
