"""What does a decision cost as a search grows? `python benchmarks/search_decisions.py`, a few minutes; prints JSON.

Searches of `--trials` trials with random scores, a hundred at a time on four rungs of a continuous space, are written down
by our own study. On each of these ledgers, in turn: `next`, the time to decide on a new trial, by sampler; `report`, to
decide on a result; `promotion`, to decide who trains on where no trial is to come; `replay`, to read the ledger and rebuild the
state; and `status` and `status --json`, the whole commands. Medians and ranges of `--rounds`.

`--ledgers` keeps the ledgers in a folder, and takes those that are there: so another version is measured on the same ones.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from stssl import config as cfg
from stssl.search import ledger
from stssl.search.config import SearchConfig
from stssl.search.ledger import Ledger
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState
from stssl.search.study import Job, Study
from stssl.training.recipe import PLUGINS, Recipe

sys.path.insert(0, str(Path(__file__).parent))
from search_curves import RUNGS, base_recipe

ROOT = Path(__file__).parents[1]
SPACE = {
    "framework": {"choice": ["plain", "teacher_student"]},
    "optimizer.lr": {"loguniform": [1e-5, 1e-1]},
    "algorithm.threshold": {"uniform": [0.5, 0.99]},
    "algorithm.unlabeled_weight": {"loguniform": [0.1, 10.0]},
    "training.ema_decay": {"uniform": [0.9, 0.999]},
}
SIZES, SAMPLERS = (1_000, 5_000, 20_000), ("random", "tpe", "qmc", "cmaes")
SCORES = ("accuracy", "balanced_accuracy", "f1_macro", "map_macro", "map_micro", "loss")


class SearchAlone(Study):
    """A study without replicates."""

    def chosen(self) -> list[TrialState]:
        return []


class MemoryLedger(Ledger):
    """A ledger that goes on from some events, and that nobody needs afterwards."""

    def __init__(self, source: Path) -> None:
        kept = Ledger(source)
        kept.close()
        vars(self).update(vars(kept))

    def _write(self, line: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def search_of(trials: int, sampler: str) -> tuple[SearchConfig, Space]:
    """The search, and its space."""
    data = {"name": "decisions", "trials": trials, "recipe": base_recipe("none"), "space": SPACE, "note": ""}
    changes = {"scheduler.grace_steps": RUNGS[0], "scheduler.reduction_factor": 3, "sampler.name": sampler}
    config = cfg.validate(SearchConfig, cfg.with_overrides(data, changes, plugins=PLUGINS), "decisions")
    config = config.model_copy(update={"recipe": cfg.validate(Recipe, config.recipe, "decisions").dump()})
    return config, Space(config.space, config.recipe, "decisions")


def record(folder: Path, trials: int) -> None:
    """Write the ledger of a search with random scores, and what makes its folder a run."""
    folder.mkdir(parents=True)
    config, space = search_of(trials, "random")
    study, source = SearchAlone(config, space, Ledger(folder)), random.Random(0)
    study.ledger._write = lambda line: None  # type: ignore[method-assign] # all in one go below: nobody waits for the disk
    running: list[tuple[str, int]] = []
    study.begin()
    while True:
        while len(running) < 100 and isinstance(job := study.next(), Job):
            running.append((job.trial, job.reported))
        if not running:
            break
        name, before = running.pop(source.randrange(len(running)))
        step = before + RUNGS[0]
        scores = {score: source.random() for score in SCORES}
        if study.report(name, step, 1.0, scores, {"total": 1.0}) == "continue":
            running.append((name, step))
    study.ledger.close()
    lines = (json.dumps(event) + "\n" for event in study.ledger.events)
    (folder / ledger.NAME).write_text("".join(lines), encoding="utf-8")
    (folder / "search.yaml").write_text(cfg.dump_yaml(config.dump()), encoding="utf-8")
    manifest = {
        "search": config.dump(), "stssl": "0", "created": "", "packages": {}, "commit": None, "python": "",
        "data": {"name": "none", "fingerprint": "0" * 64, "shards": []},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def milliseconds(calls: Iterable[Callable[[], Any]]) -> list[float]:
    """How long each call takes."""
    found = []
    for call in calls:
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    return found


def decisions(folder: Path, trials: int, sampler: str, rounds: int) -> dict[str, list[float]]:
    """Times of `next` and `report` in a search that goes on."""
    study = SearchAlone(*search_of(trials + 100, sampler), MemoryLedger(folder))
    names: list[str] = []

    def draw() -> None:
        job = study.next()
        assert isinstance(job, Job)
        names.append(job.trial)

    source, event = random.Random(1), dict.fromkeys(SCORES, 0.5)
    draw()  # what is made once a search
    drawn = milliseconds([draw] * rounds)
    fresh = [name for name in names if not study.state.trials[name].results]
    reports = [
        lambda name=name: study.report(name, RUNGS[0], 1.0, event | {"accuracy": source.random()}, {"total": 1.0})
        for name in fresh
    ]
    return {"next": drawn, "report": milliseconds(reports)}


def promotions(folder: Path, trials: int, rounds: int) -> list[float]:
    """Times to find that nobody is due any more."""
    study = SearchAlone(*search_of(trials, "random"), MemoryLedger(folder))
    assert not study.work_left()
    return milliseconds([study.work_left] * rounds)


def commands(folder: Path, *more: str) -> float:
    """Milliseconds that `status` takes."""
    command = [sys.executable, str(ROOT / "launch.py"), "status", str(folder), *more]
    return milliseconds([lambda: subprocess.run(command, check=True, capture_output=True)])[0]


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def measure(
    ledgers: Path, sizes: Sequence[int] = SIZES, samplers: Sequence[str] = SAMPLERS, rounds: int = 9
) -> dict[str, Any]:
    """The table, in milliseconds."""
    found: dict[str, Any] = {}
    for trials in sizes:
        folder = ledgers / str(trials)
        if not folder.exists():
            record(folder, trials)
        row: dict[str, Any] = {}
        for sampler in samplers:
            times = decisions(folder, trials, sampler, rounds)
            row[f"next, {sampler}"], row["report"] = spread(times["next"]), spread(times["report"])
        row["promotion"] = spread(promotions(folder, trials, rounds))
        row["replay"] = spread(milliseconds([lambda: SearchState.replay(ledger.read(folder / ledger.NAME))] * 3))  # noqa: B023
        row["status"] = spread([commands(folder) for _ in range(3)])
        row["status --json"] = spread([commands(folder, "--json") for _ in range(3)])
        found[str(trials)] = row
        print(f"{trials} trials", json.dumps(row), file=sys.stderr)
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=SIZES)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ledgers", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.ledgers or Path(folder), given.trials, given.samplers, given.rounds)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
