"""The report: one HTML file that opens anywhere, without a network."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from stssl.analysis import plots, quality
from stssl.analysis.text import gain, tested
from stssl.files import write_text
from stssl.search.config import SearchConfig
from stssl.search.objectives import more_is_better
from stssl.search.replicate import Standing, baseline, standings
from stssl.search.results import STATUSES, hours, interval, write_table
from stssl.search.space import Space
from stssl.search.state import SearchState

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: 0 } h2 { margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid #eee; white-space: nowrap }
td:last-child { white-space: normal; min-width: 22em }
.note { background: #fff6dd; padding: .6em 1em; border-radius: 6px }
.dim { color: #777 } code, pre { background: #f5f5f5; padding: 1px 4px; border-radius: 3px }
"""


def write(folder: Path, config: SearchConfig, manifest: dict[str, Any], state: SearchState) -> list[Path]:
    """Write report.html, report.png and trials.parquet into the run folder.

    Args:
        folder: The run folder.
        config: The resolved search.
        manifest: What the run folder says of its origin.
        state: The search so far; an unfinished one gets a report too.

    Returns:
        The files, the page first.
    """
    better = more_is_better(config.metric)
    ladder = config.ladder
    space = Space(config.space, config.recipe)
    table = standings(state)
    figures: list[tuple[str, go.Figure | None]] = [
        ("Learning curves", plots.curves(state, ladder, config.metric, better)),
        ("Score by setting", plots.by_parameter(state, space, config.metric, better)),
        ("Pseudo-labels", quality.pseudo_labels(state)),
    ]
    body = [
        f"<h1>{html.escape(config.name)}</h1>",
        f'<p class="dim">{html.escape(_origin(manifest))}</p>',
        f'<p class="note">{html.escape(config.note.strip())}</p>' if config.note else "",
        "<h2>Found</h2>",
        *_found(config, state, table, better),
    ]
    if table:
        figures.insert(0, ("Replicates", plots.replicates(table, state, config.metric, better)))
    if config.second_metric is not None:
        figures.insert(0, ("Two objectives", plots.pareto(state, ladder[-1], config.metric, config.second_metric)))
    for title, figure in figures:
        if figure is not None:
            body += [
                f"<h2>{title}</h2>",
                figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}),
            ]
    body += ["<h2>All trials</h2>", *_trials(state, space, better)]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(config.name)}</title>'
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>{''.join(body)}</body></html>"
    )
    write_text(folder / "report.html", page)
    plots.picture(state, ladder, config.metric, better, folder / "report.png")
    write_table(state, folder / "trials.parquet", config)
    return [folder / name for name in ("report.html", "report.png", "trials.parquet")]


def _origin(manifest: dict[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in manifest["packages"].items())
    data = manifest["data"]
    commit = f", commit {manifest['commit']}" if manifest.get("commit") else ""
    return (
        f"stssl {manifest['stssl']}{commit}; begun {manifest['created']}; data {data['name']} "
        f"(fingerprint {data['fingerprint'][:12]}); {packages}"
    )


def _found(config: SearchConfig, state: SearchState, table: list[Standing], better: bool) -> list[str]:
    sign = 1 if better else -1
    counts = ", ".join(f"{state.count(s)} {s}" for s in STATUSES)
    unit = "GPU hours" if config.resources.gpus else "hours of training"
    spent = (
        f"{hours(state, config, 'search'):.3g} {unit}, and {hours(state, config, 'replicate'):.3g} for the replicates"
    )
    parts = [
        f"<p>{len(state.of_kind('search'))} trials and {len(state.of_kind('replicate'))} replicates: {counts}. {spent}.</p>"
    ]
    base = baseline(state)
    if table:
        full = (
            [f"mean {config.metric} on all of validation"]
            if any(_full_validation(s, config.metric) for s in table)
            else []
        )
        rows = [
            [
                s.trial.id + (" (exported)" if s.trial.id == state.winner else ""),
                s.trial.recipe["framework"],
                interval(s, config.metric),
                "published recipe" if base is not None and s.trial.id == base.id else gain(s, config.metric),
                ", ".join(f"{sign * r.score:.3f}" for r in s.replicates),
                *([_full_validation(s, config.metric)] if full else []),
                f"{config.resources.cost(s.seconds) / 3600:.2g}",
                (s.trial.dropped or {}).get("reason", "") or (f"{s.failed} replicates failed" if s.failed else ""),
                _settings(s.trial.params),
            ]
            for s in table
        ]
        full = (
            [f"mean {config.metric} on all of validation"]
            if any(_full_validation(s, config.metric) for s in table)
            else []
        )
        head = ["recipe", "framework", f"mean {config.metric} [95 % interval]", "against the published recipe, paired"]
        head += ["replicates", *full, unit, "given up", "settings"]
        parts.append(
            "<p>Replicates: other seeds and other labeled subsets, full length, scored on validation; ranked by the lower end of "
            "the interval. The interval covers seeds and subsets only, not the choice of validation images, on which the recipes "
            "were also selected. p: paired t-test over seeds, two-sided, Holm's correction.</p>"
        )
        parts.append(_table(head, rows))
    parts += [f"<p>{html.escape(line)}</p>" for line in tested(state, config)]
    return parts


def _full_validation(standing: Standing, metric: str) -> str:
    """Mean over the replicates on the whole validation split, where the search saw but a budget of it."""
    values = [r.results[-1]["validation"].get(f"validation_full/{metric}") for r in standing.replicates]
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known else ""


def _trials(state: SearchState, space: Space, better: bool) -> list[str]:
    sign = 1 if better else -1
    keys = list(space.parameters)
    rows = []
    for t in state.trials.values():
        score = f"{sign * t.score:.4f}" if t.results else ""
        values = [_value(t.params[k]) if k in t.params else "" for k in keys]
        rows.append([t.id, t.status, str(t.step), score, f"{t.seconds:.1f}", *values, t.reason])
    return [_table(["trial", "status", "step", "score", "seconds", *keys, "why it ended"], rows)]


def _settings(params: dict[str, Any]) -> str:
    return ", ".join(f"{k} {_value(v)}" for k, v in params.items())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"
