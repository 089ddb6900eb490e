"""Plots of a search: plotly for the report, one matplotlib picture for everything else."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import matplotlib
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from stssl.errors import shorten
from stssl.files import atomic_path
from stssl.search import objectives
from stssl.search.ranking import front
from stssl.search.replicate import Standing, baseline, standings
from stssl.search.results import with_both
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState

COLOURS = {"plain": "#0072b2", "metadata_input": "#e69f00", "teacher_student": "#009e73"}  # colour-blind safe
_ENDS = {
    "completed": "trained in full", "paused": "paused", "stopped": "stopped early", "failed": "failed",
    "running": "running",
}  # fmt: skip


def signed(values: list[float], more_is_better: bool) -> list[float]:
    """Scores back to the metric's own sign."""
    return values if more_is_better else [-v for v in values]


def curves(state: SearchState, ladder: list[int], metric: str, more_is_better: bool) -> go.Figure:
    """Validation metric against training step, a line a trial; the rungs are dotted."""
    figure = go.Figure()
    shown: set[str] = set()
    for trial in state.of_kind("search"):
        if not trial.results:
            continue
        framework = trial.recipe["framework"]
        text = "<br>".join(
            [
                f"<b>{trial.id}</b> ({_ENDS[trial.status]})",
                *(f"{escaped(k)}: {_short(v)}" for k, v in trial.params.items()),
            ]
        )
        steps, end = list(trial.scores), "x" if trial.status in ("paused", "stopped") else "circle"
        figure.add_scatter(
            x=steps, y=signed(list(trial.scores.values()), more_is_better), mode="lines+markers", name=framework,
            legendgroup=framework, showlegend=framework not in shown,
            hovertemplate=f"{text}<br>step %{{x}}: %{{y:.3f}}<extra></extra>",
            line={"color": COLOURS[framework], "width": 2.5 if trial.status == "completed" else 1},
            opacity=1 if trial.status == "completed" else 0.55,
            marker={"size": 7, "symbol": ["circle"] * (len(steps) - 1) + [end]},
        )  # fmt: skip
        shown.add(framework)
    for rung in ladder:
        figure.add_vline(x=rung, line={"dash": "dot", "color": "#999", "width": 1})
    return layout(figure, "Training step (dotted: rungs; crosses: no further)", f"Validation {metric}")


def by_parameter(state: SearchState, space: Space, metric: str, more_is_better: bool) -> go.Figure | None:
    """Last validation metric against each searched key; trials that went no further are faint."""
    trials = [t for t in state.of_kind("search") if t.results]
    keys = list(space.parameters)
    if not trials or not keys:
        return None
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[escaped(key) for key in keys],
        vertical_spacing=0.35 / rows,
        horizontal_spacing=0.08,
    )
    for number, key in enumerate(keys):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        drawn = [t for t in trials if key in t.params]
        numeric = space.parameters[key].choice is None
        figure.add_scatter(
            x=[t.params[key] if numeric else escaped(t.params[key]) for t in drawn],
            y=signed([t.score for t in drawn], more_is_better), mode="markers", showlegend=False,
            text=[f"{t.id}, step {t.step}" for t in drawn], hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            marker={
                "color": [COLOURS[t.recipe["framework"]] for t in drawn], "size": 9,
                "opacity": [1.0 if t.status == "completed" else 0.35 for t in drawn],
            },
            **place,
        )  # fmt: skip
        if space.parameters[key].loguniform:
            figure.update_xaxes(type="log", dtick=1, exponentformat="power", **place)
    figure.update_layout(height=260 * rows + 60)
    return layout(figure, None, None)


def pareto(state: SearchState, step: int, metric: str, second: str) -> go.Figure:
    """The two objectives of the trials trained in full against each other, the Pareto front joined."""
    figure, done = go.Figure(), with_both(state, step)
    signs = [1 if objectives.more_is_better(name) else -1 for name in (metric, second)]
    point = lambda t: (signs[0] * t.scores[step], signs[1] * t.second[step])  # noqa: E731
    best = front(done, step)
    for trials, name, mode in ((done, "trained in full", "markers"), (best, "Pareto front", "lines+markers")):
        figure.add_scatter(
            x=[point(t)[0] for t in trials], y=[point(t)[1] for t in trials], mode=mode, name=name,
            text=[t.id for t in trials], hovertemplate="%{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
            line={"color": "#d0703c", "width": 1.5}, marker={"color": "#4c566a" if mode == "markers" else "#d0703c"},
        )  # fmt: skip
    names = [name if name.startswith(objectives.HOLDOUT) else f"Validation {name}" for name in (metric, second)]
    return layout(figure, *names)


def replicates(table: list[Standing], state: SearchState, metric: str, more_is_better: bool) -> go.Figure:
    """Scores of the replicates and their mean with its 95 % interval."""
    figure = go.Figure()
    for standing in table:
        colour = COLOURS[standing.trial.recipe["framework"]]
        scores = signed([r.score for r in standing.replicates], more_is_better)
        mean = signed([standing.mean], more_is_better)[0]
        name = _label(standing, state)
        figure.add_scatter(
            x=scores,
            y=[name] * len(scores),
            mode="markers",
            marker={"color": colour, "size": 8, "opacity": 0.5},
            showlegend=False,
        )
        figure.add_scatter(
            x=[mean], y=[name], mode="markers", marker={"color": colour, "size": 13, "symbol": "diamond"}, showlegend=False,
            error_x={"type": "data", "array": [standing.high - standing.mean], "color": colour, "thickness": 2},
        )  # fmt: skip
    figure.update_layout(height=160 + 60 * len(table))
    figure.update_yaxes(autorange="reversed")  # the best on top
    return layout(figure, f"Validation {metric} at full length (diamond: mean and 95 % interval)", None)


def layout(figure: go.Figure, x: str | None, y: str | None) -> go.Figure:
    """The look that all figures share, and the titles of the axes."""
    figure.update_layout(
        template="simple_white", margin={"l": 60, "r": 20, "t": 60, "b": 55}, legend={"orientation": "h", "y": 1.12},
        font={"family": "system-ui, sans-serif", "size": 13},
    )  # fmt: skip
    if x:
        figure.update_xaxes(title=x)
    if y:
        figure.update_yaxes(title=y)
    return figure


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escaped(value)


def escaped(value: Any) -> str:
    """Text for a figure, which reads some HTML in what it shows, and `%{...}` in what it shows under the mouse."""
    return html.escape(shorten(str(value))).replace("%{", "%&#123;")


def picture(state: SearchState, ladder: list[int], metric: str, more_is_better: bool, path: Path) -> None:
    """One PNG of the search: learning curves with rungs, and the replicates with their intervals."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    sign = 1 if more_is_better else -1
    table = standings(state)
    ratio = [3, 2] if table else [1, 0.001]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=ratio, layout="constrained")
    for trial in state.of_kind("search"):
        _draw_curve(left, trial, sign)
    for rung in ladder:
        left.axvline(rung, color="#999", linestyle=":", linewidth=1, zorder=0)
    left.set(xlabel="training step (dotted: rungs)", ylabel=f"validation {metric}")
    left.set_title("the search; crosses: where a trial went no further", fontsize=10, loc="left")
    handles = [Line2D([], [], color=c, label=n) for n, c in COLOURS.items()]
    left.legend(handles=handles, frameon=False, fontsize=8)
    if table:
        for row, standing in enumerate(reversed(table)):
            colour = COLOURS[standing.trial.recipe["framework"]]
            half = standing.high - standing.mean
            right.errorbar(sign * standing.mean, row, xerr=half, fmt="D", color=colour, capsize=4)
            right.plot(
                [sign * r.score for r in standing.replicates],
                [row] * len(standing.replicates),
                "o",
                color=colour,
                alpha=0.4,
            )
        right.set_yticks(
            range(len(table)), [_label(s, state).replace(", ", "\n", 1) for s in reversed(table)], fontsize=8
        )
        right.set(ylim=(-0.6, len(table) - 0.4), xlabel=f"validation {metric}, full length")
        right.set_title("over seeds: mean, 95 % interval", fontsize=10, loc="left")
    else:
        right.set_visible(False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _label(standing: Standing, state: SearchState) -> str:
    """`t0001, plain, published`."""
    base = baseline(state)
    published = ", published" if base is not None and base.id == standing.trial.id else ""
    return f"{standing.trial.id}, {standing.trial.recipe['framework']}{published}"


def _draw_curve(axis: Any, trial: TrialState, sign: int) -> None:
    colour = COLOURS[trial.recipe["framework"]]
    full = trial.status == "completed"
    scores = [sign * s for s in trial.scores.values()]
    axis.plot(list(trial.scores), scores, color=colour, linewidth=2 if full else 1, alpha=1 if full else 0.55)
    if scores:
        axis.plot(trial.step, scores[-1], "o" if full else "x", color=colour, markersize=5)
