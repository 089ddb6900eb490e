"""A search without Ray: small configurations, events made by hand, and a backend in virtual time that likes to crash."""

import heapq
import math
import os
import random
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from stssl import config as cfg
from stssl.export import winner
from stssl.search.config import SearchConfig
from stssl.search.ledger import NAME, Event, Ledger
from stssl.search.ranking import ranked
from stssl.search.replicate import unfinished
from stssl.search.space import Space
from stssl.search.state import SearchState
from stssl.search.study import Job, Next, Study
from stssl.training.recipe import Recipe

RECIPE: dict[str, Any] = {
    "data": {"shards": "nowhere"},
    "model": {"name": "tiny", "image_size": 16},
    "algorithm": {"name": "fixmatch", "threshold": 0.9},
    "distillation": {"weight": 0.5},
    "training": {"steps": 90, "eval_interval": 10},
}
SPACE: dict[str, Any] = {
    "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
    "optimizer.lr": {"loguniform": [1e-5, 1e-1]},
    "algorithm.name": {"choice": ["fixmatch", "supervised"]},
    "algorithm.threshold": {"uniform": [0.5, 0.99], "when": {"algorithm.name": "fixmatch"}},
    "distillation.weight": {"loguniform": [0.01, 10], "when": {"framework": "teacher_student"}},
}
SEARCH: dict[str, Any] = {
    "name": "test",
    "trials": 12,
    "recipe": RECIPE,
    "space": SPACE,
    "scheduler": {"grace_steps": 10, "reduction_factor": 3},
    "sampler": {"name": "random"},
}


def make_config(**overrides: Any) -> SearchConfig:
    """The test search with dotted keys changed, `__` for the dot; `space` and `points` are replaced as a whole."""
    data = cfg.with_overrides(SEARCH, {key.replace("__", "."): value for key, value in overrides.items()})
    config = cfg.validate(SearchConfig, data, "s.yaml")
    return config.model_copy(update={"recipe": cfg.validate(Recipe, config.recipe, "s.yaml: recipe").dump()})


def make_space(config: SearchConfig) -> Space:
    return Space(config.space, config.recipe, "s.yaml", config.constraints)


class Script:
    """Events by hand: `Script().trial("t0001").result("t0001", 10, 0.5).state`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.recipe = make_config().recipe

    def add(self, event: str, **fields: Any) -> "Script":
        self.events.append({"event": event, "time": float(len(self.events)), **fields})
        return self

    def trial(self, name: str, framework: str = "plain", of: str | None = None, **params: Any) -> "Script":
        params = {key.replace("__", "."): value for key, value in params.items()}
        recipe = cfg.with_overrides(self.recipe, params) if params else self.recipe
        recipe = {**recipe, "framework": framework}
        more = {"of": of} if of else {}
        return self.add(
            "created", trial=name, kind="replicate" if of else "search", params=params, recipe=recipe, **more
        )

    def result(self, name: str, step: int, score: float, decision: str = "continue") -> "Script":
        more = {"reason": "too weak"} if decision in ("stop", "pause") else {}
        return self.add(
            "result",
            trial=name,
            step=step,
            score=score,
            decision=decision,
            seconds=1.5,
            validation={},
            train={},
            **more,
        )

    def failed(self, name: str) -> "Script":
        return self.add("failed", trial=name, kind="raised", reason="raised: oh")

    @property
    def state(self) -> SearchState:
        return SearchState.replay(self.events)


class History:
    """A state made of search trials as a sampler sees them."""

    def __init__(self) -> None:
        self.state = SearchState()
        self.recipe = make_config().recipe

    def new(self, params: dict[str, Any], by: dict[str, Any] | None = None) -> str:
        """A trial begins; returns its name."""
        name = f"t{len(self.state.trials) + 1:04d}"
        more = {} if by is None else {"by": by}
        self._apply("created", trial=name, kind="search", params=params, recipe=self.recipe, **more)
        return name

    def result(self, name: str, step: int, score: float, decision: str = "continue") -> None:
        self._apply("result", trial=name, step=step, score=score, decision=decision, seconds=1.0)

    def fail(self, name: str, kind: str) -> None:
        self._apply("failed", trial=name, kind=kind, reason=f"{kind}: on purpose")

    def add(
        self, params: dict[str, Any], scores: dict[int, float] | None = None, end: str = "continue",
        by: dict[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """A trial with all its results; `end` is what was decided at the last one, or a kind of failure."""
        name = self.new(params, by)
        steps = sorted(scores or {})
        decided = end in ("continue", "pause", "stop", "complete")
        for step in steps:
            self.result(name, step, scores[step], end if decided and step == steps[-1] else "continue")
        if not decided:
            self.fail(name, end)
        return name

    def imported(
        self, params: dict[str, Any], scores: dict[int, float], status: str = "completed", **more: Any
    ) -> None:
        told = {str(step): score for step, score in scores.items()}
        name = f"x{len(self.state.imported)}"
        self._apply("imported", trial=name, params=params, scores=told, status=status, source="elsewhere", **more)

    def _apply(self, event: str, **fields: Any) -> None:
        self.state.apply({"event": event, "time": 0.0, **fields})


class Crash(Exception):
    """The driver is gone."""


class CrashingLedger(Ledger):
    """Dies at random events: before the event is written, in the middle of its line, or just after."""

    def __init__(self, run: Path, chance: float, source: random.Random) -> None:
        super().__init__(run)
        self.chance, self.source = chance, source

    def append(self, event: str, **fields: Any) -> Event:
        if self.source.random() >= self.chance:
            return super().append(event, **fields)
        how = self.source.choice(["before", "torn", "after"])
        size = self.path.stat().st_size
        if how != "before":
            super().append(event, **fields)
        if how == "torn":
            with self.path.open("r+b") as file:
                file.truncate(self.source.randrange(size, self.path.stat().st_size))
        raise Crash


def chance_of(*what: Any) -> float:
    """A number in [0, 1) that depends on `what` alone."""
    return zlib.crc32(repr(what).encode()) / 2**32


def curve(recipe: dict[str, Any], step: int) -> float:
    """A learning curve: best near lr 1e-3, better with more steps, a little noise that the recipe decides."""
    quality = math.exp(-((math.log10(recipe["optimizer"]["lr"]) + 3) ** 2))
    noise = chance_of(recipe["optimizer"]["lr"], recipe["seed"], step)
    return quality * (1 - math.exp(-step / 40)) + 0.05 * noise


class Backend:
    """Runs a search in virtual time on `workers` workers, through crashes of its driver.

    Args:
        config: The search.
        folder: Its run folder.
        workers: How many trials run at a time.
        score: (recipe, step) to a score, or to a string: the kind of failure.
        dying: Chance that a worker dies in an interval; its trial goes on elsewhere.
        crash: Chance of a crash at each event.
        seed: Of crashes and durations.
        twice: Every result is told twice, and once more after all is over.
        stops: Numbers of events after which the search is told to stop; it is taken up again each time.

    Attributes:
        study: The last one.
        trained: Training intervals that workers spent, as (trial, step).
        sessions: How many drivers it took.
    """

    def __init__(
        self, config: SearchConfig, folder: Path, workers: int = 1, score: Callable[..., Any] = curve,
        crash: float = 0.0, seed: int = 0, twice: bool = False, dying: float = 0.0, stops: Collection[int] = (),
    ) -> None:  # fmt: skip
        self.stops, self.study_class = sorted(stops), Study
        self.config, self.folder, self.workers = config, folder, workers
        self.score, self.crash, self.twice, self.dying = score, crash, twice, dying
        self.source = random.Random(seed)
        self.space = make_space(config)
        self.interval = config.recipe["training"]["eval_interval"]
        self.trained: list[tuple[str, int]] = []
        self.sessions = 0
        self.busy: list[int] = []

    @property
    def events(self) -> list[Event]:
        """What is in the ledger but the times, and that the search was stopped."""
        told = [e for e in self.study.ledger.events if e["event"] != "stopped"]
        return [{k: v for k, v in e.items() if k != "time"} for e in told]

    def run(self) -> SearchState:
        while True:
            self.sessions += 1
            with CrashingLedger(self.folder, self.crash, self.source) as ledger:
                try:
                    self.study = self.study_class(self.config, self.space, ledger)
                    left = self.study.work_left()
                    self._session(self.study, left)
                    if self.study.work_left():
                        assert self.study.stopping
                        self.study.record("stopped")
                        continue
                    assert self.study.remaining_steps() == 0 and self.study.next() is Next.DONE
                    self._conclude(self.study)
                    return self.study.state
                except Crash:
                    continue

    def _conclude(self, study: Study) -> None:
        """As a driver ends a search: a winner, the test split, the end, each once."""
        best = winner.choose(study.state)
        if best is not None and study.state.winner is None:
            study.record("winner", trial=best.trial.id)
        if best is not None and study.state.tested is None:
            study.record("tested", trial=best.trial.id, scores={"count": 1})
        if not study.state.finished:
            study.record("finished")

    def _stop(self, study: Study) -> None:
        if self.stops and len(study.ledger.events) >= self.stops[0]:
            self.stops.pop(0)
            study.stopping = True

    def _session(self, study: Study, left: bool) -> None:
        queue: list[tuple[float, int, Job, int]] = []
        now, number, first = 0.0, 0, True
        while True:
            while len(queue) < self.workers:
                self._stop(study)
                if study.stopping:
                    assert study.next() is Next.DONE
                    break
                before = [(t.id, t.status, t.step) for t in study.state.of_kind("search")]
                job = study.next()
                self._check_promotion(study, job, before)
                assert not first or left == (job is not Next.DONE), "work_left and next disagree"
                first = False
                if isinstance(job, Next):
                    self._check_idle(study, job, [entry[2].trial for entry in queue])
                    break
                trial = study.state.trials[job.trial]
                assert trial.status == "running" and job.reported == trial.step
                assert job.trial not in [entry[2].trial for entry in queue], "handed out twice"
                number += 1
                heapq.heappush(queue, (now + self._duration(job, job.reported), number, job, job.reported))
            assert study.remaining_steps() >= 0
            if not queue:
                return
            self.busy.append(len(queue))
            now, number_, job, step = heapq.heappop(queue)
            if self.source.random() < self.dying:
                study.lost(job.trial, "its worker died", False)
                continue
            step += self.interval
            self.trained.append((job.trial, step))
            decision = self._tell(study, job, step)
            self._stop(study)
            if decision == "continue" and not study.stopping:
                heapq.heappush(queue, (now + self._duration(job, step), number_, job, step))

    def _check_promotion(self, study: Study, job: Job | Next, before: list[tuple[str, str, int]]) -> None:
        """A paused trial goes on only from a rung, and where enough were judged beside it."""
        if isinstance(job, Next) or (job.trial, "paused", job.reported) not in before:
            return
        trial, factor = study.state.trials[job.trial], self.config.scheduler.reduction_factor
        assert job.reported in study.ladder[trial.bracket : -1] and trial.status == "running"
        same = [t for t in study.rungs.trials.values() if t.bracket == trial.bracket]
        judged = [t for t in same if job.reported in t.scores or t.status == "failed"]
        order = ranked((t for t in judged if t.status != "failed"), job.reported)
        ahead = order[: order.index(trial)]
        assert len(ahead) < math.ceil(len(judged) / factor)
        assert all(t.step > job.reported or t.status == "running" for t in ahead), "a better one is still waiting"

    def _duration(self, job: Job, step: int) -> float:
        return 0.5 + chance_of(job.trial, step)

    def _tell(self, study: Study, job: Job, step: int) -> str:
        score = self.score(job.recipe, step)
        if isinstance(score, str):
            return study.fail(job.trial, score, "on purpose")
        scores = {self.config.metric: score}
        if self.config.second_metric:
            scores[self.config.second_metric] = 1 - score + 0.1 * chance_of(job.trial, step)
        result = (job.trial, step, 1.0, scores, {"total": 1.0})
        decision = study.report(*result)
        if self.twice:
            size = len(study.ledger.events)
            assert study.report(*result) == ("continue" if decision == "continue" else "stop")
            assert len(study.ledger.events) == size, "a result that was told twice is in the ledger twice"
        return decision

    def _check_idle(self, study: Study, answer: Next, running: list[str]) -> None:
        """Nothing to do is said only when nothing can be done."""
        state = study.state
        assert {t.id for t in state.trials.values() if t.status == "running"} == set(running)
        assert study.new_trials() == 0 and study.scheduler.promotion(study.rungs, more=False) is None
        if answer is Next.WAIT:
            assert running
            if not any(t.kind == "search" for t in map(state.trials.__getitem__, running)):
                assert not unfinished(state, study.chosen(), self.config.replicates.seeds)
        else:
            assert not running


@pytest.fixture(scope="session")
def search_config() -> Callable[..., SearchConfig]:
    return make_config


@pytest.fixture(scope="session")
def space_of() -> Callable[[SearchConfig], Space]:
    return make_space


@pytest.fixture(scope="session")
def script() -> type[Script]:
    return Script


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backend]:
    """Makes a backend in a folder of its own: `backend(search_config(trials=3), workers=2).run()`."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no power is cut here, and a busy disk takes its time
    folders = iter(range(10**6))

    def make(config: SearchConfig, **options: Any) -> Backend:
        return Backend(config, tmp_path / f"run{next(folders)}", **options)

    return make


@pytest.fixture(scope="session")
def simulate() -> Callable[..., SearchState]:
    """Runs a search to its end in a folder: `simulate(config, folder, score)`."""

    def run(config: SearchConfig, folder: Path, score: Callable[..., Any] = curve) -> SearchState:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda file: None)
            return Backend(config, folder, score=score).run()

    return run


@pytest.fixture(scope="session")
def learning_curve() -> Callable[[dict[str, Any], int], float]:
    return curve


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """The path of a ledger with three events."""
    with Ledger(tmp_path / "three") as three:
        three.append("started")
        three.append(
            "created",
            trial="t0001",
            kind="search",
            params={"a": 1e-5, "b": None},
            recipe={"framework": "plain", "ü": [1, True]},
        )
        scores: dict[str, Any] = {"score": 0.25, "validation": {"accuracy": 0.25}, "train": {}}
        three.append("result", trial="t0001", step=10, decision="continue", seconds=0.5, **scores)
    return tmp_path / "three" / NAME
