"""What does a search cost? `python benchmarks/search.py`, about a quarter of an hour on two CPU cores; prints JSON.

`curves`: contenders on the learning curves of 216 real trainings (search_curves.jsonl, recorded by search_curves.py), in
virtual time on `--workers` workers that take 0.9 to 1.1 for ten steps of training:

- `stssl`: as it searches by default, promotion ASHA, TPE, and draws around the base recipe;
- `ray`: Ray Tune's AsyncHyperBandScheduler and OptunaSearch themselves, called as Ray's loop calls them, with the same rungs
  and the base recipe as their first point; OptunaSearch proposes points again that it knows, which `ray, repetitions free`
  is not charged for;
- `random`: random search without repetition, every trial trained in full;
- `stssl without ...`: one part of the default less, to see what it is worth.

The cost is in training steps, those of trials under way included, until a trial trained in full is within `--tolerance` of
the best of the table. All contenders share the seeds, and compare pair by pair: the ratio is that of mean costs, with a
95 % interval by bootstrap over repetitions.

`overhead`: 100 trials of 5 reports that do nothing, by our driver and by bare Ray Tune with reused actors, in real time, by
turns. `throughput`: how many reports a second the study and its ledger take in a search of 1,000 trials. `replay`: the
time to read a ledger of 10,000 results. `decisions`: what one decision costs as a search grows, see search_decisions.py.
"""

# ruff: noqa: E402 - Ray reads its environment when it is imported

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import stats

from stssl import config as cfg
from stssl.search import ray_environment

ray_environment.prepare(None)

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from stssl.search import cluster, driver, ledger
from stssl.search.config import SearchConfig
from stssl.search.events import Event, Order
from stssl.search.ledger import Ledger
from stssl.search.space import Space
from stssl.search.state import SearchState, TrialState
from stssl.search.study import Job, Study
from stssl.training.recipe import PLUGINS, Recipe

sys.path.insert(0, str(Path(__file__).parent))
import search_decisions
from search_curves import CURVES, GRID, RUNGS, base_recipe
from sleeper import Bare, Driven

Table = dict[frozenset[tuple[str, Any]], list[float]]
Rungs = list[int]
Run = tuple[str, dict[str, Any], int]  # a trial, its point, and the steps that it has behind it


class MemoryLedger:
    """A ledger that nobody needs afterwards."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.order = Order()

    def append(self, event: str, **fields: Any) -> Event:
        self.events.append({"event": event, "time": 0.0, **fields})
        self.order.take(self.events[-1])
        return self.events[-1]


class Contender(Protocol):
    """Whoever decides what is trained next."""

    def next(self) -> Run | None: ...

    def report(self, name: str, step: int, score: float) -> bool: ...


class SearchAlone(Study):
    """A study without replicates."""

    def chosen(self) -> list[TrialState]:
        return []


class Ours:
    """Our study."""

    def __init__(self, config: SearchConfig, space: Space) -> None:
        self.study = SearchAlone(config, space, MemoryLedger())  # type: ignore[arg-type]

    def next(self) -> Run | None:
        job = self.study.next()
        if not isinstance(job, Job):
            return None
        return job.trial, self.study.state.trials[job.trial].params, job.reported

    def report(self, name: str, step: int, score: float) -> bool:
        return self.study.report(name, step, 1.0, {"accuracy": score}, {}) == "continue"


class Theirs:
    """Ray's scheduler and searcher, without Ray's loop."""

    def __init__(self, space: Space, seed: int, rungs: Rungs, repeats: bool = True) -> None:
        first = [space.base_point()]
        self.searcher = OptunaSearch(space.suggest, metric="accuracy", mode="max", points_to_evaluate=first, seed=seed)
        self.scheduler = AsyncHyperBandScheduler(
            time_attr="step", metric="accuracy", mode="max", max_t=rungs[-1], grace_period=rungs[0],
            reduction_factor=rungs[1] / rungs[0],
        )  # fmt: skip
        self.trials: dict[str, Any] = {}
        self.full, self.repeats = rungs[-1], repeats
        self.known: dict[frozenset[tuple[str, Any]], dict[str, Any]] = {}

    def next(self) -> Run | None:
        name = f"{len(self.trials):05d}"
        params = self.searcher.suggest(name)
        for again in range(100):  # without repetitions: what is known of a point is told at once, and costs nothing
            if self.repeats or (result := self.known.get(frozenset(params.items()))) is None:
                break
            self.searcher.on_trial_complete(name, result)
            name = f"{len(self.trials):05d}-{again}"
            params = self.searcher.suggest(name)
        self.trials[name] = trial = type("T", (), {"trial_id": name, "config": params})()
        self.scheduler.on_trial_add(None, trial)
        return name, params, 0

    def report(self, name: str, step: int, score: float) -> bool:
        result, trial = {"accuracy": score, "step": step, "training_iteration": step}, self.trials[name]
        self.searcher.on_trial_result(name, result)
        decision = self.scheduler.on_trial_result(None, trial, result)
        if decision == self.scheduler.CONTINUE and step < self.full:
            return True
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(name, result)
        self.known[frozenset(trial.config.items())] = result
        return False


def search_config(**changes: Any) -> tuple[SearchConfig, Space]:
    """The search on the grid of the table, with other settings where given."""
    data: dict[str, Any] = {
        "name": "curves", "trials": 10_000, "recipe": base_recipe("none"),
        "space": {key: {"choice": values} for key, values in GRID.items()},
        "scheduler": {"reduction_factor": RUNGS[1] // RUNGS[0]},
    }  # fmt: skip
    changes = {"scheduler.grace_steps": RUNGS[0], **changes}
    config = cfg.validate(SearchConfig, cfg.with_overrides(data, changes, plugins=PLUGINS), "curves")
    config = config.model_copy(update={"recipe": cfg.validate(Recipe, config.recipe, "curves").dump()})
    return config, Space(config.space, config.recipe, "curves")


def cost(contender: Contender, table: Table, workers: int, goal: float, seed: int, rungs: Rungs) -> int:
    """Training steps until a trial trained in full reaches the goal; at most those of the whole table in full."""
    source = random.Random(seed)
    queue: list[tuple[float, int, Run]] = []
    now, number, spent, whole = 0.0, 0, 0, len(table) * rungs[-1]

    def length(before: int) -> int:
        return next(rung for rung in rungs if rung > before) - before

    while True:
        while len(queue) < workers and (job := contender.next()) is not None:
            number += 1
            heapq.heappush(queue, (now + length(job[2]) * source.uniform(0.9, 1.1), number, job))
        if not queue or spent >= whole:  # who would have reached the goal was not trained in full
            return whole
        now, place, (name, params, before) = heapq.heappop(queue)
        step = before + length(before)
        spent += length(before)
        score = table[frozenset(params.items())][RUNGS.index(step)]
        going_on = contender.report(name, step, score)
        if step == rungs[-1] and score >= goal:
            return spent + sum(length(run[2]) for _, _, run in queue) // 2  # half of what is under way, on average
        if going_on:
            heapq.heappush(queue, (now + length(step) * source.uniform(0.9, 1.1), place, (name, params, step)))


def curves(path: Path, repetitions: int, workers: int, tolerance: float, grace: int) -> dict[str, Any]:
    """Steps that each contender takes to the goal."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    table: Table = {frozenset(row["params"].items()): row["accuracy"] for row in rows}
    best = max(values[-1] for values in table.values())
    goal, rungs = best - tolerance, [rung for rung in RUNGS if rung >= grace]

    def ours(seed: int, **changes: Any) -> Contender:
        return Ours(*search_config(**{"sampler.seed": seed, "scheduler.grace_steps": grace, **changes}))

    space = search_config()[1]
    contenders: dict[str, Callable[[int], Contender]] = {
        "stssl": ours,
        "ray": lambda seed: Theirs(space, seed, rungs),
        "ray, repetitions free": lambda seed: Theirs(space, seed, rungs, repeats=False),
        "random": lambda seed: ours(seed, **{"scheduler.name": "none", "sampler.name": "random"}),
        "stssl without the prior": lambda seed: ours(seed, **{"sampler.prior": 0}),
        "stssl without a model": lambda seed: ours(seed, **{"sampler.name": "random"}),
        "stssl, stopping instead of promotion": lambda seed: ours(seed, **{"scheduler.name": "asha_stopping"}),
        "stssl, hyperband": lambda seed: ours(seed, **{"scheduler.name": "hyperband"}),
        "stssl without stopping": lambda seed: ours(seed, **{"scheduler.name": "none"}),
    }
    costs = {name: np.zeros(repetitions) for name in contenders}
    for seed in range(repetitions):
        for name, make in contenders.items():
            costs[name][seed] = cost(make(seed), table, workers, goal, seed, rungs)
        print(f"repetition {seed + 1}/{repetitions}", file=sys.stderr, end="\r")
    finals = np.array([values[-1] for values in table.values()])
    found: dict[str, Any] = {
        "trainings": len(table), "best": best, "tolerance": tolerance, "good_enough": int((finals >= goal).sum()),
        "rungs": rungs, "repetitions": repetitions, "workers": workers,
        "rank_correlation_with_the_end": {
            rung: round(float(stats.spearmanr([values[i] for values in table.values()], finals).statistic), 2)
            for i, rung in enumerate(RUNGS[:-1])
        },
    }  # fmt: skip
    for name, values in costs.items():
        found[name] = {
            "goal_reached": float((values < len(table) * rungs[-1]).mean()),
            "steps_mean": round(values.mean()),
            "steps_quartiles": np.percentile(values, [25, 50, 75]).round().tolist(),
        }
        if name != "stssl":
            found[name]["ratio_to_stssl"] = ratio(values, costs["stssl"])
            found[name]["ratio_of_medians"] = round(float(np.median(values) / np.median(costs["stssl"])), 2)
    return found


def ratio(a: Any, b: Any) -> dict[str, Any]:
    """Mean of a over mean of b, pairs drawn anew for the interval."""
    source = np.random.default_rng(0)
    picks = source.integers(0, len(a), (10_000, len(a)))
    drawn = a[picks].mean(axis=1) / b[picks].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"ratio": round(a.mean() / b.mean(), 2), "interval_95": [round(low, 2), round(high, 2)]}


def overhead(rounds: int) -> dict[str, Any]:
    """Seconds for 100 trials of 5 reports."""
    changes = {
        "trials": 100, "scheduler.name": "none", "recipe.training.steps": 5, "recipe.training.eval_interval": 1,
        "recipe.optimizer.warmup_steps": 0, "resources.cpus": 1,
    }  # fmt: skip
    times: dict[str, list[float]] = {"ray": [], "stssl, random": [], "stssl, tpe": []}
    with cluster.connected(None, 2):
        for number in range(rounds + 1):
            for name in list(times)[:: 1 if number % 2 else -1]:
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    if name == "ray":
                        _bare(Path(folder))
                    else:
                        _driven(Path(folder), {**changes, "sampler.name": name.split()[-1]})
                    if number:  # the first round warms everything up
                        times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {"seconds_median": round(medians[name], 2), "seconds": [round(v, 2) for v in values],
               "times_ray": round(statistics.median(v / r for v, r in zip(values, times["ray"], strict=True)), 2)}
        for name, values in times.items()
    }  # fmt: skip


def _bare(folder: Path) -> None:
    loggers = os.environ.pop("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS")  # as Ray is when nobody asks for anything
    tuner = tune.Tuner(
        tune.with_resources(Bare, {"cpu": 1}),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=100, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    assert len(tuner.fit()) == 100
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = loggers


def _driven(folder: Path, changes: dict[str, Any]) -> None:
    config, space = search_config(**changes)
    with Ledger(folder) as kept:
        study = SearchAlone(config, space, kept)
        driver.run(study, folder, trainable=Driven)
        assert len(study.state.of_kind("search", "completed")) == 100


def throughput(sampler: str) -> dict[str, Any]:
    """Reports a second that the study takes, draws of new trials included: 1,000 trials, 100 of them at a time."""
    config, space = search_config(**{"trials": 1000, "sampler.name": sampler, "space": CONTINUOUS})
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder)) as kept:
        study, source = SearchAlone(config, space, kept), random.Random(0)
        running: list[tuple[str, int]] = []
        reports, spent, slowest = 0, 0.0, 0.0
        while True:
            start = time.perf_counter()
            while len(running) < 100 and isinstance(job := study.next(), Job):
                running.append((job.trial, job.reported))
            if not running:
                break
            name, before = running.pop(source.randrange(len(running)))
            step = before + RUNGS[0]
            if study.report(name, step, 1.0, {"accuracy": source.random()}, {"loss": 1.0}) == "continue":
                running.append((name, step))
            took = time.perf_counter() - start
            reports, spent, slowest = reports + 1, spent + took, max(slowest, took)
    return {"reports": reports, "reports_a_second": round(reports / spent), "slowest_ms": round(1000 * slowest, 1)}


CONTINUOUS = {"optimizer.lr": {"loguniform": [1e-5, 1e-1]}, "algorithm.threshold": {"uniform": [0.5, 0.99]}}


def replay() -> dict[str, Any]:
    """Seconds to read a ledger with 10,000 results and to rebuild the state."""
    space = search_config(**{"space": CONTINUOUS})[1]
    recipe = space.recipe(space.base_point()).dump()
    scores = dict.fromkeys(("accuracy", "balanced_accuracy", "f1_macro", "map_macro", "map_micro", "loss"), 0.5)
    losses = {f"{role}/{loss}": 0.5 for role in ("teacher", "student") for loss in ("supervised", "unsupervised")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ledger.NAME
        with path.open("w", encoding="utf-8") as file:
            for number in range(1, 1_001):
                name = f"t{number:04d}"
                created = {"trial": name, "kind": "search", "params": {}, "recipe": recipe, "by": {"sampler": "tpe"}}
                file.write(json.dumps({"event": "created", "time": 0.0, **created}) + "\n")
                for step in range(10, 110, 10):
                    result = {"trial": name, "step": step, "score": 0.5, "decision": "continue", "seconds": 1.0}
                    result |= {"validation": scores, "train": losses}
                    file.write(json.dumps({"event": "result", "time": 0.0, **result}) + "\n")
        times = []
        for _ in range(5):
            start = time.perf_counter()
            state = SearchState.replay(ledger.read(path))
            times.append(time.perf_counter() - start)
        assert sum(len(t.results) for t in state.trials.values()) == 10_000
    return {"seconds_median": round(statistics.median(times), 3), "seconds": [round(t, 3) for t in times]}


def main() -> None:
    """Run the parts that are asked for."""
    parts = ("curves", "overhead", "throughput", "replay", "decisions")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=parts, help=f"which of {', '.join(parts)}")
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--grace", type=int, default=30, choices=RUNGS[:-2], help="the first rung")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    if "curves" in given.parts:
        found["curves"] = curves(given.curves, given.repetitions, given.workers, given.tolerance, given.grace)
    if "overhead" in given.parts:
        found["overhead"] = overhead(given.rounds)
    if "throughput" in given.parts:
        found["throughput"] = {name: throughput(name) for name in ("random", "tpe")}
    if "replay" in given.parts:
        found["replay"] = replay()
    if "decisions" in given.parts:
        with tempfile.TemporaryDirectory() as folder:
            found["decisions"] = search_decisions.measure(Path(folder))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
