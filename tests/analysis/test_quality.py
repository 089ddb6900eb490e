"""The plots of a training and of a search's pseudo-labels show what is on record, and gaps where nothing is."""

import struct
from pathlib import Path
from typing import Any

import pytest

from stssl.analysis import quality
from stssl.search.state import SearchState, TrialState


def entry(step: int, **train: float) -> dict[str, Any]:
    return {"step": step, "seconds": 1.0, "train": train, "validation": {"accuracy": step / 10}}


HISTORY = [
    entry(2, **{"student/supervised": 1.0, "mask_rate": 0.0}),
    entry(4, **{"student/supervised": 0.5, "mask_rate": 0.5, "pseudo/precision": 0.9, "student/pseudo_precision": 0.8}),
]


def test_lines() -> None:
    assert quality.lines(HISTORY, "precision") == {
        "pseudo-labels": ([2, 4], [None, 0.9]),
        "student": ([2, 4], [None, 0.8]),
    }
    assert quality.lines(HISTORY, "mask_rate") == {"pseudo-labels": ([2, 4], [0.0, 0.5])}
    assert quality.lines(HISTORY, "recall") == {}


@pytest.mark.parametrize("history", [HISTORY, [entry(2, **{"student/supervised": 1.0})]])
def test_picture(history: list[dict[str, Any]], tmp_path: Path) -> None:
    quality.picture(history, "accuracy", tmp_path / "training.png")
    header = (tmp_path / "training.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", header[16:24])[0] > 1000


def test_report_figure() -> None:
    recipe = {"framework": "plain", "algorithm": {"name": "fixmatch"}}
    state = SearchState()
    assert quality.pseudo_labels(state) is None
    for name, status in (("t1", "completed"), ("t2", "stopped")):
        state.put(TrialState(name, "search", {}, recipe, 0.0, status=status, results=HISTORY))
    figure = quality.pseudo_labels(state)
    assert figure is not None and len(figure.data) == 3 and all("t1 (" in trace.hovertemplate for trace in figure.data)
    assert all(trace.name == "fixmatch" and trace.showlegend and trace.line.dash == "dot" for trace in figure.data)
    assert [trace.visible for trace in figure.data] == [True, False, False]
    buttons = figure.layout.updatemenus[0].buttons
    assert [b.label for b in buttons] == ["share believed", "precision: pseudo-labels", "precision: student"]
    assert [list(b.args[0]["visible"]) for b in buttons] == [[i == k for i in range(3)] for k in range(3)]


def test_report_figure_tells_algorithms_apart() -> None:
    state = SearchState()
    for i, (algorithm, framework) in enumerate(
        [("fixmatch", "plain"), ("cdmad", "teacher_student"), ("fixmatch", "metadata_input")]
    ):
        recipe = {"framework": framework, "algorithm": {"name": algorithm}}
        state.put(TrialState(f"t{i}", "search", {}, recipe, 0.0, status="completed", results=HISTORY))
    figure = quality.pseudo_labels(state)
    assert figure is not None
    first = [trace for trace in figure.data if trace.visible]
    assert [trace.name for trace in first] == ["fixmatch", "cdmad", "fixmatch"]
    assert [trace.showlegend for trace in first] == [True, True, False]
    assert first[0].line.color == first[2].line.color != first[1].line.color
    assert [trace.line.dash for trace in first] == ["dot", "solid", "dash"]


def test_an_old_ledger_without_the_numbers() -> None:
    recipe = {"framework": "plain", "algorithm": {"name": "fixmatch"}}
    old = [{"step": 2, "seconds": 1.0, "validation": {"accuracy": 0.5}}]
    state = SearchState(trials={"t1": TrialState("t1", "search", {}, recipe, 0.0, status="completed", results=old)})
    assert quality.pseudo_labels(state) is None
