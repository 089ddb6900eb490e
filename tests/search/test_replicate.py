"""Which recipes are trained again, and what their replicates say."""

import math
from typing import Any

import pytest

from stssl.search.replicate import baseline, candidates, paired, standings, to_drop, unfinished


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


def test_equal_scores_get_the_spread_of_the_others(script: Any) -> None:
    table = standings(replicated(script, {"t0001": [0.9] * 3, "t0002": [0.5, 0.6, 0.7]}).state)
    by = {s.trial.id: s for s in table}
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (by["t0001"].low, by["t0001"].high) == (pytest.approx(0.9 - half), pytest.approx(0.9 + half))


def test_two_replicates_rank_by_their_mean(script: Any) -> None:
    table = standings(replicated(script, {"t0001": [0.5, 0.51], "t0002": [0.6, 0.8], "t0003": [0.55, None]}).state)
    assert [s.trial.id for s in table] == ["t0002", "t0001", "t0003"]


def test_what_the_machine_failed_is_no_fault_of_the_recipe(script: Any) -> None:
    s = with_base(script, {"t0001": [0.61, 0.62, 0.63], "t0002": [0.91, 0.92]})
    s.trial("t0002-r3", of="t0002").add("failed", trial="t0002-r3", kind="infrastructure", reason="infrastructure: x")
    assert [(f.trial.id, f.failed) for f in standings(s.state)] == [("t0002", 0), ("t0001", 0)]
    s.events[0]["by"] = {"sampler": "base"}
    s.add("failed", trial="t0001", kind="infrastructure", reason="infrastructure: x")
    assert baseline(s.state) is not None
    s.add("failed", trial="t0001", kind="raised", reason="raised: x")
    assert baseline(s.state) is None


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
            "t0007": [0.2, 0.9, 1.0],  # a higher mean than t0001, but it has proven less
            "t0008": [0.95, 0.96, 0.97],
        },
    )
    s.add("dropped", trial="t0008", round=3, reason="weak")
    order = ["t0003", "t0001", "t0005", "t0007", "t0002", "t0006", "t0008"]
    assert [f.trial.id for f in standings(s.state)] == order
    assert [len(f.replicates) for f in standings(s.state)] == [3, 3, 3, 3, 2, 1, 3]
    assert [f.failed for f in standings(s.state)] == [0, 0, 0, 0, 1, 2, 0]


def with_base(script: Any, scores: dict[str, list[float | None]]) -> Any:
    """As `replicated`; t0001 is the published recipe."""
    s = replicated(script, scores)
    next(e for e in s.events if e.get("trial") == "t0001")["by"] = {"sampler": "base"}
    return s


def test_the_published_recipe_is_always_among_them(script: Any) -> None:
    s = script()
    for number, score in enumerate((0.1, 0.5, 0.6, 0.7), start=1):
        s.trial(f"t000{number}", optimizer__lr=number / 10)
        s.events[-1]["by"] = {"sampler": "base" if number == 1 else "tpe"}
        s.result(f"t000{number}", 90, score, "complete")
    assert names(s, 2) == ["t0004", "t0003", "t0001"] and names(s, 4) == ["t0004", "t0003", "t0002", "t0001"]
    s.failed("t0001")
    assert names(s, 2) == ["t0004", "t0003"]
    s = script().trial("t0001", framework="metadata_input").trial("t0002").result("t0002", 90, 0.1, "complete")
    s.events[0]["by"] = {"sampler": "base"}
    assert names(s) == ["t0002"]


def test_paired_by_hand() -> None:
    # differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1, t = 0.2 / (0.1 / sqrt 3) = 3.4641; p from a table of t with 2 degrees
    mean, half, p = paired({1: 0.5, 2: 0.7, 3: 0.9, 4: 1.0}, {1: 0.4, 2: 0.5, 3: 0.6, 9: 0.0})
    assert (mean, half, p) == (
        pytest.approx(0.2),
        pytest.approx(4.302653 * 0.1 / math.sqrt(3)),
        pytest.approx(0.0742, abs=1e-4),
    )
    assert paired({1: 0.5, 2: 0.7, 3: 0.9}, {1: 0.4, 2: 0.5, 3: 0.6}, one_sided=True)[2] == pytest.approx(
        0.0371, abs=1e-4
    )
    assert paired({1: 0.4, 2: 0.5, 3: 0.6}, {1: 0.5, 2: 0.7, 3: 0.9}, one_sided=True)[2] == pytest.approx(
        0.9629, abs=1e-4
    )
    # differences that are all the same: a sign test
    assert paired({1: 0.5, 2: 0.6}, {1: 0.5, 2: 0.6})[::2] == (0.0, 1.0)
    mean, half, p = paired({1: 0.5, 2: 0.75, 3: 1.0}, {1: 0.25, 2: 0.5, 3: 0.75})
    assert (mean, p) == (0.25, 2 / 8) and math.isnan(half)
    assert paired({1: 0.5, 2: 0.75, 3: 1.0}, {1: 0.25, 2: 0.5, 3: 0.75}, one_sided=True)[2] == 1 / 8
    assert paired({1: 0.25, 2: 0.5}, {1: 0.5, 2: 0.75}, one_sided=True)[2] == 1.0
    assert all(math.isnan(x) for x in paired({1: 0.5}, {1: 0.4}))


def test_p_values_are_corrected_for_their_number(script: Any) -> None:
    scores = {"t0001": [0.4, 0.5, 0.6], "t0002": [0.5, 0.7, 0.9], "t0003": [0.55, 0.65, 0.72], "t0004": [0.4, 0.6, 0.5]}
    table = {f.trial.id: f for f in standings(with_base(script, scores).state)}
    assert math.isnan(table["t0001"].p) and math.isnan(table["t0001"].gain)
    raw = {n: paired(dict(enumerate(scores[n])), dict(enumerate(scores["t0001"])))[2] for n in list(scores)[1:]}
    assert sorted(raw, key=raw.get) == ["t0003", "t0002", "t0004"]  # type: ignore[arg-type]
    assert table["t0003"].p == pytest.approx(3 * raw["t0003"]) and table["t0002"].p == pytest.approx(2 * raw["t0002"])
    assert table["t0004"].p == raw["t0004"] == 1.0
    assert table["t0002"].gain == pytest.approx(0.2) and table["t0002"].seconds == 4.5


def test_weak_ones_are_given_up(script: Any) -> None:
    good, weak = [0.80, 0.82, 0.81], [0.50, 0.53, 0.50]
    scores = {"t0001": [0.3, 0.3, 0.3], "t0002": good, "t0003": weak, "t0004": [0.79, 0.83, 0.80]}
    s = with_base(script, scores)
    chosen = [s.state.trials[name] for name in scores]
    drop = lambda seeds: to_drop(s.state, [s.state.trials[name] for name in scores], seeds)  # noqa: E731
    assert drop(3) is None  # nothing would be saved
    found = drop(5)
    assert (found["trial"], found["round"], found["leader"]) == ("t0003", 3, "t0002")
    assert found["p"] == paired(dict(enumerate(good)), dict(enumerate(weak)), one_sided=True)[2] < 0.05 / 2
    assert "behind t0002 by 0.3 after 3 replicates (paired t-test, p = " in found["reason"]
    s.add("dropped", **found)
    assert drop(5) is None, "the published recipe stays, and t0004 is hardly weaker"
    left = unfinished(s.state, [s.state.trials[name] for name in scores], 5)
    assert [(t.id, n) for t, n in left] == [(t, n) for n in (4, 5) for t in ("t0001", "t0002", "t0004")]
    # the next round is judged when it is over, without those given up before
    for name, score in (("t0001", 0.3), ("t0002", 0.5)):
        s.trial(f"{name}-r4", of=name).result(f"{name}-r4", 90, score, "complete")
    s.trial("t0004-r4", of="t0004")
    assert drop(5) is None
    s.failed("t0004-r4")
    assert drop(5) is None and len(chosen) == 4


def test_a_round_is_judged_when_it_is_over(script: Any) -> None:
    s = with_base(script, {"t0001": [0.3] * 3, "t0002": [0.80, 0.82, 0.8], "t0003": [0.1, 0.1]})
    names = ("t0001", "t0002", "t0003")
    assert to_drop(s.state, [s.state.trials[n] for n in names], 4) is None
    s.trial("t0003-r3", of="t0003").result("t0003-r3", 90, 0.11, "complete")
    assert to_drop(s.state, [s.state.trials[n] for n in names], 4)["trial"] == "t0003"


def test_only_what_completed_counts(script: Any) -> None:
    s = script().trial("t0001").result("t0001", 90, 1.0, "complete").trial("t0001-r1", of="t0001")
    assert standings(s.state) == []
    s.result("t0001-r1", 30, 0.9)
    assert standings(s.state) == []
    s.result("t0001-r1", 90, 0.4, "complete").trial("t0001-r2", of="t0001").result("t0001-r2", 30, 0.9)
    (found,) = standings(s.state)
    assert found.mean == 0.4 and found.trial.score == 1.0 and len(found.replicates) == 1
