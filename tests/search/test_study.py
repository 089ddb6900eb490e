"""The search on a simulated backend: it ends, exactly, whatever happens on the way."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stssl.errors import RunError
from stssl.search.ledger import NAME, read
from stssl.search.replicate import candidates
from stssl.search.state import SearchState
from stssl.search.study import NODES_IN_A_ROW, Job, Next, Study
from tests.search.studies import check_whole, study_in


@pytest.mark.parametrize("workers", [1, 2, 7, 50])
def test_it_ends_with_the_number_of_trials_that_was_asked_for(backend, search_config, workers: int) -> None:
    run = backend(search_config(trials=20, replicates__top=3, replicates__seeds=2), workers=workers)
    state = run.run()
    check_whole(run, state)
    assert len(state.of_kind("search")) == 20
    assert len(state.of_kind("replicate", "completed")) == 2 * len(candidates(state, 3)) >= 6
    assert len(run.trained) == len(set(run.trained)) == sum(len(t.results) for t in state.trials.values())
    assert state.count("paused") > 10 and max(run.busy) == min(workers, 20)


def test_same_ledger_same_search(backend, search_config) -> None:
    runs = [backend(search_config(sampler__seed=s), workers=3) for s in (0, 0, 1)]
    for run in runs:
        run.run()
    assert runs[0].events == runs[1].events != runs[2].events


def test_first_the_base_recipe_then_the_points_then_draws(backend, search_config) -> None:
    points = [
        {"optimizer.lr": 0.02},
        {"framework": "teacher_student"},  # which is the base recipe
        {"framework": "plain", "algorithm.name": "supervised", "algorithm.threshold": 0.7},
        {"optimizer.lr": 0.02},
    ]
    run = backend(search_config(trials=5, points=points))
    params = [t.params for t in run.run().of_kind("search")]
    base = {
        "framework": "teacher_student",
        "optimizer.lr": 1e-4,
        "algorithm.name": "fixmatch",
        "algorithm.threshold": 0.9,
    }
    assert params[0] == {**base, "distillation.weight": 0.5}
    assert params[1] == {**params[0], "optimizer.lr": 0.02}
    assert params[2] == {"framework": "plain", "optimizer.lr": 1e-4, "algorithm.name": "supervised"}
    assert params[3] not in params[:3] and params[4] not in params[:4]
    by = [t.by["sampler"] for t in run.study.state.of_kind("search")]
    assert by[:3] == ["base", "point", "point"] and "point" not in by[3:]


def test_a_first_point_that_is_no_recipe_is_skipped(backend, search_config) -> None:
    space = {"optimizer.warmup_steps": {"int": [0, 200]}}  # 90 and more do not fit
    points = [{"optimizer.warmup_steps": 150}, {"optimizer.warmup_steps": 7}]
    run = backend(search_config(trials=3, space=space, points=points), crash=0.2)
    trials = run.run().of_kind("search")
    assert trials[1].params == {"optimizer.warmup_steps": 7} and trials[2].by["sampler"] != "point"


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_crash_at_any_event_changes_nothing_for_one_worker(backend, search_config, sampler: str) -> None:
    config = search_config(sampler={"name": sampler, "startup_trials": 4}, replicates__seeds=2)
    calm = backend(config)
    state = calm.run()
    check_whole(calm, state)
    sessions = 0
    for seed in range(6):
        run = backend(config, crash=0.15, seed=seed)
        check_whole(run, run.run())
        assert run.events == calm.events
        sessions += run.sessions
    assert sessions > 30
    run = backend(config, crash=0.6, seed=7, twice=True)
    run.run()
    assert run.events == calm.events and run.sessions > 50


@pytest.mark.parametrize("seed", range(6))
def test_crashes_with_many_workers(backend, search_config, learning_curve, seed: int) -> None:
    def score(recipe: dict[str, Any], step: int) -> Any:
        lr = recipe["optimizer"]["lr"]
        if lr > 0.03:
            return "diverged" if lr > 0.06 else math.nan
        return "out_of_memory" if step == 50 and lr < 3e-4 else learning_curve(recipe, step)

    config = search_config(trials=25, sampler={"name": "tpe" if seed % 2 else "random"}, replicates__top=4)
    run = backend(config, workers=2 + seed, crash=0.1, seed=seed, twice=bool(seed % 2), score=score)
    state = run.run()
    check_whole(run, state)
    assert run.sessions > 5 and len(state.of_kind("search")) == 25 and state.of_kind("search", "failed")
    # only what was under way when the driver died was trained again
    again = Counter(run.trained)
    assert sum(again.values()) - len(again) <= run.sessions * run.workers


@given(
    seed=st.integers(0, 10**6), workers=st.integers(1, 5), trials=st.integers(1, 8), crash=st.sampled_from([0, 0.2]),
    scheduler=st.sampled_from([
        {"name": "none"}, {"grace_steps": 10, "reduction_factor": 2}, {"grace_steps": 30}, {"name": "asha_stopping"},
        {"name": "hyperband"}, {"name": "hyperband", "reduction_factor": 2},
    ]),
    failing=st.floats(0, 1), top=st.integers(1, 3), metric=st.sampled_from(["accuracy", "loss"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_search_ends(backend, search_config, seed, workers, trials, crash, scheduler, failing, top, metric) -> None:
    def score(recipe: dict[str, Any], step: int) -> Any:
        number = hash((recipe["optimizer"]["lr"], step, seed)) % 1000 / 1000
        return "raised" if number < failing / 10 else round(number, 1)

    config = search_config(
        trials=trials,
        scheduler={"grace_steps": 10} | scheduler,
        replicates__top=top,
        metric=metric,
        sampler__seed=seed,
        replicates__seeds=2,
    )
    run = backend(config, workers=workers, crash=crash, seed=seed, score=score)
    check_whole(run, run.run())


CONCLUSIONS = ("winner", "tested", "finished")


@given(data=st.data(), workers=st.integers(1, 12), seeds=st.integers(2, 5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stop_at_any_event_changes_nothing(backend, search_config, data: st.DataObject, workers, seeds) -> None:
    """With one worker to the last decision. With more the order of results changes, so all are trained in full."""
    scheduler = {"name": "none"} if workers > 1 else {"grace_steps": 10}
    # which replicates run when a recipe is given up depends on that order too
    replicates = {"seeds": seeds, "race": workers == 1}
    config = search_config(trials=5, scheduler=scheduler, replicates=replicates)
    calm = backend(config, workers=workers)
    calm.run()
    stops = data.draw(st.sets(st.integers(0, len(calm.events) + 20), max_size=4))
    run = backend(config, workers=workers, stops=stops)
    check_whole(run, run.run())
    assert [e["event"] for e in run.events if e["event"] in CONCLUSIONS] == list(CONCLUSIONS)
    assert [e["event"] for e in run.events[-3:]] == list(CONCLUSIONS), "something came after the test split was read"
    if workers == 1:
        assert run.events == calm.events
    else:
        in_order = [sorted(json.dumps(e, sort_keys=True) for e in r.events) for r in (run, calm)]
        assert in_order[0] == in_order[1]


def test_stopped_while_only_the_last_replicates_run(backend, search_config) -> None:
    config = search_config(trials=3, replicates__seeds=3)
    calm = backend(config, workers=20)
    calm.run()
    last = max(i for i, e in enumerate(calm.events) if e["event"] == "created")
    run = backend(config, workers=20, stops=[last + 1])
    run.run()
    log = [e["event"] for e in run.study.ledger.events]
    assert log.count("stopped") == 1 and run.sessions == 2
    assert "tested" not in log[: log.index("stopped")] and log[-3:] == list(CONCLUSIONS)
    check_whole(run, run.study.state)


def test_no_conclusion_while_work_is_left(search_config, space_of, tmp_path: Path) -> None:
    study = study_in(search_config(trials=1), space_of, tmp_path)
    study.next()
    for event in CONCLUSIONS:
        with pytest.raises(RunError, match=f"'{event}' is not recorded while trials are left to run; .* resume"):
            study.record(event, trial="t0001")
    assert len(study.ledger.events) == 1


def test_all_trials_fail(backend, search_config) -> None:
    for score in ("raised", math.nan):
        run = backend(search_config(trials=5), workers=2, crash=0.1, score=lambda recipe, step, s=score: s)
        state = run.run()
        check_whole(run, state)
        assert state.count("failed") == len(state.trials) == 5 and state.best() is None
        reason = "raised: on purpose" if score == "raised" else "diverged: accuracy is nan at step 10"
        assert {t.reason for t in state.trials.values()} == {reason}


def test_failed_replicates_are_not_run_again(backend, search_config, learning_curve) -> None:
    fail = lambda recipe, step: "raised" if recipe["seed"] else learning_curve(recipe, step)  # noqa: E731
    run = backend(search_config(trials=4), workers=2, crash=0.1, score=fail)
    check_whole(run, run.run())
    assert len(run.study.state.of_kind("replicate", "failed")) in (6, 9)


def test_nothing_to_replicate_when_no_network_sees_the_image_alone(backend, search_config) -> None:
    config = search_config(
        trials=4, space={"optimizer.lr": {"loguniform": [1e-5, 1e-1]}}, recipe__framework="metadata_input"
    )
    run = backend(config, workers=2)
    state = run.run()
    check_whole(run, state)
    assert state.best() is not None and not state.of_kind("replicate")
    # fewer recipes than places: only those are replicated
    state = (run := backend(search_config(trials=2, replicates__top=5, recipe__framework="plain"))).run()
    check_whole(run, state)
    assert len(state.of_kind("replicate")) in (3, 6)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_finite_space_is_used_up(backend, search_config, sampler: str) -> None:
    space = {
        "framework": {"choice": ["plain", "teacher_student"]},
        "views.strong_ops": {"int": [0, 4]},
        "distillation.loss": {"choice": ["auto", "mae", "cosine"], "when": {"framework": "teacher_student"}},
    }
    config = search_config(trials=100, space=space, sampler={"name": sampler, "startup_trials": 3})
    run = backend(config, workers=3, crash=0.05)
    state = run.run()
    check_whole(run, state)
    assert len(state.of_kind("search")) == 5 + 5 * 3 and state.exhausted
    assert len([e for e in run.events if e["event"] == "exhausted"]) == 1


def test_an_endless_space_is_not_used_up_when_the_sampler_repeats_itself(backend, search_config) -> None:
    space = {  # almost all draws are `plain`, and there is only one such point
        "framework": {"choice": ["plain", "teacher_student"]},
        "distillation.weight": {"uniform": [0, 1], "when": {"framework": "teacher_student"}},
    }
    config = search_config(trials=25, space=space, sampler={"name": "tpe", "startup_trials": 3})
    run = backend(config, score=lambda recipe, step: float(recipe["framework"] == "plain"))
    assert len(run.run().of_kind("search")) == 25


def test_draws_that_are_no_recipe_are_skipped(backend, search_config) -> None:
    config = search_config(trials=20, space={"optimizer.warmup_steps": {"int": [0, 200]}})  # 90 and more do not fit
    run = backend(config, crash=0.1)
    state = run.run()
    check_whole(run, state)
    assert (
        len(state.of_kind("search")) == 20
        and len({t.params["optimizer.warmup_steps"] for t in state.of_kind("search")}) == 20
    )
    calm = backend(config)
    calm.run()
    assert calm.events == run.events
    assert len(backend(config.model_copy(update={"trials": 500})).run().of_kind("search")) == 90


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_trial_meets_the_constraints(backend, search_config, sampler: str) -> None:
    constraints = ["framework == 'plain' or optimizer.lr < 0.01", "algorithm.threshold > 0.6 or optimizer.lr > 1e-4"]
    config = search_config(trials=30, constraints=constraints, sampler={"name": sampler, "startup_trials": 4})
    run = backend(config, crash=0.1)
    trials = run.run().of_kind("search")
    assert len(trials) == 30 and all(run.space.fault(t.params) is None for t in trials)
    calm = backend(config)
    calm.run()
    assert calm.events == run.events
    grid = {"views.strong_ops": {"int": [0, 4]}, "injection.count": {"int": [1, 8], "step": 7}}
    config = search_config(trials=30, space=grid, constraints=["views.strong_ops * injection.count <= 8"])
    assert len(backend(config).run().of_kind("search")) == 5 + 2  # and then it is used up


def test_less_may_be_better(backend, search_config, learning_curve) -> None:
    run = backend(search_config(metric="loss"), score=lambda recipe, step: 1 - learning_curve(recipe, step))
    accuracy = backend(search_config())
    losses, state = run.run(), accuracy.run()
    assert [(t.id, t.status) for t in losses.trials.values()] == [(t.id, t.status) for t in state.trials.values()]
    first = losses.trials["t0001"].results[0]
    assert first["score"] == -first["validation"]["loss"]


def test_jobs_and_results_one_by_one(search_config, space_of, tmp_path: Path) -> None:
    points = [{"optimizer.lr": 0.002}, {"optimizer.lr": 0.003}]
    config = search_config(trials=3, points=points, replicates__top=1, replicates__seeds=2)
    study = study_in(config, space_of, tmp_path)
    assert study.work_left() and study.remaining_steps() == 3 * 10 + 1 * 20 + 60 / 3 + 4 * 90
    one, two = study.next(), study.next()
    assert isinstance(one, Job) and isinstance(two, Job)
    assert (one.trial, one.reported, two.trial) == ("t0001", 0, "t0002")
    assert one.recipe == study.space.recipe(study.state.trials["t0001"].params).dump()
    tell = lambda name, step, value: study.report(name, step, 2.0, {"accuracy": value}, {"total": math.nan})  # noqa: E731
    assert tell("t0001", 10, 0.5) == "pause" and tell("t0002", 10, 0.4) == "pause"  # of fewer than 3 nobody is proven
    assert study.state.trials["t0002"].reason == "not among the best 1/3 at step 10"
    before = len(study.ledger.events)
    assert tell("t0002", 20, 0.9) == "stop" and tell("t0001", 10, 0.9) == "stop"  # late, and told twice
    assert study.fail("t0002", "worker", "late") == "failed" and len(study.ledger.events) == before
    assert study.ledger.events[-2]["train"] == {} and study.ledger.events[-2]["seconds"] == 2.0
    assert study.next().trial == "t0003" and study.next() is Next.WAIT
    assert tell("t0003", 10, 0.3) == "pause"
    assert study.next() == Job("t0001", one.recipe, 10) and study.next() is Next.WAIT
    assert study.ledger.events[-1]["event"] == "promoted"
    assert tell("t0001", 20, 0.9) == "continue" and tell("t0001", 20, 0.9) == "continue"
    assert tell("t0001", 30, 0.2) == "pause"
    assert study.next() == Job("t0001", one.recipe, 30)  # the only one that got there, and nobody else will
    for step in range(40, 90, 10):
        assert tell("t0001", step, 0.5) == "continue"
        assert 0 < study.remaining_steps() <= 90 - step + 4 * 90
    assert tell("t0001", 90, 0.6) == "complete" and study.remaining_steps() == 180
    assert set(study.disposable_trials()) == {"t0002", "t0003"}
    first, second = study.next(), study.next()
    assert [first.trial, second.trial] == ["t0001-r1", "t0001-r2"] and study.next() is Next.WAIT
    assert tell("t0001-r1", 10, 0.0) == "continue" and study.remaining_steps() == 170  # replicates are never paused
    assert study.report("t0001-r1", 20, 1.0, {}, {}) == "failed"
    assert study.state.trials["t0001-r1"].reason == "silent: accuracy is not reported at step 20"
    assert tell("t0001-r2", 90, 0.1) == "complete" and study.next() is Next.DONE
    assert not study.work_left() and study.remaining_steps() == 0
    json.dumps(study.ledger.events, allow_nan=False)


def test_what_was_interrupted_comes_first(search_config, space_of, tmp_path: Path) -> None:
    config = search_config(trials=4)
    study = study_in(config, space_of, tmp_path)
    names = [study.next().trial for _ in range(3)]
    study.report(names[1], 10, 1.0, {"accuracy": 0.5}, {})
    study.fail(names[0], "raised", "x")
    study.ledger.close()
    study = study_in(config, space_of, tmp_path)
    # a worker that outlived its driver ends one of them before anyone asked
    study.fail(names[2], "silent", "x")
    jobs = [study.next(), study.next()]
    assert [(job.trial, job.reported) for job in jobs] == [("t0002", 10), ("t0004", 0)]
    assert study.next() is Next.WAIT


def test_a_damaged_line_may_be_deleted(backend, search_config) -> None:
    """As the message about a damaged ledger says."""
    config = search_config(trials=6, replicates__top=1)
    whole = backend(config)
    whole.run()
    lines = (whole.folder / NAME).read_bytes().splitlines(keepends=True)[: -len(CONCLUSIONS)]
    assert len(lines) > 20
    resumed = b'{"event": "resumed", "time": 0.0}\n'  # a driver's first
    for number in range(0, len(lines), 3):
        for length in (len(lines), number + 3):
            run = backend(config)
            run.folder.mkdir()
            (run.folder / NAME).write_bytes(b"".join(lines[:number] + lines[number + 1 : length]) + resumed)
            state = run.run()
            assert not any(t.status == "running" for t in state.trials.values())
            assert len(state.of_kind("search")) == 6
            created = [e["trial"] for e in run.events if e["event"] == "created"]
            assert len(created) == len(set(created)) == len(state.trials)


def test_live_state_is_the_replayed_state(backend, search_config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    record = Study.record

    def checked(self: Study, event: str, **fields: Any) -> Any:
        entry = record(self, event, **fields)
        assert self.state == SearchState.replay(read(self.ledger.path))
        seen.append(event)
        return entry

    monkeypatch.setattr(Study, "record", checked)
    run = backend(
        search_config(trials=8),
        workers=3,
        score=lambda recipe, step: "raised" if step == 30 and recipe["optimizer"]["lr"] > 1e-3 else 0.5,
    )
    run.run()
    assert {"created", "result", "promoted", "failed", "winner", "tested", "finished"} == set(seen)


def test_workers_that_die(search_config, space_of, tmp_path: Path) -> None:
    config = search_config(trials=2, resources__retries=2, scheduler={"name": "none"})
    study = study_in(config, space_of, tmp_path)
    one, two = study.next(), study.next()
    study.report(one.trial, 10, 1.0, {"accuracy": 0.5}, {})
    study.lost(one.trial, "its worker died", False)
    again = study.next()
    assert (again.trial, again.recipe, again.reported) == (one.trial, one.recipe, 10) and study.next() is Next.WAIT
    study.ledger.close()
    study = study_in(config, space_of, tmp_path)  # a new driver does not forget what was lost
    assert [study.next().trial, study.next().trial] == [one.trial, two.trial]
    study.lost(one.trial, "its worker died", False)
    assert study.next().trial == one.trial and study.next() is Next.WAIT
    study.lost(one.trial, "its worker died", False)
    assert study.state.trials[one.trial].reason == "infrastructure: its worker died (tried 3 times)"
    study.lost(two.trial, "its worker used more memory than the node has", True)
    assert study.state.trials[two.trial].reason.startswith("out_of_memory: its worker used more")
    study.lost(two.trial, "late", False)
    assert study.next() is Next.DONE and study.state.trials[two.trial].lost == 0


def test_what_was_given_up_with_a_broken_machine_is_tried_again(search_config, space_of, tmp_path: Path) -> None:
    config = search_config(trials=2, resources__retries=2, scheduler={"name": "none"})
    study = study_in(config, space_of, tmp_path)
    study.begin()
    one = study.next()
    for _ in range(3):
        study.lost(one.trial, "the disk is full")
        again = study.next()
    assert study.state.trials[one.trial].fault == "infrastructure" and again.trial != one.trial
    with pytest.raises(RunError, match="4 trials in a row were lost to the machine"):
        study.lost(again.trial, "the disk is full")
    study.ledger.close()
    study = study_in(config, space_of, tmp_path)
    study.begin()  # somebody looked after the disk
    assert [study.next().trial, study.next().trial] == [one.trial, again.trial]
    study.report(one.trial, 10, 1.0, {"accuracy": 0.5}, {})
    study.fail(again.trial, "infrastructure", "its own folder is not one")
    study.report(
        one.trial, 20, 1.0, {"accuracy": 0.5}, {}
    )  # the machine is well, it seems; but nobody knows for that trial
    study.begin()
    assert [study.next().trial, study.next().trial] == [one.trial, again.trial]


def test_a_search_on_workers_that_die(backend, search_config) -> None:
    for seed in range(3):
        run = backend(search_config(trials=15, resources__retries=3), workers=4, crash=0.05, dying=0.1, seed=seed)
        state = run.run()
        check_whole(run, state)
        assert sum(t.lost for t in state.trials.values()) > 5 and max(t.lost for t in state.trials.values()) <= 3
    calm = backend(search_config(trials=8))
    calm.run()
    run = backend(search_config(trials=8, resources__retries=100), dying=0.3)
    run.run()
    assert [e for e in run.events if e["event"] != "lost"] == calm.events != run.events


def test_many_trials(backend, search_config) -> None:
    run = backend(search_config(trials=300, scheduler={"grace_steps": 30}), workers=16)
    state = run.run()
    assert len(state.of_kind("search")) == 300 and len(run.trained) > 1200
    assert state.best().score > 0.9


def test_nodes_that_go_are_nobodys_fault(search_config, space_of, tmp_path: Path) -> None:
    config = search_config(trials=6, resources__retries=0, scheduler={"name": "none"})
    study = study_in(config, space_of, tmp_path)
    jobs = [study.next() for _ in range(6)]
    for job in jobs:  # a whole rack of spot nodes
        study.lost(job.trial, "its node is gone", node=True)
    assert [study.next().trial for _ in jobs] == [job.trial for job in jobs] and not study.state.losses
    one = jobs[0].trial
    for _ in range(NODES_IN_A_ROW - 1):
        study.lost(one, "its node is gone", node=True)
        assert study.next().trial == one
    study.ledger.close()
    study = study_in(config, space_of, tmp_path)  # a new driver does not forget
    while study.next() is not Next.WAIT:
        pass
    assert study.state.trials[one].nodes_lost == NODES_IN_A_ROW
    study.lost(one, "its node is gone", node=True)  # it may be what brings them down
    assert study.state.trials[one].fault == "infrastructure"
    two = jobs[1].trial
    study.report(two, 10, 1.0, {"accuracy": 0.5}, {})
    assert study.state.trials[two].nodes_lost == 0, "it gets on"
    study.ledger.close()


def test_given_back(search_config, space_of, tmp_path: Path) -> None:
    study = study_in(search_config(trials=1, scheduler={"name": "none"}), space_of, tmp_path)
    job = study.next()
    study.report(job.trial, 10, 1.0, {"accuracy": 0.5}, {})
    count = len(study.ledger.events)
    study.give_back(job.trial)
    again = study.next()
    assert (again.trial, again.reported, len(study.ledger.events)) == (job.trial, 10, count)
    study.fail(job.trial, "raised", "dear")
    study.give_back(job.trial)
    assert study.state.trials[job.trial].status == "failed"
    study.ledger.close()
