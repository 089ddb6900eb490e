"""What is changed, spent or given up on the way of a search."""

import math
from pathlib import Path
from typing import Any

import pytest

from stssl.errors import RunError
from stssl.search.ledger import Ledger
from stssl.search.ranking import front
from stssl.search.replicate import standings
from stssl.search.study import Next
from stssl.training.recipe import Recipe
from tests.search.studies import check_whole, study_in


def test_a_budget_ends_new_trials_and_nothing_else(backend, search_config) -> None:
    run = backend(search_config(trials=50, budget_hours=20 / 3600), workers=3)  # an interval takes a second
    state = run.run()
    check_whole(run, state)
    search = state.of_kind("search")
    assert 5 <= len(search) < 20 and state.of_kind("search", "completed") and state.of_kind("replicate", "completed")
    twice = backend(search_config(trials=50, budget_hours=20 / 3600, resources__gpus=2), workers=3)
    assert len(twice.run().of_kind("search")) < len(search)


def test_code_faults_have_a_budget_of_their_own(search_config, space_of, tmp_path: Path) -> None:
    config = search_config(trials=2, resources__code_retries=1, resources__retries=1, scheduler={"name": "none"})
    study = study_in(config, space_of, tmp_path)
    one, two = study.next().trial, study.next().trial
    assert study.fail(one, "raised", "oh") == "again" and study.next().trial == one
    study.lost(one, "its worker died")
    assert study.next().trial == one
    assert study.fail(one, "hung", "nothing moved") == "failed"
    assert study.state.trials[one].reason == "hung: nothing moved (tried 2 times)"
    assert study.fail(two, "diverged", "loss is nan") == "failed"  # it would do so again
    study.ledger.close()
    assert study_in(config, space_of, tmp_path).next() is Next.DONE


def test_weak_recipes_are_given_up(backend, search_config) -> None:
    def score(recipe: dict[str, Any], step: int) -> float:
        return (
            0.5
            - abs(math.log10(recipe["optimizer"]["lr"]) + 3) / 10
            + 0.001 * math.sin(recipe["seed"] * recipe["optimizer"]["lr"] * 1e4)
        )

    config = search_config(trials=12, replicates__top=3, replicates__seeds=6)
    run = backend(config, workers=2, crash=0.1, score=score)
    state = run.run()
    dropped = [e for e in run.events if e["event"] == "dropped"]
    assert dropped and len({e["trial"] for e in dropped}) == len(dropped) and all(e["round"] >= 3 for e in dropped)
    assert "t0001" not in {e["trial"] for e in dropped}, "the published recipe stays"
    for event in dropped:
        numbers = [int(t.id[-1]) for t in state.of_kind("replicate") if t.of == event["trial"]]
        assert len(numbers) < 6 and not state.of_kind("replicate", "running")
    best = standings(state)[0]
    assert best.trial.dropped is None and len(best.replicates) == 6 and best.p < 0.05


def test_stopping_hands_nothing_out(search_config, space_of, tmp_path: Path) -> None:
    study = study_in(search_config(trials=4), space_of, tmp_path)
    job = study.next()
    study.stopping = True
    assert study.next() is Next.DONE and study.work_left()
    assert study.report(job.trial, 10, 1.0, {"accuracy": 0.5}, {}) == "pause" and study.next() is Next.DONE
    study.ledger.close()
    study = study_in(search_config(trials=4), space_of, tmp_path)
    assert study.next().trial == "t0002"


def test_an_extended_search_takes_up_what_it_knows(backend, search_config) -> None:
    first = backend(search_config(trials=9), workers=2)
    before = first.run()
    narrow = {"framework": {"choice": ["plain", "teacher_student"]}, "optimizer.lr": {"loguniform": [1e-4, 1e-2]}}
    config = search_config(trials=18, space=narrow | {"views.strong_ops": {"int": [0, 4]}})
    with Ledger(first.folder) as ledger:
        ledger.append("extended", changes={})
    more = backend(config, workers=2)
    more.folder = first.folder
    state = more.run()
    search = state.of_kind("search")
    assert len(search) == 18 and [t.params for t in search[:9]] == [t.params for t in before.of_kind("search")]
    assert all(t.results[: len(before.trials[t.id].results)] == before.trials[t.id].results for t in search[:9])
    assert all(set(t.params) == {"framework", "optimizer.lr", "views.strong_ops"} for t in search[9:])
    base = Recipe.model_validate(more.config.recipe)
    assert all(Recipe.model_validate(t.recipe) != base for t in search[9:]), "the base recipe was tried already"
    assert any(t.id in {e["trial"] for e in more.events if e["event"] == "promoted"} for t in search[:9])


def test_two_objectives(backend, search_config) -> None:
    config = search_config(trials=15, second_metric="holdout/accuracy")
    run = backend(config, workers=2, crash=0.05, score=lambda recipe, step: recipe["optimizer"]["lr"] ** 0.1)
    state = run.run()
    done = state.of_kind("search", "completed")
    assert done and all(set(t.second) == set(t.scores) for t in state.trials.values())
    assert {t.id for t in front(done, 90)} <= {t.id for t in done}


def test_disposable_trials(search_config, space_of, tmp_path: Path) -> None:
    study = study_in(search_config(trials=6), space_of, tmp_path)
    names = [study.next().trial for _ in range(6)]
    for number, name in enumerate(names):
        study.report(name, 10, 1.0, {"accuracy": 1 - number / 10}, {})
    assert set(study.disposable_trials()) == set(names[2:])  # of 6, two may go on
    assert study.state.trials[names[0]].status == "paused"


def test_trials_outside_an_extended_space_go_no_further(backend, search_config) -> None:
    first = backend(search_config(trials=9), workers=2)
    first.run()
    with Ledger(first.folder) as ledger:
        ledger.append("extended", changes={})
    count = len(first.study.ledger.events)
    more = backend(search_config(trials=12, constraints=["optimizer.lr <= 1e-3"]), workers=2)
    more.folder = first.folder
    state = more.run()
    outside = {t.id for t in state.of_kind("search") if t.params["optimizer.lr"] > 1e-3}
    assert outside and not outside & {e.get("trial") for e in more.events[count:]}
    assert not outside & {t.of for t in state.of_kind("replicate") if t.id not in first.study.state.trials}


@pytest.mark.parametrize("name", ["grid", "cmaes", "tpe", "gp", "qmc", "random"])
def test_a_changed_space_is_searched(backend, search_config, name: str) -> None:
    def config(choice: list[float], trials: int, **more: Any) -> Any:
        space = {"optimizer.weight_decay": {"choice": choice}, "views.strong_ops": {"int": [0, 3]}, **more}
        return search_config(trials=trials, space=space, sampler={"name": name, "startup_trials": 3})

    first = backend(config([0.0005, 0.01], 6))
    first.run()
    with Ledger(first.folder) as ledger:
        ledger.append("extended", changes={})
    more = backend(config([0.1, 0.0005, 0.01], 12, **{"optimizer.warmup_steps": {"int": [0, 8]}}))
    more.folder = first.folder
    drawn = [t.params for t in more.run().of_kind("search")[6:]]
    assert (
        len(drawn) == 6
        and all(len(p) == 3 for p in drawn)
        and all(a != b for i, a in enumerate(drawn) for b in drawn[:i])
    )


def test_a_broken_machine_stops_the_driver_without_retries_too(search_config, space_of, tmp_path: Path) -> None:
    study = study_in(search_config(trials=12, resources__retries=0), space_of, tmp_path)
    study.begin()
    with pytest.raises(RunError, match="4 trials in a row were lost to the machine"):
        for _ in range(5):
            study.lost(study.next().trial, "its node died")
    assert study.state.count("failed") == 3
    study.ledger.close()
    study = study_in(search_config(trials=12, resources__retries=0), space_of, tmp_path)
    study.begin()
    assert study.state.count("failed") == 0 and [study.next().trial for _ in range(4)] == [
        "t0001",
        "t0002",
        "t0003",
        "t0004",
    ]


def test_what_the_machine_failed_is_tried_again_by_the_next_driver(search_config, space_of, tmp_path: Path) -> None:
    """Whenever it was, as a full disk may have been noticed late; but not once the test split may have been read."""
    config = search_config(trials=2, resources__retries=0, scheduler={"name": "none"})
    study = study_in(config, space_of, tmp_path)
    study.begin()
    one, two = study.next().trial, study.next().trial
    study.lost(one, "[Errno 28] No space left on device")
    assert study.state.trials[one].fault == "infrastructure"
    assert study.report(two, 10, 1.0, {"accuracy": 0.5}, {}) == "continue"  # the disk has room again
    study.ledger.close()
    again = study_in(config, space_of, tmp_path)
    again.begin()
    assert again.state.trials[one].status == "running" and again.next().trial == one
    assert again.ledger.events[-1]["retried"] == [one]
    again.lost(one, "[Errno 28] No space left on device")
    while (job := again.next()) not in (Next.DONE, Next.WAIT):
        for step in range(job.reported + 10, 91, 10):
            again.report(job.trial, step, 1.0, {"accuracy": 0.5}, {})
    again.record("winner", trial=two)
    again.ledger.close()
    last = study_in(config, space_of, tmp_path)
    last.begin()
    assert last.state.trials[one].status == "failed" and last.ledger.events[-1]["retried"] == []
