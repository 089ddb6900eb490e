"""Where recipes come from: the same ledger gives the same draws, whatever the sampler."""

import json
import warnings
from collections import Counter
from typing import Any

import pytest

from stssl.errors import ConfigError
from stssl.search.sampler import MODELS, Sampler, SamplerConfig
from stssl.search.state import SearchState
from stssl.search.study import Study

LADDER = [10, 30, 90]
NAMES = sorted(MODELS)
ENDLESS = [name for name in NAMES if name != "grid"]
FINITE = {"views.strong_ops": {"int": [0, 3]}, "views.flips": {"choice": [True, False]}}
NUMERIC = {"optimizer.lr": {"loguniform": [1e-6, 1]}, "algorithm.threshold": {"uniform": [0, 1]}}


def test_every_sampler_has_a_name_that_a_user_can_write() -> None:
    for name in NAMES:
        assert SamplerConfig.model_validate({"name": name}).name == name
    with pytest.raises(ValueError, match="'tpe'"):
        SamplerConfig.model_validate({"name": "tpp"})


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuilt_sampler_draws_what_the_live_one_draws(backend, search_config, learning_curve, name: str) -> None:
    finite = {"optimizer.warmup_steps": {"int": [0, 8]}, "views.flips": {"choice": [True, False]}}
    changed = {"space": finite} if name == "grid" else {}
    trials = 10 if name == "gp" else 18  # it takes its time
    config = search_config(trials=trials, sampler={"name": name, "startup_trials": 4, "seed": 3}, **changed)
    compared: list[Any] = []

    def score(recipe: dict[str, Any], step: int) -> Any:  # called before each result: the ledger is at rest
        if name != "gp" or step == 10:
            compare(run.study)
        if recipe["optimizer"]["lr"] > 0.005 or recipe["optimizer"]["warmup_steps"] == 1:
            return "raised"
        return learning_curve(recipe, step)

    def compare(study: Study) -> None:
        rebuilt = Sampler(config.sampler, run.space, study.ladder)
        one = rebuilt.draw(SearchState.replay(json.loads(json.dumps(study.ledger.events))))
        two = study.proposals.sampler.draw(study.state)
        assert one == two and json.loads(json.dumps(one)) == [one.params, one.by] if one else two is None
        if one and two:
            assert {k: type(v) for k, v in one.params.items()} == {k: type(v) for k, v in two.params.items()}
        assert study.proposals.sampler.draw(study.state) == one, "a draw left something behind"
        compared.append(one)

    run = backend(config, workers=3, score=score, crash=0.05)
    state = run.run()
    assert len(compared) >= trials and state.of_kind("search", "failed") and state.of_kind("search", "paused")
    assert run.sessions > 1
    assert len({str(draw) for draw in compared}) >= trials - 2
    by = Counter(t.by["sampler"] for t in state.of_kind("search"))
    assert by["base"] == 1 and by[{"random": "uniform"}.get(name, name)] > 3, by


@pytest.mark.parametrize("name", ENDLESS)
def test_seeds(search_config, space_of, history, name: str) -> None:
    space = space_of(search_config())
    drawn = [Sampler(SamplerConfig(name=name, seed=s, prior=0), space, LADDER).draw(history.state) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_points_of_the_space(search_config, space_of, history, name: str) -> None:
    space = {
        "framework": {"choice": ["plain", "teacher_student"]},
        "views.strong_ops": {"int": [0, 3]},
        "algorithm.name": {"choice": ["fixmatch", "supervised"]},
        "algorithm.threshold": {"uniform": [0.5, 0.99], "when": {"algorithm.name": "fixmatch"}},
        "distillation.weight": {"loguniform": [0.01, 10], "when": {"framework": "teacher_student"}},
    }
    if name == "grid":
        space["algorithm.threshold"] = {"choice": [0.5, 0.9], "when": {"algorithm.name": "fixmatch"}}
        space["distillation.weight"] = {"choice": [0.5, 2.0], "when": {"framework": "teacher_student"}}
    found = space_of(search_config(space=space))
    sampler = Sampler(SamplerConfig(name=name, startup_trials=5), found, LADDER)
    for number in range(30):
        draw = sampler.draw(history.state)
        assert draw is not None and found.point(draw.params, "draw") == draw.params
        expected = {"framework", "views.strong_ops", "algorithm.name"}
        expected |= {"algorithm.threshold"} if draw.params["algorithm.name"] == "fixmatch" else set()
        expected |= {"distillation.weight"} if draw.params["framework"] == "teacher_student" else set()
        assert set(draw.params) == expected
        end = ("complete", "stop", "diverged")[number % 3]
        history.add(draw.params, {10: number / 30} if end != "complete" else {10: 0.5, 30: 0.6, 90: 0.7}, end, draw.by)


@pytest.mark.parametrize("name", NAMES)
def test_a_finite_space_is_drawn_without_repetition_to_its_end(search_config, space_of, history, name: str) -> None:
    sampler = Sampler(SamplerConfig(name=name, startup_trials=2), space_of(search_config(space=FINITE)), LADDER)
    drawn: list[Any] = []
    while (draw := sampler.draw(history.state)) is not None:
        assert draw.params not in drawn and len(drawn) < 8
        drawn.append(draw.params)
        history.add(draw.params, {90: float(draw.params["views.strong_ops"] == 0)}, "complete", draw.by)
    assert len(drawn) == 8


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_recipe_is_not_drawn(search_config, space_of, history, name: str) -> None:
    space = space_of(search_config(space={"optimizer.warmup_steps": {"int": [80, 100]}}))  # 90 and more do not fit
    assert space.fault({"optimizer.warmup_steps": 89}) is None
    assert "optimizer.warmup_steps=90" in str(space.fault({"optimizer.warmup_steps": 90}))
    sampler = Sampler(SamplerConfig(name=name, startup_trials=2, prior=0), space, LADDER)
    while (draw := sampler.draw(history.state)) is not None:
        history.add(draw.params, {90: float(draw.params["optimizer.warmup_steps"])}, "complete", draw.by)
    assert sorted(t.params["optimizer.warmup_steps"] for t in history.state.of_kind("search")) == list(range(80, 90))


@pytest.mark.parametrize("name", NAMES)
def test_imported_trials_are_none_of_ours(search_config, space_of, history, name: str) -> None:
    space = space_of(search_config(space=FINITE))
    sampler = Sampler(SamplerConfig(name=name, startup_trials=2), space, LADDER)
    every = [{"views.strong_ops": n, "views.flips": f} for n in range(4) for f in (True, False)]
    for number, params in enumerate(every):
        history.imported(params, {10: 0.1 * number, 90: 0.2 * number})
    drawn = []
    while (draw := sampler.draw(history.state)) is not None:  # what was tried elsewhere may be tried here
        drawn.append(draw.params)
        history.add(draw.params, {10: 0.5}, "stop", draw.by)
    assert len(drawn) == 8 and len(history.state.trials) == 8


def test_samplers_that_cannot_work_say_so(search_config, space_of) -> None:
    space = space_of(search_config())
    with pytest.raises(ConfigError, match=r"s.yaml: sampler.name grid: space.optimizer.lr \(loguniform .* `step:`"):
        Sampler(SamplerConfig(name="grid"), space, LADDER)
    choices = space_of(search_config(space={"framework": {"choice": ["plain", "teacher_student"]}}))
    with pytest.raises(ConfigError, match=r"s\.yaml: sampler\.name cmaes: .* such as tpe"):
        Sampler(SamplerConfig(name="cmaes"), choices, LADDER)


@pytest.mark.parametrize("name", ENDLESS)
def test_nothing_is_said(backend, search_config, capfd: pytest.CaptureFixture[str], name: str) -> None:
    config = search_config(trials=15, sampler={"name": name, "startup_trials": 3}, points=[{"framework": "plain"}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = backend(config, workers=2, crash=0.05)
        run.run()
    said = capfd.readouterr()
    assert said.out == said.err == "" and run.sessions > 1
