"""What is told to people and other programs, at every moment of a search."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stssl.search.results import more_is_better, summary, write_table
from stssl.search.state import SearchState
from stssl.training.evaluate import METRICS


def test_directions() -> None:
    assert not more_is_better("loss")
    for table in METRICS.values():
        assert all(more_is_better(metric) == more for metric, more in table.items())


def test_summary(script: Any) -> None:
    s = script()
    nothing = {"running": 0, "completed": 0, "failed": 0}
    assert summary(s.state, 4) == {
        "finished": False, "trials": {"planned": 4, **nothing, "stopped": 0}, "replicates": nothing, "best": None,
        "standings": [], "failures": {}, "test": None, "training_seconds": 0,
    }  # fmt: skip
    for number, lr in enumerate((0.1, 0.2, 0.3), start=1):
        s.trial(f"t000{number}", optimizer__lr=lr)
    s.failed("t0001").result("t0002", 10, 0.5, "stop").result("t0003", 90, 0.6, "complete").trial("t0004")
    s.trial("t0003-r1", of="t0003").result("t0003-r1", 90, 0.25, "complete")
    found = summary(s.state, 4)
    assert found["trials"] == {"planned": 4, "running": 1, "stopped": 1, "completed": 1, "failed": 1}
    assert found["replicates"] == {"running": 0, "completed": 1, "failed": 0}
    assert found["best"] == {"trial": "t0003", "step": 90, "score": 0.6, "params": {"optimizer.lr": 0.3}}
    assert found["standings"] == [{"trial": "t0003", "mean": 0.25, "interval_95": None, "scores": [0.25]}]
    assert found["failures"] == {"t0001": "raised: oh"} and found["training_seconds"] == 4.5
    s.trial("t0003-r2", of="t0003").result("t0003-r2", 90, 0.75, "complete")
    s.add("tested", trial="t0003", scores={"accuracy": 0.5}).add("finished")
    found = summary(s.state, 4)
    (standing,) = found["standings"]
    assert standing["mean"] == 0.5 and standing["interval_95"] == pytest.approx(
        [0.5 - 12.706205 * 0.25, 0.5 + 12.706205 * 0.25]
    )
    assert found["test"] == {"accuracy": 0.5} and found["finished"]


def test_any_moment_of_a_search(backend, search_config, learning_curve, tmp_path: Path) -> None:
    def score(recipe: dict[str, Any], step: int) -> Any:
        lr = recipe["optimizer"]["lr"]
        return math.nan if lr > 0.02 else "raised" if lr > 0.005 else learning_curve(recipe, step)

    run = backend(search_config(trials=15), workers=3, score=score)
    run.run()
    events = run.study.ledger.events
    assert {"raised", "diverged"} == {e["kind"] for e in events if e["event"] == "failed"}
    path = tmp_path / "trials.parquet"
    for end in range(len(events) + 1):
        state = SearchState.replay(events[:end])
        found = summary(state, 15)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert sum(found["trials"][s] for s in ("running", "stopped", "completed", "failed")) == len(
            state.of_kind("search")
        )
        if end % 7 == 0 or end > len(events) - 3:
            write_table(state, path)
            table = pq.read_table(path)
            assert table["trial"].to_pylist() == list(state.trials)
            for row, trial in zip(table.to_pylist(), state.trials.values(), strict=True):
                assert (row["kind"], row["of"], row["status"], row["reason"]) == (
                    trial.kind,
                    trial.of,
                    trial.status,
                    trial.reason,
                )
                assert (row["step"], row["seconds"]) == (trial.step, trial.seconds)
                assert row["score"] == (trial.score if trial.results else None)
                assert {k: row[k] for k in trial.params} == trial.params
                assert all(row[k] is None for k in run.space.parameters if k in row and k not in trial.params)
    types = {field.name: field.type for field in pq.read_schema(path)}
    assert types["step"] == pa.int64() and types["score"] == types["seconds"] == pa.float64()
    assert types["optimizer.lr"] == types["algorithm.threshold"] == pa.float64() and types["framework"] == pa.string()
    assert [p.name for p in tmp_path.glob("*parquet*")] == ["trials.parquet"]


def test_a_column_has_one_type(tmp_path: Path) -> None:
    params: list[dict[str, Any]] = [
        {
            "ints": 1,
            "floats": 0.5,
            "both": 1,
            "truth": True,
            "words": "a",
            "mixed": 1,
            "truth or number": True,
            "null": None,
        },
        {
            "ints": 2,
            "floats": 1.5,
            "both": 2.5,
            "truth": False,
            "words": "b",
            "mixed": "a",
            "truth or number": 2,
            "null": None,
        },
        {"ints": None},
    ]
    state = SearchState()
    for number, values in enumerate(params):
        state.apply(
            {"event": "created", "trial": f"t{number}", "kind": "search", "params": values, "recipe": {}, "time": 0.0}
        )
    write_table(state, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    column = lambda name: (table[name].type, table[name].to_pylist())  # noqa: E731
    assert column("ints") == (pa.int64(), [1, 2, None]) and column("floats") == (pa.float64(), [0.5, 1.5, None])
    assert column("both") == (pa.float64(), [1.0, 2.5, None]) and column("truth") == (pa.bool_(), [True, False, None])
    assert column("words") == (pa.string(), ["a", "b", None]) and column("mixed") == (pa.string(), ["1", "a", None])
    assert column("truth or number") == (pa.string(), ["True", "2", None]) and column("null")[1] == [None] * 3
