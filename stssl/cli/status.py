"""`status`: a running or finished search."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stssl.cli.common import RunFolder, duration, out


def status(
    folder: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a search, running or finished, from anywhere that sees its folder.

    Example: `python launch.py status runs/demo-20260101-120000`
    """
    from stssl.analysis.text import found, settings
    from stssl.cli.live import rungs_table
    from stssl.search import ledger, results, run_folder
    from stssl.search.objectives import more_is_better
    from stssl.search.state import SearchState

    config, _ = run_folder.load(folder)
    path = folder / ledger.NAME
    state = SearchState.replay(ledger.read(path) if path.exists() else [])
    if as_json:
        print(json.dumps(results.summary(state, config)))
        return
    sign = 1 if more_is_better(config.metric) else -1
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "status", "step", config.metric, "time", "settings, or why it failed"):
        table.add_column(name, justify="right" if name in ("step", config.metric, "time") else "left")
    for t in state.trials.values():
        score = f"{sign * t.score:.4f}" if t.results else ""
        last = t.reason if t.status == "failed" else settings(t.params)
        table.add_row(t.id, t.status, str(t.step), score, duration(t.seconds), escape(last))
    out.print(table)
    out.print()
    out.print(rungs_table(state, config))
    out.print()
    for line in found(state, config):
        out.print(line, markup=False)
    if not state.finished:
        at_work = ledger.locked(folder)
        now, what = ("a driver is at work; stop it", "stop") if at_work else ("no driver is at work; go on", "resume")
        out.print(f"\nnot finished; {now} with: python launch.py {what} {folder}")
