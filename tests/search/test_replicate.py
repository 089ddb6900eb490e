"""Which recipes are trained again, and what their replicates say."""

import math
from typing import Any

import pytest

from stssl.search.replicate import candidates, standings


def names(script: Any, top: int = 10) -> list[str]:
    return [t.id for t in candidates(script.state, top)]


def test_candidates(script: Any) -> None:
    s = script()
    assert names(s) == []
    s.trial("t0001", optimizer__lr=0.1).trial("t0002", optimizer__lr=0.2).trial("t0003", optimizer__lr=0.3)
    s.trial("t0004", optimizer__lr=0.4).trial("t0005", framework="metadata_input", optimizer__lr=0.5)
    s.trial("t0006", optimizer__lr=0.6).trial("t0007", optimizer__lr=0.7).trial("t0008", framework="teacher_student")
    assert names(s) == []  # nobody has ended
    s.result("t0001", 10, 0.99, "stop")  # good, but not far
    s.result("t0002", 90, 0.5, "complete").result("t0003", 90, 0.7, "complete").result("t0004", 90, 0.5, "complete")
    s.result("t0005", 90, 0.9, "complete")  # needs metadata
    s.result("t0006", 90, 0.9).failed("t0006").result("t0007", 30, 0.9)
    s.result("t0008", 30, 0.1, "stop")
    assert names(s) == ["t0003", "t0002", "t0004", "t0008", "t0001"]  # furthest, best, first
    assert names(s, 2) == ["t0003", "t0002"] and names(s, 1) == ["t0003"]
    s.trial("t0002-r1", of="t0002").result("t0002-r1", 90, 1.0, "complete")
    assert names(s, 2) == ["t0003", "t0002"]  # a replicate is no candidate


def test_the_same_recipe_counts_once(script: Any) -> None:
    """Two points of a space may be one recipe, such as another weight for what the framework does not have."""
    s = script()
    for number, (lr, score) in enumerate([(0.1, 0.5), (0.2, 0.9), (0.1, 0.7), (0.2, 0.9)], start=1):
        s.trial(f"t000{number}", optimizer__lr=lr).result(f"t000{number}", 90, score, "complete")
    assert names(s) == ["t0002", "t0003"] and names(s, 1) == ["t0002"]


def replicated(script: Any, scores: dict[str, list[float | None]]) -> Any:
    """Trials with replicates; None = failed."""
    s = script()
    for trial in scores:
        s.trial(trial).result(trial, 90, 0.5, "complete")
    for trial, values in scores.items():
        for number, score in enumerate(values, start=1):
            s.trial(f"{trial}-r{number}", of=trial)
            if score is None:
                s.failed(f"{trial}-r{number}")
            else:
                s.result(f"{trial}-r{number}", 90, score, "complete")
    return s


def test_mean_and_interval_by_hand(script: Any) -> None:
    (found,) = standings(replicated(script, {"t0001": [0.70, 0.75, 0.77]}).state)
    # mean 0.74; deviations -0.04, 0.01, 0.03: s = sqrt(0.0026 / 2) = 0.0360555; t(0.975, 2) = 4.302653
    half = 4.302653 * 0.0360555 / math.sqrt(3)
    assert found.mean == pytest.approx(0.74) and [r.id for r in found.replicates] == [
        "t0001-r1",
        "t0001-r2",
        "t0001-r3",
    ]
    assert (found.low, found.high) == (pytest.approx(0.74 - half, abs=1e-6), pytest.approx(0.74 + half, abs=1e-6))
    (found,) = standings(replicated(script, {"t0001": [0.2, 0.4]}).state)
    assert (found.low, found.high) == (pytest.approx(0.3 - 12.706205 * 0.1), pytest.approx(0.3 + 12.706205 * 0.1))
    (found,) = standings(replicated(script, {"t0001": [0.3] * 5}).state)
    assert (found.mean, found.low, found.high) == (0.3, 0.3, 0.3)
    (found,) = standings(replicated(script, {"t0001": [0.3]}).state)
    assert found.mean == 0.3 and math.isnan(found.low) and math.isnan(found.high)


def test_order(script: Any) -> None:
    s = replicated(
        script,
        {
            "t0001": [0.5, 0.6, 0.7],
            "t0002": [0.9, 0.9, None],  # better where it completed, but it has shown less
            "t0003": [0.6, 0.7, 0.8],
            "t0004": [None, None, None],
            "t0005": [0.5, 0.6, 0.7],
            "t0006": [1.0, None, None],
        },
    )
    assert [f.trial.id for f in standings(s.state)] == ["t0003", "t0001", "t0005", "t0002", "t0006"]
    assert [len(f.replicates) for f in standings(s.state)] == [3, 3, 3, 2, 1]


def test_only_what_completed_counts(script: Any) -> None:
    s = script().trial("t0001").result("t0001", 90, 1.0, "complete").trial("t0001-r1", of="t0001")
    assert standings(s.state) == []
    s.result("t0001-r1", 30, 0.9)
    assert standings(s.state) == []
    s.result("t0001-r1", 90, 0.4, "complete").trial("t0001-r2", of="t0001").result("t0001-r2", 30, 0.9)
    (found,) = standings(s.state)
    assert found.mean == 0.4 and found.trial.score == 1.0 and len(found.replicates) == 1
