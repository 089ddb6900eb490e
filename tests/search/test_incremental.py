"""What is kept up to date event by event is what all events together say."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stssl.search import study as studies
from stssl.search.asha import Scheduler
from stssl.search.ledger import Ledger
from stssl.search.ranking import ranked
from stssl.search.rungs import Rungs
from stssl.search.samplers.evidence import Evidence
from stssl.search.state import SearchState, TrialState
from stssl.search.study import Study
from tests.search import naive


class CheckedScheduler(Scheduler):
    """Compares every answer with the one that all trials give."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.named: set[tuple[str, int]] = set()

    def trials(self, rungs: Rungs) -> list[TrialState]:
        return [] if rungs._state is None else [t for t in rungs._state.of_kind("search") if rungs._holds(t)]

    def next_bracket(self, rungs: Rungs) -> int:
        found, trials = super().next_bracket(rungs), self.trials(rungs)
        lacks = [share * (len(trials) + 1) for share in self._shares]
        for trial in trials:
            lacks[trial.bracket] -= 1
        assert found == lacks.index(max(lacks))
        return found

    def decide(self, rungs: Rungs, trial: TrialState) -> str:
        found = super().decide(rungs, trial)
        assert found == naive.decision(self, [trial if t.id == trial.id else t for t in self.trials(rungs)], trial)
        return found

    def promotion(self, rungs: Rungs, more: bool) -> TrialState | None:
        found = super().promotion(rungs, more)
        assert (found and found.id) == naive.promotion(self, self.trials(rungs), more)
        return found

    def unpromotable(self, rungs: Rungs, planned: int) -> list[TrialState]:
        found, all_ = super().unpromotable(rungs, planned), naive.unpromotable(self, self.trials(rungs), planned)
        new = {(t.id, t.step) for t in found}
        assert len(new) == len(found) and new <= all_ <= self.named | new
        self.named |= new
        return found

    def remaining_steps(self, rungs: Rungs, new: int) -> float:
        found = super().remaining_steps(rungs, new)
        assert found == pytest.approx(naive.remaining_steps(self, self.trials(rungs), new))
        return found


class CheckedStudy(Study):
    """Compares the state after every event with that of all events, and asks for all that a driver asks for."""

    def record(self, event: str, **fields: Any) -> Any:
        entry = super().record(event, **fields)
        assert self.state == SearchState.replay(self.ledger.events)
        for kind in ("search", "replicate"):
            trials = [t for t in self.state.trials.values() if t.kind == kind]
            assert list(self.state.of_kind(kind)) == trials
            for status in ("running", "paused", "stopped", "completed", "failed"):
                assert list(self.state.of_kind(kind, status)) == [t for t in trials if t.status == status]
                assert self.state.count(status, kind) == sum(t.status == status for t in trials)
            assert self.state.seconds(kind) == pytest.approx(sum(t.seconds for t in trials))
        assert self.state.index.steps == sum(t.step for t in self.state.trials.values())
        standing = [t for t in self.state.of_kind("search") if t.status != "failed" and t.results]
        furthest = max((t.step for t in standing), default=0)
        best = ranked((t for t in standing if t.step == furthest), furthest)
        assert self.state.best() is (best[0] if best else None)
        known = self.proposals._as_points(self.state)
        naive.check_evidence(Evidence(self.ladder).follow(known), known)
        naive.check_evidence(self.proposals._tried.follow(known), known)
        self.disposable_trials()
        self.remaining_steps()
        return entry


@given(
    seed=st.integers(0, 10**6), workers=st.integers(1, 5), trials=st.integers(1, 14), crash=st.sampled_from([0, 0.1]),
    scheduler=st.sampled_from([
        {"name": "none"}, {"reduction_factor": 2}, {"grace_steps": 30}, {"name": "asha_stopping", "reduction_factor": 2},
        {"name": "hyperband"}, {"name": "hyperband", "reduction_factor": 2},
    ]),
    failing=st.sampled_from([0, 1, 4]), dying=st.sampled_from([0, 0.1]), two=st.booleans(), digits=st.integers(1, 3),
    sampler=st.sampled_from(["random", "random", "random", "qmc", "cmaes"]),
    retries=st.integers(0, 1), stop=st.integers(0, 60), more=st.integers(0, 8),
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_step_by_step_as_all_at_once(
    backend, search_config, monkeypatch, seed, workers, trials, crash, scheduler, failing, dying, two, digits, sampler,
    retries, stop, more,
) -> None:  # fmt: skip
    monkeypatch.setattr(studies, "Scheduler", CheckedScheduler)

    def score(recipe: dict[str, Any], step: int) -> Any:
        lr = recipe["optimizer"]["lr"]
        number = hash((lr, step, seed)) % 1000 / 100
        return "diverged" if number < failing / 2 else round(1 / (1 + abs(math.log10(lr) + 3)) + number / 30, digits)

    config = search_config(
        trials=trials, scheduler={"grace_steps": 10} | scheduler, sampler={"name": sampler, "seed": seed},
        replicates={"top": 2, "seeds": 2}, resources={"retries": retries},
        **({"second_metric": "holdout/accuracy"} if two and sampler != "cmaes" else {}),
    )  # fmt: skip
    run = backend(config, workers=workers, crash=crash, seed=seed, score=score, stops=[stop], dying=dying)
    run.study_class = CheckedStudy
    run.run()
    if more:
        with Ledger(run.folder) as ledger:
            ledger.append("extended", changes={})
        narrow = {"framework": {"choice": ["plain", "teacher_student"]}, "optimizer.lr": {"loguniform": [1e-5, 1e-2]}}
        config = search_config(
            trials=trials + more, space=narrow, scheduler={"grace_steps": 10} | scheduler,
            sampler={"name": sampler, "seed": seed}, replicates={"top": 2, "seeds": 2}, resources={"retries": retries},
            **({"second_metric": "holdout/accuracy"} if two and sampler != "cmaes" else {}),
        )  # fmt: skip
        again = backend(config, workers=workers, seed=seed, score=score)
        again.folder, again.study_class = run.folder, CheckedStudy
        again.run()
