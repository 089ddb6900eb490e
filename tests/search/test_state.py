"""What the events say, by hand."""

import math
from typing import Any

import pytest

from stssl.search.state import SearchState


def test_a_life_in_events(script: Any) -> None:
    s = script().add("started").trial("t0001", optimizer__lr=0.1).trial("t0002", framework="metadata_input")
    trial = s.state.trials["t0001"]
    assert (trial.status, trial.step, trial.score, trial.seconds) == ("running", 0, -math.inf, 0)
    assert (trial.kind, trial.of, trial.params) == ("search", None, {"optimizer.lr": 0.1})
    assert trial.deployable and not s.state.trials["t0002"].deployable
    s.result("t0001", 10, 0.5).result("t0001", 20, 0.25)
    trial = s.state.trials["t0001"]
    assert (trial.status, trial.step, trial.score, trial.seconds) == ("running", 20, 0.25, 3.0)
    assert trial.scores == {10: 0.5, 20: 0.25} and [r["step"] for r in trial.results] == [10, 20]
    s.result("t0001", 30, 0.1, "stop")
    trial = s.state.trials["t0001"]
    assert (trial.status, trial.reason, trial.arrived) == ("stopped", "too weak", {10: 1, 20: 2, 30: 3})
    assert trial.results[-1]["score"] == 0.1
    s.result("t0002", 10, 0.5).add("lost", trial="t0002", reason="x").add("lost", trial="t0002", reason="x")
    trial = s.state.trials["t0002"]
    assert (trial.lost, trial.status, trial.step) == (2, "running", 10)
    s.failed("t0002")
    trial = s.state.trials["t0002"]
    assert (trial.status, trial.reason, trial.fault, trial.failed_at) == ("failed", "raised: oh", "raised", 5)
    s.trial("t0003").result("t0003", 90, 0.3, "complete").trial("t0003-r1", of="t0003")
    state = s.state
    assert state.trials["t0003"].status == "completed"
    assert state.trials["t0003-r1"].kind == "replicate" and state.trials["t0003-r1"].of == "t0003"
    assert (state.winner, state.tested, state.finished, state.exhausted) == (None, None, False, False)
    s.add("resumed").add("recovered", trial="t0003").add("exhausted").add("winner", trial="t0003", replicate="t0003-r1")
    s.add("tested", trial="t0003", scores={"accuracy": 0.5}).add("finished")
    state = s.state
    assert (state.winner, state.tested["scores"], state.finished, state.exhausted) == (
        "t0003",
        {"accuracy": 0.5},
        True,
        True,
    )


def test_paused_and_promoted(script: Any) -> None:
    s = script().trial("t0001").result("t0001", 10, 0.5, "pause")
    assert (s.state.trials["t0001"].status, s.state.trials["t0001"].reason) == ("paused", "too weak")
    s.add("promoted", trial="t0001")
    assert (s.state.trials["t0001"].status, s.state.trials["t0001"].reason) == ("running", "")
    s.add("lost", trial="t0001", kind="hung", reason="x").add("lost", trial="t0001", kind="infrastructure", reason="x")
    assert (s.state.trials["t0001"].raised, s.state.trials["t0001"].lost, s.state.losses) == (1, 1, ["t0001"])
    s.add("dropped", trial="t0001", round=3, reason="weak")
    assert s.state.trials["t0001"].dropped["round"] == 3


def test_an_extended_search_is_open_again(script: Any) -> None:
    s = script().trial("t0001").add("exhausted").add("winner", trial="t0001").add("tested", trial="t0001", scores={})
    s.add("finished").add("extended", changes={}, search={})
    state = s.state
    assert (state.winner, state.tested, state.finished, state.exhausted, state.tests) == (None, None, False, False, 1)


def test_imported(script: Any) -> None:
    s = script().add(
        "imported", trial="other/t0001", params={"a": 1}, scores={"10": 0.5}, status="paused", source="other"
    )
    assert s.state.trials == {} and s.state.imported[0].scores == {10: 0.5}


def test_what_samplers_ask_for(script: Any) -> None:
    s = script().trial("t0001").add("created", trial="t0002", kind="search", params={}, recipe={}, by={"sampler": "gp"})
    s.result("t0001", 10, 0.5).result("gone", 10, 0.5).result("t0002", 10, 0.4, "pause").result("t0001", 20, 0.6)
    s.failed("t0001")
    s.add("imported", trial="x", params={"a": 1}, scores={"10": 0.5}, status="failed", source="there", fault="hung")
    state = s.state
    one, two, other = state.trials["t0001"], state.trials["t0002"], state.imported[0]
    assert (one.by, one.fault, one.arrived, one.failed_at) == ({}, "raised", {10: 1, 20: 3}, 4)
    assert (two.by, two.fault, two.arrived, two.failed_at) == ({"sampler": "gp"}, "", {10: 2}, None)
    assert two.status == "paused" and state.sequence == 4
    assert (other.scores, other.status, other.fault, other.params) == ({10: 0.5}, "failed", "hung", {"a": 1})
    assert len(state.trials) == 2 and state.count("failed") == 1


def test_kinds_and_counts(script: Any) -> None:
    s = (
        script()
        .trial("t0001")
        .trial("t0002")
        .trial("t0003")
        .trial("t0003-r1", of="t0003")
        .trial("t0003-r2", of="t0003")
    )
    s.failed("t0001").result("t0002", 10, 0.1, "stop").result("t0003-r1", 90, 0.1, "complete")
    state = s.state
    names = lambda *a: [t.id for t in state.of_kind(*a)]  # noqa: E731
    assert names("search") == ["t0001", "t0002", "t0003"] and names("replicate") == ["t0003-r1", "t0003-r2"]
    assert names("search", "stopped", "failed") == ["t0001", "t0002"] and names("replicate", "failed") == []
    assert [state.count(status) for status in ("running", "stopped", "completed", "failed")] == [2, 1, 1, 1]


def test_best(script: Any) -> None:
    s = script()
    assert s.state.best() is None
    s.trial("t0001").trial("t0002").trial("t0003").trial("t0004").trial("t0005")
    assert s.state.best() is None
    s.result("t0001", 10, 0.9, "stop").result("t0002", 10, 0.2)
    assert s.state.best().id == "t0001"
    s.result("t0002", 20, 0.1)
    assert s.state.best().id == "t0002"  # further beats better
    s.result("t0003", 20, 0.3).result("t0004", 20, 0.3)
    assert s.state.best().id == "t0003"  # the first on a tie
    s.result("t0005", 90, 1.0).failed("t0005")
    assert s.state.best().id == "t0003"
    s.trial("t0003-r1", of="t0003").result("t0003-r1", 90, 1.0, "complete")
    assert s.state.best().id == "t0003"  # a replicate is no search trial


def test_orphans_are_passed_over(script: Any) -> None:
    """A user may delete a damaged line, as the message says; here the one that created t0001."""
    s = (
        script()
        .result("t0001", 10, 0.5)
        .failed("t0001")
        .add("lost", trial="t0001")
        .trial("t0002")
        .result("t0002", 10, 0.5)
    )
    assert list(s.state.trials) == ["t0002"]


def test_events_are_taken_in_one_by_one(script: Any) -> None:
    s = script().trial("t0001").result("t0001", 10, 0.5).failed("t0001").add("finished")
    live = SearchState()
    for number, event in enumerate(s.events, start=1):
        live.apply(event)
        assert live == SearchState.replay(s.events[:number]) and live != SearchState.replay(s.events[: number - 1])


def test_a_result_without_its_decision_is_a_mistake(script: Any) -> None:
    s = script().trial("t0001").add("result", trial="t0001", step=10, score=0.5, seconds=1.0)
    with pytest.raises(KeyError, match="decision"):
        _ = s.state
