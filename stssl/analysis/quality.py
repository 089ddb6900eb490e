"""Plots of the pseudo-labels' own quality: in a search's report, and of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import plotly.graph_objects as go
from plotly.colors import qualitative

from stssl.analysis.plots import layout
from stssl.files import atomic_path
from stssl.search.state import SearchState

# what each line is called, where the record of a training interval keeps it, and how it is drawn
_WHOSE = {"pseudo-labels": "pseudo/{}", "teacher": "teacher/pseudo_{}", "student": "student/pseudo_{}"}
_DASH = {"plain": "dot", "metadata_input": "dash", "teacher_student": "solid"}
_LINE = {"pseudo-labels": "-", "teacher": "--", "student": ":"}
SHOWN = ("mask_rate", "precision", "recall")


def series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float | None]]:
    """Steps, and a number of the record at each; None, a gap, where it is not there.

    Args:
        history: Entries with `step` and `train`.
        name: Of the number in `train`.
    """
    return [entry["step"] for entry in history], [entry.get("train", {}).get(name) for entry in history]


def lines(history: Sequence[Mapping[str, Any]], shown: str) -> dict[str, tuple[list[int], list[float | None]]]:
    """What there is to draw of `mask_rate`, `precision` or `recall`: whose it is, and the series."""
    keys = {"pseudo-labels": "mask_rate"} if shown == "mask_rate" else {k: v.format(shown) for k, v in _WHOSE.items()}
    found = {whose: series(history, key) for whose, key in keys.items()}
    return {whose: line for whose, line in found.items() if any(value is not None for value in line[1])}


def pseudo_labels(state: SearchState) -> go.Figure | None:
    """Share believed, precision and recall against training step, for trials that ran in full; None without any."""
    trials = [t for t in state.of_kind("search") if t.status == "completed" and lines(t.results, "mask_rate")]
    if not trials:
        return None
    figure = go.Figure()
    views = [(shown, whose) for shown in SHOWN for whose in _WHOSE if shown != "mask_rate" or whose == "pseudo-labels"]
    traces: list[int] = []  # the view of each trace
    entries: set[tuple[int, str]] = set()  # view and algorithm that the legend has
    algorithms, palette = sorted({t.recipe["algorithm"]["name"] for t in trials}), qualitative.Safe
    for number, (shown, whose) in enumerate(views):
        for trial in trials:
            if (line := lines(trial.results, shown).get(whose)) is None:
                continue
            algorithm, framework = trial.recipe["algorithm"]["name"], trial.recipe["framework"]
            named = (number, algorithm) in entries
            entries.add((number, algorithm))
            figure.add_scatter(
                x=line[0], y=line[1], mode="lines+markers", visible=number == 0,
                name=algorithm, legendgroup=algorithm, showlegend=not named,
                line={"color": palette[algorithms.index(algorithm) % len(palette)], "dash": _DASH[framework], "width": 1.5},
                hovertemplate=f"{trial.id} ({algorithm}, {framework})<br>step %{{x}}: %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
            traces.append(number)
    names = {"mask_rate": "share believed", "precision": "precision", "recall": "recall"}
    titles = {key: name if key == "mask_rate" else f"{name} (where labels are hidden)" for key, name in names.items()}
    buttons = [
        {
            "label": names[shown] if shown == "mask_rate" else f"{names[shown]}: {whose}",
            "method": "update",
            "args": [{"visible": [trace == number for trace in traces]}, {"yaxis.title.text": titles[shown]}],
        }
        for number, (shown, whose) in enumerate(views)
        if number in traces
    ]
    figure.update_layout(updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.15}])
    figure.update_yaxes(range=[0, 1.02])
    layout(
        figure,
        "Training step (trials trained in full; solid: teacher_student, dash: metadata_input, dots: plain)",
        names["mask_rate"],
    )
    return figure.update_layout(legend={"orientation": "v", "x": 1.02, "y": 1})  # a dozen algorithms find room


def picture(history: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """One PNG of a training: losses, validation score, and the pseudo-labels' quality.

    Args:
        history: A trainer's, at least one entry.
        metric: The validation score shown.
        path: Where to.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    names = sorted({name for entry in history for name in entry["train"] if name.split("/")[-1] in _LOSSES})
    for name in names:
        role = name.split("/")[0]
        steps, values = series(history, name)
        colour = f"C{_LOSSES.index(name.split('/')[-1])}"
        left.plot(steps, _gaps(values), _LINE.get(role, "-"), color=colour, label=name, marker=".")
    left.set(xlabel="training step", title="losses")
    left.legend(frameon=False, fontsize=8)
    steps = [entry["step"] for entry in history]
    middle.plot(steps, [entry["validation"][metric] for entry in history], color="#0072b2", marker=".")
    middle.set(xlabel="training step", title=f"validation {metric}")
    drawn = False
    for shown, colour in (("mask_rate", "#999999"), ("precision", "#0072b2"), ("recall", "#d55e00")):
        for whose, line in lines(history, shown).items():
            label = "share believed" if shown == "mask_rate" else f"{shown}, {whose}"
            right.plot(line[0], _gaps(line[1]), _LINE[whose], color=colour, label=label, marker=".")
            drawn = True
    right.set(xlabel="training step", title="pseudo-labels (labels hidden from training)", ylim=(0, 1.02))
    if drawn:
        right.legend(frameon=False, fontsize=8)
    else:
        right.set_visible(False)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


_LOSSES = ("supervised", "unsupervised", "distillation", "fairness", "debiasing")


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
