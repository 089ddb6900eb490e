"""The search space: every fault is named with file, key, value and remedy; every draw is a valid recipe."""

import random
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl import config as cfg
from stssl.errors import ConfigError, StsslError
from stssl.search.config import SearchConfig
from stssl.search.space import FIXED, Parameter, Space
from stssl.training.recipe import PLUGINS, Recipe
from tests.search.conftest import RECIPE

RANGE = {"uniform": [0.1, 0.9]}
FRAMEWORK = {"framework": {"choice": ["plain", "teacher_student"]}}


def weight(**when: Any) -> dict[str, Any]:
    return {**FRAMEWORK, "distillation.weight": {**RANGE, "when": when}}


RICH: dict[str, Any] = {
    "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
    "algorithm.name": {"choice": ["fixmatch", "supervised"]},
    "algorithm.threshold": {"uniform": [0.5, 0.95], "when": {"algorithm.name": "fixmatch"}},
    "algorithm.hard_labels": {"choice": [True, False], "when": {"algorithm.name": "fixmatch"}},
    "algorithm.temperature": {"loguniform": [0.1, 10], "when": {"algorithm.hard_labels": False}},
    "distillation.loss": {"choice": ["auto", "mae", "cosine"], "when": {"framework": "teacher_student"}},
    "distillation.weight": {"loguniform": [0.001, 1], "when": {"distillation.loss": ["auto", "mae"]}},
    "encoding.time.name": {
        "choice": ["none", "day_of_year"],
        "when": {"framework": ["metadata_input", "teacher_student"]},
    },
    "encoding.time.harmonics": {"int": [1, 6], "when": {"encoding.time.name": "day_of_year"}},
    "views.strong_ops": {"int": [0, 8]},
    "views.strong_magnitude": {"uniform": [0, 10]},
    "model.patch_size": {"choice": [None, 8, 16]},
    "model.num_heads": {"choice": [None, 2, 4], "when": {"model.patch_size": None}},
    "optimizer.lr": {"loguniform": [1e-6, 1]},
    "optimizer.weight_decay": {"choice": [0, 5e-4, 0.1]},
}


def read(search_config, space_of, space: dict[Any, Any], **overrides: Any) -> tuple[SearchConfig, Space]:
    config = search_config(space=space, **overrides)
    return config, space_of(config)


def said_of(search_config, space_of, space: dict[Any, Any], **overrides: Any) -> str:
    """What is said of a faulty space, from reading to the last check."""
    with pytest.raises(ConfigError) as caught:
        found = read(search_config, space_of, space, **overrides)[1]
        found.base_point()
        found.check()
    return str(caught.value)


PARAMETERS = {  # one parameter, what is said after `s.yaml: space.optimizer.lr`
    "misspelt": ({"unifrm": [0, 1]}, ": unknown key 'unifrm'; did you mean 'uniform'? known: choice, int, loguniform"),
    "none": ({}, ": give exactly one of choice, uniform, loguniform, int"),
    "two": ({**RANGE, "int": [0, 1]}, ": give exactly one of choice, uniform, loguniform, int"),
    "no group": (None, ": input should be a valid dictionary .*(got None)"),
    "no list": ({"choice": "abc"}, ".choice: input should be a valid tuple (got 'abc')"),
    "empty": ({"choice": []}, ": choice has no values"),
    "twice": ({"choice": [1, 2, 1]}, ": choice has the same value twice"),
    "twice as truth": ({"choice": [1, True]}, ": choice has the same value twice"),
    "twice as float": ({"choice": [1, 1.0]}, ": choice has the same value twice"),
    "group": ({"choice": [{"a": 1}]}, ".choice.0: .*(got {'a': 1})"),
    "nan": ({"choice": [float("nan")]}, ".choice.0: .*input should be a finite number (got nan)"),
    "reversed": ({"uniform": [0.9, 0.1]}, ": the lower end 0.9 must be below the upper end 0.1"),
    "point": ({"int": [3, 3]}, ": the lower end 3 must be below the upper end 3"),
    "one end": ({"uniform": [1]}, ".uniform.1: this key is required"),
    "three ends": ({"uniform": [1, 2, 3]}, ".uniform: tuple should have at most 2 items"),
    "infinite": ({"uniform": [0, float("inf")]}, ".uniform.1: input should be a finite number (got inf)"),
    "log 0": ({"loguniform": [0, 1]}, ": the lower end 0.0 of a loguniform range must be above 0"),
    "log -1": ({"loguniform": [-1, 1]}, ": the lower end -1.0 of a loguniform range must be above 0"),
    "half": ({"int": [0, 2.5]}, ".int.1: input should be a valid integer, .*(got 2.5)"),
    "words": ({"uniform": ["low", "high"]}, ".uniform.0: input should be a valid number.*(got 'low')"),
    "when": ({**RANGE, "when": "plain"}, ".when: input should be a valid dictionary (got 'plain')"),
    "when nothing": ({**RANGE, "when": {"framework": []}}, ": when.framework has no values"),
}


@pytest.mark.parametrize("parameter, said", PARAMETERS.values(), ids=PARAMETERS)
def test_faults_of_a_parameter(search_config, space_of, parameter: Any, said: str) -> None:
    text = said_of(search_config, space_of, {"optimizer.lr": parameter})
    pattern = re.escape(f"s.yaml: space.optimizer.lr{said}").replace(r"\.\*", "(.|\n)*")
    assert re.match(pattern, text), text


LONG = "known: algorithm.hard_labels, algorithm.name, "
SPACES = {  # a space, what is said
    "empty": ({}, "s.yaml: space: is empty; name at least one recipe key, such as optimizer.lr"),
    "number": ({7: RANGE}, "s.yaml: space.7: input should be a valid string (got 7)"),
    "top": ({"optimzer.lr": RANGE}, f"s.yaml: recipe: no value for optimzer.lr .*; did you mean 'optimizer.lr'? {LONG}"),
    "nested": ({"data.split.x": RANGE}, "s.yaml: space.data.split.x: must be the same in all trials; set it in recipe"),
    "leaf": ({"optimizer.rate": RANGE}, f"s.yaml: recipe: no value for optimizer.rate here or in the base recipe; .*{LONG}"),
    "group": ({"algorithm": {"choice": ["fixmatch", "supervised"]}}, ".*no value for algorithm .*mean 'algorithm.name'?"),
    "beyond": ({"optimizer.lr.x": RANGE}, "s.yaml: recipe: no value for optimizer.lr.x .*did you mean 'optimizer.lr'?"),
    "condition hides it": (
        {**FRAMEWORK, "optimizer.rate": {**RANGE, "when": {"framework": "plain"}}},
        "s.yaml: space.framework: 'plain' does not work: recipe with framework=plain, optimizer.rate=0.1: "
        "optimizer: unknown key 'rate'; ",
    ),
    "plugin's key": (
        {"algorithm.name": {"choice": ["fixmatch", "supervised"]}, "algorithm.threshold": {"uniform": [0.5, 0.95]}},
        "s.yaml: space.algorithm.name: 'supervised' does not work: recipe with algorithm.name=supervised, "
        "algorithm.threshold=0.9: algorithm: unknown key 'threshold'; known: name",
    ),
    "low end": (
        {"optimizer.lr": {"uniform": [0, 1]}},
        "s.yaml: space.optimizer.lr: 0.0 does not work: recipe with optimizer.lr=0.0: optimizer.lr: input should be "
        "greater than 0 (got 0.0)",
    ),
    "high end": (
        {"algorithm.threshold": {"uniform": [0.5, 1.5]}},
        "s.yaml: space.algorithm.threshold: 1.5 does not work: recipe with algorithm.threshold=1.5: algorithm.threshold: "
        "input should be less than or equal to 1 (got 1.5)",
    ),
    "middle": (
        {"views.strong_ops": {"uniform": [0, 8]}},
        r"s.yaml: recipe with views.strong_ops=\d.\d+: views.strong_ops: input should be a valid integer",
    ),
    "one of a choice": (
        {"framework": {"choice": ["teacher_student", "plan"]}},
        "s.yaml: space.framework: 'plan' does not work: recipe with framework=plan: framework: unknown choice 'plan'; did "
        "you mean 'plain'?",
    ),
    "unknown plugin": (
        {"algorithm.name": {"choice": ["fixmatch", "fixmach"]}},
        "s.yaml: space.algorithm.name: 'fixmach' does not work: .*unknown choice 'fixmach'; did you mean 'fixmatch'?",
    ),
    "truth for a number": ({"optimizer.lr": {"choice": [1e-4, True]}}, ".*: True does not work: .*not true or false"),
    "number for truth": (
        {"views.flips": {"choice": [0, 1]}},
        "s.yaml: recipe: views.flips = True lies outside the space (choice of 0, 1); widen the space or change the value",
    ),
    "null": ({"views.strong_ops": {"choice": [3, None]}}, "s.yaml: space.views.strong_ops: None does not work: .*(got None)"),
    "base outside": (
        {"optimizer.lr": {"loguniform": [0.001, 0.1]}},
        "s.yaml: recipe: optimizer.lr = 0.0001 lies outside the space (loguniform from 0.001 to 0.1); widen the space",
    ),
    "unknown condition": (
        weight(framewrk="plain"),
        "s.yaml: space.distillation.weight.when: unknown key 'framewrk'; did you mean 'framework'? known: framework",
    ),
    "condition on what is not searched": (weight(**{"algorithm.name": "fixmatch"}), ".*when: unknown key 'algorithm.name'"),
    "impossible": (
        weight(framework=["plain", "metadata_input"]),
        "s.yaml: space.distillation.weight.when: framework never is 'metadata_input'; it is a choice of plain, teacher_st",
    ),
    "outside a range": (
        {"views.strong_ops": {"int": [0, 3]}, "views.strong_magnitude": {**RANGE, "when": {"views.strong_ops": 4}}},
        "s.yaml: space.views.strong_magnitude.when: views.strong_ops never is 4; it is a int from 0 to 3",
    ),
    "truth in a condition": (
        {"views.strong_ops": {"choice": [0, 1]}, "views.flips": {"choice": [True, False], "when": {"views.strong_ops": True}}},
        "s.yaml: space.views.flips.when: views.strong_ops never is True; it is a choice of 0, 1",
    ),
    "itself": (
        {"distillation.weight": {**RANGE, "when": {"distillation.weight": 0.5}}},
        "s.yaml: space: the conditions of distillation.weight go in a circle",
    ),
    "circle": (
        {
            "framework": {"choice": ["plain", "teacher_student"], "when": {"views.flips": True}},
            "views.flips": {"choice": [True, False], "when": {"framework": "plain"}},
            "optimizer.lr": {"uniform": [1e-5, 1]},
        },
        "s.yaml: space: the conditions of framework, views.flips go in a circle",
    ),
    "never": (
        {
            **FRAMEWORK,
            "distillation.loss": {"choice": ["auto", "mae"], "when": {"framework": "teacher_student"}},
            "distillation.weight": {**RANGE, "when": {"distillation.loss": "auto", "framework": "plain"}},
        },
        "s.yaml: space.distillation.weight.when: no value of framework meets all conditions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("space, said", SPACES.values(), ids=SPACES)
def test_faults_of_a_space(search_config, space_of, space: dict[Any, Any], said: str) -> None:
    text = said_of(search_config, space_of, space)
    pattern = re.escape(said).replace(r"\.\*", ".*").replace(r"\\d\.\\d\+", r"\d\.\d+")
    assert re.match(pattern, text), text


@pytest.mark.parametrize("key", FIXED)
def test_what_makes_trials_comparable_is_not_searched(search_config, space_of, key: str) -> None:
    for searched in (key, f"{key}.deeper"):
        text = said_of(search_config, space_of, {searched: RANGE})
        assert text == f"s.yaml: space.{searched}: must be the same in all trials; set it in recipe instead"
    assert "must be the same" not in said_of(search_config, space_of, {f"{key}s": RANGE})


def test_contains() -> None:
    yes: list[tuple[Parameter, tuple[Any, ...]]] = [
        (Parameter(choice=(1, "a", None)), (1, 1.0, "a", None)),
        (Parameter(choice=(True, "x")), (True,)),
        (Parameter(uniform=(0, 2)), (0, 2, 1, 0.5)),
        (Parameter(int=(0, 2)), (0, 1, 2)),
    ]
    no: list[tuple[Any, ...]] = [
        (True, False, "1", 2),
        (1, 1.0, "True", False, None),
        (-0.1, 2.1, True, "1", None, float("nan")),
        (0.5, 1.0, 3, True),
    ]
    for (parameter, inside), outside in zip(yes, no, strict=True):
        assert all(parameter.contains(value) for value in inside)
        assert not any(parameter.contains(value) for value in outside)


def test_null_is_a_value(search_config, space_of) -> None:
    space = {
        "model.patch_size": {"choice": [None, 8]},
        "views.flips": {"choice": [True, False], "when": {"model.patch_size": None}},
    }
    config, found = read(search_config, space_of, space)
    found.check()
    assert found.base_point() == {"model.patch_size": None, "views.flips": True}
    again = cfg.validate(SearchConfig, cfg.parse_yaml(cfg.dump_yaml(config.dump()), "s.yaml"), "s.yaml")
    assert again == config and again.space["views.flips"].when == {"model.patch_size": None}
    assert found.active("views.flips", {"model.patch_size": None})
    assert not found.active("views.flips", {"model.patch_size": 8}) and not found.active("views.flips", {})


def test_conditions_in_a_chain(search_config, space_of) -> None:
    space = dict(reversed(RICH.items()))  # children first: the order in the file does not matter
    found = read(search_config, space_of, space)[1]
    order = list(found.parameters)
    assert all(order.index(parent) < order.index(key) for key, p in found.parameters.items() for parent in p.when)
    assert set(order) == set(RICH)
    on = {"algorithm.name": "fixmatch", "algorithm.hard_labels": False, "algorithm.temperature": 1}
    point = found.point({**on, "distillation.loss": "cosine", "distillation.weight": 1}, "points[0]")
    assert point["algorithm.temperature"] == 1 and "distillation.weight" not in point
    point = found.point({**on, "algorithm.name": "supervised", "framework": "plain"}, "points[0]")
    assert not {k for k in point if k.startswith(("algorithm.", "distillation.", "encoding."))} - {"algorithm.name"}


def test_base_point_is_the_base_recipe(search_config, space_of) -> None:
    for change in (
        {},
        {"recipe__algorithm": "supervised"},
        {"recipe__framework": "plain", "recipe__optimizer__lr": 0.5},
    ):
        config, found = read(search_config, space_of, RICH, **change)
        point = found.base_point()
        assert found.recipe(point).dump() == config.recipe
        flat = cfg.flatten(config.recipe)
        assert point == {key: flat[key] for key in found.parameters if key in point}
        assert ("algorithm.threshold" in point) == (config.recipe["algorithm"]["name"] == "fixmatch")


def test_points(search_config, space_of) -> None:
    found = read(search_config, space_of, RICH)[1]
    assert found.point({}, "points[0]") == found.base_point()
    assert found.point({"optimizer.lr": 1}, "points[0]") == {**found.base_point(), "optimizer.lr": 1}
    for point, said in (
        ({"optimzer.lr": 1}, r"'optimzer.lr' is not searched; did you mean 'optimizer.lr'\? known: algorithm.h"),
        ({"seed": 1}, "'seed' is not searched; known: "),
        (
            {"optimizer.lr": 2},
            r"optimizer.lr = 2 lies outside the space \(loguniform from 1e-06 to 1.0\); widen the sp",
        ),
        ({"optimizer.lr": True}, "optimizer.lr = True lies outside"),
        ({"optimizer.lr": "1"}, "optimizer.lr = '1' lies outside"),
        ({"optimizer.lr": None}, "optimizer.lr = None lies outside"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr = nan lies outside"),
        ({"views.strong_ops": 1.5}, "views.strong_ops = 1.5 lies outside the space .int from 0 to 8."),
        ({"framework": ["plain"]}, r"framework = \['plain'\] lies outside"),
    ):
        with pytest.raises(ConfigError, match=rf"^s.yaml: points\[3\]: {said}"):
            found.point(point, "points[3]")
    found = read(search_config, space_of, RICH, recipe__algorithm="supervised")[1]
    other = found.point({"algorithm.name": "fixmatch"}, "points[0]")  # a plugin's settings are then its own defaults
    assert other["algorithm.threshold"] == 0.95 and "algorithm.threshold" not in found.base_point()


def test_both_ends_and_every_choice_are_checked(search_config, space_of) -> None:
    config, found = read(search_config, space_of, RICH)
    seen: list[Recipe] = []
    found.check(seen.append, draws=0)
    flats = [cfg.flatten(recipe.dump()) for recipe in seen]
    for key, parameter in config.space.items():
        values = [flat[key] for flat in flats if key in flat]
        assert all(extreme in values for extreme in parameter.extremes()), key
    assert len(seen) == sum(len(p.extremes()) for p in config.space.values())
    found.check(seen.append, draws=7)
    assert len(seen) == 2 * len(flats) + 7


@pytest.mark.parametrize("key, bad", [(k, e) for k, p in RICH.items() for e in next(iter(p.values()))])
def test_a_check_of_the_data_names_what_does_not_fit(search_config, space_of, key: str, bad: Any) -> None:
    found = read(search_config, space_of, {key: RICH[key]} if "when" not in RICH[key] else RICH)[1]
    base = cfg.flatten(found.base)

    def refuse(recipe: Recipe) -> None:
        value = cfg.flatten(recipe.dump()).get(key)
        if value == bad and value != base.get(key):
            raise StsslError("too much for the data")

    if bad == base.get(key):
        found.check(refuse, draws=0)
        return
    with pytest.raises(ConfigError, match=rf"^s.yaml: space.[a-z_.]+: .* does not work: too much for the data$"):  # noqa: F541
        found.check(refuse, draws=0)


def check_draw(found: Space, values: dict[str, Any]) -> None:
    """A draw is a valid recipe that has just these values."""
    recipe = found.recipe(values)
    flat = cfg.flatten(recipe.dump())
    assert all(flat[key] == value for key, value in values.items())
    for key, parameter in found.parameters.items():
        holds = all(p in values and values[p] in (a if isinstance(a, list) else [a]) for p, a in parameter.when.items())
        assert (key in values) == holds
        assert not holds or parameter.contains(values[key])
    base = cfg.flatten(found.base)
    same_plugin = not any(values.get(k, base[k]) != base[k] for k in ("algorithm.name", "encoding.time.name"))
    assert not same_plugin or all(flat[key] == base[key] for key in base if key not in values)
    assert found.point(values, "points[0]") == values


@pytest.fixture(scope="module")
def rich(search_config, space_of) -> Space:
    return read(search_config, space_of, RICH)[1]


def test_every_draw_is_a_valid_recipe(rich: Space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [rich.suggest(study.ask()) for _ in range(500)]
    for values in drawn:
        check_draw(rich, values)
    assert {key for values in drawn for key in values} == set(RICH)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_every_walk_is_a_valid_recipe(rich: Space, seed: int) -> None:
    values = rich.unseen([], random.Random(seed))
    assert values is not None
    check_draw(rich, values)


def test_values_drawn_stay_inside() -> None:
    source = random.Random(0)
    for parameter in (Parameter(uniform=(0, 1)), Parameter(loguniform=(1e-100, 1e100)), Parameter(int=(-3, 3))):
        drawn = [parameter.draw(source) for _ in range(300)]
        assert all(map(parameter.contains, drawn)) and len(set(drawn)) > 6
    small = sum(Parameter(loguniform=(1e-4, 1)).draw(source) < 1e-2 for _ in range(1000))
    assert 420 < small < 580  # half of the decades


def test_walk_visits_everything_once(search_config, space_of) -> None:
    space = {
        **FRAMEWORK,
        "views.strong_ops": {"int": [0, 2]},
        "distillation.loss": {"choice": ["auto", "mae"], "when": {"framework": "teacher_student"}},
    }
    found = read(search_config, space_of, space)[1]
    seen: list[dict[str, Any]] = []
    while (point := found.unseen(seen, random.Random(len(seen)))) is not None:
        assert point not in seen
        seen.append(point)
    assert len(seen) == 3 + 3 * 2 and {p["framework"] for p in seen[:4]} == {"plain", "teacher_student"}


def test_what_is_said_of_a_parameter() -> None:
    for parameter, said in (
        (Parameter(choice=("a", None, 1)), "choice of a, None, 1"),
        (Parameter(uniform=(0, 1)), "uniform from 0.0 to 1.0"),
        (Parameter(loguniform=(1e-5, 1)), "loguniform from 1e-05 to 1.0"),
        (Parameter(int=(0, 1)), "int from 0 to 1"),
    ):
        assert parameter.describe() == said


def test_a_recipe_as_a_point(search_config, space_of) -> None:
    found = read(search_config, space_of, RICH)[1]
    base = Recipe.model_validate(found.base)

    def other(**overrides: Any) -> Recipe:
        data = cfg.with_overrides(found.base, {k.replace("__", "."): v for k, v in overrides.items()}, plugins=PLUGINS)
        return cfg.validate(Recipe, data, "r.yaml")

    assert found.point_of(base, "points[0]") == found.base_point()
    recipe = other(algorithm__name="supervised", optimizer__lr=0.5, framework="plain")
    point = found.point_of(recipe, "points[0]")
    assert found.recipe(point).digest() == recipe.digest() and "algorithm.threshold" not in point
    same = other(seed=7, data__shards="elsewhere", training__steps=180, data__labeled={"count": 5})
    assert found.point_of(same, "points[0]") == found.base_point()  # what is fixed stays the base's
    for overrides, said in (
        (
            {"optimizer__warmup_steps": 5},
            r"optimizer.warmup_steps is 5 there, but 0 at this .*; make it the same, or add op",
        ),
        (
            {"algorithm": {"name": "freematch"}},
            r"algorithm.name = 'freematch' lies outside the space \(choice of fixmatch, s",
        ),
        ({"distillation__weight": 5.0}, r"distillation.weight = 5.0 lies outside the space"),
        (
            {"distillation__loss": "cosine", "distillation__weight": 0.7},
            r"distillation.weight is 0.7 there, .*widen its `wh",
        ),
    ):
        with pytest.raises(ConfigError, match=rf"^s.yaml: points\[1\]: r.yaml: {said}"):
            found.point_of(other(**overrides), "points[1]: r.yaml")


def test_a_search_file_names_recipes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "fast.yaml").write_text("{base: base.yaml, optimizer: {lr: 0.01}}")
    search = {"name": "s", "recipe": "fast.yaml", "space": {"optimizer.lr": {"loguniform": [1e-5, 0.1]}}}
    path = tmp_path / "s.yaml"

    def points(given: Any, **overrides: Any) -> Any:
        path.write_text(yaml.safe_dump({**search, "points": given}))
        return SearchConfig.read(path, overrides).points

    assert SearchConfig.read(path if points([]) == () else "").recipe["optimizer"]["lr"] == 0.01
    assert points(["base.yaml", {"optimizer.lr": 0.03}, "fast.yaml"]) == (
        {"optimizer.lr": 1e-4},
        {"optimizer.lr": 0.03},
        {"optimizer.lr": 0.01},
    )
    assert points(["base.yaml"], **{"recipe.data.shards": "elsewhere"}) == ({"optimizer.lr": 1e-4},)
    (tmp_path / "far.yaml").write_text("{base: base.yaml, optimizer: {lr: 0.5}}")
    for named, said in (
        (["fats.yaml"], "fats.yaml: no such file"),
        (
            [{}, "far.yaml"],
            r"s.yaml, line 4: points\[1\]: far.yaml: optimizer.lr = 0.5 lies outside the space .*; widen the space",
        ),
        ([7], r"s.yaml, line 3: points.0: input should be a valid dictionary"),
        ("base.yaml", "s.yaml, line 2: points: input should be a valid tuple"),
    ):
        with pytest.raises(ConfigError, match=said):
            points(named)
    search["recipe"] = {"base": "base.yaml", "seed": 3}  # a base beside the search file
    assert points(["base.yaml"]) == ({"optimizer.lr": 1e-4},) and SearchConfig.read(path).recipe["seed"] == 3
