"""What is told to people and other programs, at every moment of a search."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stssl.search.objectives import more_is_better
from stssl.search.results import STATUSES, summary, write_table
from stssl.search.state import SearchState
from stssl.training.metrics import METRICS


def test_directions() -> None:
    assert not more_is_better("loss") and not more_is_better("holdout/loss") and more_is_better("holdout/accuracy")
    for table in METRICS.values():
        assert all(more_is_better(metric) == more for metric, more in table.items())


def test_summary(script: Any, search_config) -> None:
    s, config = script(), search_config(trials=4)
    nothing = {"running": 0, "stopped": 0, "completed": 0, "failed": 0}
    rung = {"reached": 0, "paused": 0, "best": None, "trial": None}
    assert summary(s.state, config) == {
        "finished": False, "trials": {"planned": 4, "paused": 0, **nothing}, "replicates": nothing, "best": None,
        "rungs": [{"step": step, **rung} for step in (10, 30, 90)], "front": None, "standings": [], "failures": {},
        "failures_by_cause": {}, "test": None, "test_read": 0, "training_seconds": 0,
        "hours": {"of": "training", "search": 0, "replicates": 0, "budget": None},
    }  # fmt: skip
    s.add("created", trial="t0001", kind="search", params={}, recipe=s.recipe, by={"sampler": "base"})
    for number, lr in enumerate((0.2, 0.3, 0.4), start=2):
        s.trial(f"t000{number}", optimizer__lr=lr)
    s.result("t0001", 10, 0.4, "pause").failed("t0002").result("t0004", 10, 0.5, "pause")
    s.result("t0003", 90, 0.6, "complete").trial("t0003-r1", of="t0003").result("t0003-r1", 90, 0.25, "complete")
    found = summary(s.state, config)
    assert found["trials"] == {"planned": 4, **nothing, "paused": 2, "completed": 1, "failed": 1}
    assert found["replicates"] == {**nothing, "completed": 1}
    assert found["best"] == {"trial": "t0003", "step": 90, "score": 0.6, "params": {"optimizer.lr": 0.3}}
    assert found["rungs"][0] == {"step": 10, "reached": 2, "paused": 2, "best": 0.5, "trial": "t0004"}
    assert found["failures"] == {"t0002": "raised: oh"} and found["failures_by_cause"] == {"raised": 1}
    assert found["training_seconds"] == 6 and found["hours"]["search"] == 4.5 / 3600
    s.trial("t0003-r2", of="t0003").result("t0003-r2", 90, 0.75, "complete")
    for number, score in ((1, 0.2), (2, 0.5)):
        s.trial(f"t0001-r{number}", of="t0001").result(f"t0001-r{number}", 90, score, "complete")
    s.add("tested", trial="t0003", scores={"accuracy": 0.5}).add("finished")
    found = summary(s.state, config)
    best, published = found["standings"]
    assert (best["trial"], best["published"], best["mean"]) == ("t0003", False, 0.5)
    assert best["interval_95"] == pytest.approx([0.5 - 12.706205 * 0.25, 0.5 + 12.706205 * 0.25])
    assert best["gain"] == pytest.approx(0.15) and best["gain_interval_95"] == pytest.approx(
        [0.15 - 12.706205 * 0.1, 0.15 + 12.706205 * 0.1]
    )
    assert best["p"] == pytest.approx(0.374334, abs=1e-5)  # t = 1.5 with one degree of freedom
    assert (published["trial"], published["published"], published["p"]) == ("t0001", True, None)
    assert found["test"] == {"accuracy": 0.5} and found["finished"]
    gpus = summary(s.state, search_config(trials=4, resources__gpus=0.5))["hours"]
    assert gpus == {"of": "GPU", "search": 4.5 / 7200, "replicates": 6 / 7200, "budget": None}


def test_two_objectives(script: Any, search_config) -> None:
    s = script()
    for number, (first, second) in enumerate([(0.9, -0.5), (0.5, -0.1), (0.4, -0.2)], start=1):
        s.trial(f"t{number}").result(f"t{number}", 90, first, "complete")
        s.events[-1]["second"] = second
    found = summary(s.state, search_config(second_metric="holdout/loss"))
    assert found["front"] == [
        {"trial": "t1", "accuracy": 0.9, "holdout/loss": 0.5}, {"trial": "t2", "accuracy": 0.5, "holdout/loss": 0.1},
    ]  # fmt: skip


def test_any_moment_of_a_search(backend, search_config, learning_curve, tmp_path: Path) -> None:
    def score(recipe: dict[str, Any], step: int) -> Any:
        lr = recipe["optimizer"]["lr"]
        return math.nan if lr > 0.02 else "raised" if lr > 0.005 else learning_curve(recipe, step)

    run = backend(search_config(trials=15), workers=3, score=score)
    run.run()
    events = run.study.ledger.events
    assert "raised" in {e["kind"] for e in events if e["event"] == "failed"}
    path = tmp_path / "trials.parquet"
    for end in range(len(events) + 1):
        state = SearchState.replay(events[:end])
        found = summary(state, run.config)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert sum(found["trials"][s] for s in STATUSES) == len(state.of_kind("search"))
        if end % 7 == 0 or end > len(events) - 3:
            write_table(state, path, run.config)
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


def test_a_column_has_one_type(tmp_path: Path, search_config) -> None:
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
    write_table(state, tmp_path / "t.parquet", search_config())
    table = pq.read_table(tmp_path / "t.parquet")
    column = lambda name: (table[name].type, table[name].to_pylist())  # noqa: E731
    assert column("ints") == (pa.int64(), [1, 2, None]) and column("floats") == (pa.float64(), [0.5, 1.5, None])
    assert column("both") == (pa.float64(), [1.0, 2.5, None]) and column("truth") == (pa.bool_(), [True, False, None])
    assert column("words") == (pa.string(), ["a", "b", None]) and column("mixed") == (pa.string(), ["1", "a", None])
    assert column("truth or number") == (pa.string(), ["True", "2", None]) and column("null")[1] == [None] * 3
