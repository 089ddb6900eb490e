"""Where recipes come from: the same ledger gives the same draws, and the model earns its keep."""

import math
import warnings
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState as Told

from stssl.search.ledger import Ledger
from stssl.search.sampler import Sampler, SamplerConfig
from stssl.search.state import SearchState, TrialState
from stssl.search.study import Study


def trial(name: str, params: dict[str, Any], score: float | None, status: str = "completed") -> TrialState:
    state = TrialState(name, "search", params, {"framework": "plain"}, 0.0, status=status)  # type: ignore[arg-type]
    if score is not None:
        state.results.append({"step": 90, "seconds": 1.0})
        state.scores[90] = score
    return state


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_rebuilt_sampler_draws_what_the_live_one_draws(backend, search_config, learning_curve, name: str) -> None:
    config = search_config(trials=20, sampler={"name": name, "startup_trials": 4, "seed": 3})
    compared: list[dict[str, Any] | None] = []

    def score(recipe: dict[str, Any], step: int) -> Any:  # called before each result: the ledger is at rest
        study = run.study
        seen = [t.params for t in study.state.of_kind("search")]
        rebuilt = Sampler(config.sampler, run.space, SearchState.replay(study.ledger.events))
        one, two = rebuilt.draw(seen), study.sampler.draw(seen)
        assert one == two and {k: type(v) for k, v in one.items()} == {k: type(v) for k, v in two.items()}
        assert rebuilt.draw(seen) == one, "a draw left something behind"
        compared.append(one)
        return "raised" if recipe["optimizer"]["lr"] > 0.03 else learning_curve(recipe, step)

    run = backend(config, workers=3, score=score)
    state = run.run()
    assert len(compared) > 80 and state.of_kind("search", "failed") and state.of_kind("search", "stopped")
    assert len({str(point) for point in compared}) > 15


def test_seeds(search_config, space_of) -> None:
    config = search_config()
    drawn = [Sampler(SamplerConfig(name="random", seed=s), space_of(config), SearchState()).draw([]) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    sampler = Sampler(SamplerConfig(name="random"), space_of(config), SearchState())
    seen: list[dict[str, Any]] = []
    for _ in range(50):
        point = sampler.draw(seen)
        assert point is not None and point not in seen
        seen.append(point)


def test_conditional_keys(backend, search_config) -> None:
    config = search_config(trials=40, sampler={"name": "tpe", "startup_trials": 5})
    run = backend(config, workers=2)
    for t in run.run().of_kind("search"):
        expected = {"framework", "optimizer.lr", "algorithm.name"}
        expected |= {"algorithm.threshold"} if t.params["algorithm.name"] == "fixmatch" else set()
        expected |= {"distillation.weight"} if t.params["framework"] == "teacher_student" else set()
        assert set(t.params) == expected


def test_told_as_they_are(backend, search_config, learning_curve) -> None:
    def score(recipe: dict[str, Any], step: int) -> Any:
        return "diverged" if recipe["optimizer"]["lr"] > 0.003 and step == 10 else learning_curve(recipe, step)

    run = backend(search_config(trials=25), workers=3, score=score)
    run.run()
    study = Study(run.config.model_copy(update={"trials": 27}), run.space, Ledger(run.folder))  # two more, under way
    state = study.state
    names = [study.next().trial for _ in range(2)]
    study.report(names[0], 10, 1.0, {"accuracy": 0.25}, {})
    for sampler in (study.sampler, Sampler(run.config.sampler, run.space, SearchState.replay(study.ledger.events))):
        # what was only proposed is there too, as failed; trials are told apart by what they went through
        told = {str(t.params): t for t in sampler._study.trials if t.state != Told.FAIL}
        for t in state.of_kind("search"):
            if t.status == "failed":
                assert str(t.params) not in told
                continue
            known = told.pop(str(t.params))
            assert known.intermediate_values == t.scores
            assert known.state == (
                Told.COMPLETE if t.status == "completed" else Told.RUNNING if t.id in names else Told.PRUNED
            )
            if t.status == "completed":
                assert known.value == t.score
        assert not told
    assert {t.status for t in state.of_kind("search")} == {"completed", "stopped", "failed", "running"}


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_finite_space_is_drawn_without_repetition_to_its_end(search_config, space_of, name: str) -> None:
    config = search_config(space={"views.strong_ops": {"int": [0, 3]}, "views.flips": {"choice": [True, False]}})
    sampler = Sampler(SamplerConfig(name=name, startup_trials=2), space_of(config), SearchState())
    seen: list[dict[str, Any]] = []
    while (point := sampler.draw(seen)) is not None:
        assert point not in seen and len(seen) < 8
        seen.append(point)
        sampler.add(str(len(seen)), point)
        sampler.end(trial(str(len(seen)), point, float(point["views.strong_ops"] == 0)))
    assert len(seen) == 8 and sampler.draw(seen) is None


def search(sampler: Sampler, count: int) -> float:
    """The best of `count` trials on a bowl: lr 1e-3, threshold 0.8, the better of two frameworks; 0 is perfect."""
    seen: list[dict[str, Any]] = []
    best = -math.inf
    for number in range(count):
        point = sampler.draw(seen)
        assert point is not None
        score = -((math.log10(point["optimizer.lr"]) + 3) ** 2) - (5 * (point["algorithm.threshold"] - 0.8)) ** 2
        score -= point["framework"] != "plain"
        sampler.add(str(number), point)
        sampler.report(str(number), 90, score)
        sampler.end(trial(str(number), point, score))
        seen.append(point)
        best = max(best, score)
    return best


def test_tpe_beats_random(search_config, space_of) -> None:
    space = {
        "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
        "optimizer.lr": {"loguniform": [1e-6, 1]},
        "algorithm.threshold": {"uniform": [0, 1]},
    }
    found = space_of(search_config(space=space))
    gains = []
    for seed in range(12):
        tpe, luck = (Sampler(SamplerConfig(name=n, seed=seed), found, SearchState()) for n in ("tpe", "random"))
        gains.append(math.log(search(luck, 40) / search(tpe, 40)))  # both are below zero: regrets
    # paired, one-sided: at least 10 of 12 by a sign test has p = 0.02
    assert sum(gain > 0 for gain in gains) >= 10, gains
    assert sum(gains) / len(gains) > 0.5, gains


def test_optuna_says_nothing(backend, search_config, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.get_verbosity()
    config = search_config(trials=15, sampler={"name": "tpe", "startup_trials": 3}, points=[{"framework": "plain"}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = backend(config, workers=2, crash=0.05)
        run.run()
    said = capfd.readouterr()
    assert said.out == said.err == "" and run.sessions > 1
