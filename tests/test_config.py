"""Configuration: every fault of a file is one line that names file, key, value and remedy; nothing valid is lost."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.training.recipe import PLUGINS, Recipe

BASE: dict[str, Any] = {"data": {"shards": "s"}, "algorithm": {"name": "fixmatch", "threshold": 0.9}}


def recipe(**changes: Any) -> Recipe:
    """The base with dotted keys changed, `__` for the dot."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return cfg.validate(Recipe, cfg.with_overrides(BASE, changed, plugins=PLUGINS), "r.yaml")


FAULTS = {  # dotted key, value, what the line says after the file's name
    "top": ("optimzer", {}, "unknown key 'optimzer'; did you mean 'optimizer'? known: algorithm, data"),
    "nested": ("optimizer.learning_rate", 1, "optimizer: unknown key 'learning_rate'; known: lr, warmup"),
    "deep": ("data.split.validaton", 0.1, "data.split: unknown key 'validaton'; did you mean 'validation'?"),
    "in plugin": ("algorithm.treshold", 1, "algorithm: unknown key 'treshold'; did you mean 'threshold'? known: hard"),
    "deep plugin": (
        "encoding.time",
        {"name": "day_of_year", "harmonic": 2},
        "encoding.time: unknown key 'harmonic'; did you mean 'harmonics'?",
    ),
    "only plugin": ("injection.x", 1, "injection: unknown key 'x'; known: before_block, count, name"),
    "plugin": (
        "algorithm.name",
        "fixmach",
        "algorithm: unknown choice 'fixmach'; did you mean 'fixmatch'? known: adamatch, cap",
    ),
    "short plugin": (
        "encoding.location",
        "scalde",
        "encoding.location: unknown choice 'scalde'; did you mean 'scaled'",
    ),
    "far plugin": ("algorithm", "zzz", "algorithm: unknown choice 'zzz'; known: adamatch, cap, cdmad, defixmatch"),
    "default plugin": ("algorithm", {"treshold": 0.9}, "algorithm: unknown key 'treshold'; did you mean 'threshold'?"),
    "choice": ("framework", "plan", "framework: unknown choice 'plan'; did you mean 'plain'? known: metadata_input"),
    "low": ("optimizer.lr", 0, "optimizer.lr: input should be greater than 0 (got 0)"),
    "high": ("algorithm.threshold", 1.5, "algorithm.threshold: input should be less than or equal to 1 (got 1.5)"),
    "text": ("optimizer.lr", "fast", "optimizer.lr: input should be a valid number, .*(got 'fast')"),
    "half": ("training.steps", 2.5, "training.steps: input should be a valid integer, .*(got 2.5)"),
    "true": ("optimizer.lr", True, "optimizer.lr: input should be a number, not true or false (got True)"),
    "list": ("framework", ["plain"], "framework: unknown choice '['plain']'; did you mean 'plain'?"),
    "group": ("optimizer", 3, "optimizer: input should be a valid dictionary or instance of OptimizerConfig (got 3)"),
    "nothing": ("views", None, "views: input should be a valid dictionary .*(got None)"),
    "nan": ("optimizer.lr", float("nan"), "optimizer.lr: input should be a finite number (got nan)"),
    "infinite": ("distillation.weight", float("inf"), "distillation.weight: input should be a finite number (got inf)"),
    "missing": ("data", {}, "data.shards: this key is required"),
    "two keys": ("training", {"steps": 10, "eval_interval": 4}, "training: steps 10 must be a multiple of eval_inter"),
    "whole": ("optimizer.warmup_steps", 64_000, "optimizer.warmup_steps 64000 must be below training.steps 64000"),
}


@pytest.mark.parametrize("key, value, said", FAULTS.values(), ids=FAULTS)
def test_one_fault_one_line(tmp_path: Path, key: str, value: Any, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(cfg.dump_yaml(cfg.with_overrides(BASE, {key: value})))
    with pytest.raises(ConfigError) as caught:
        Recipe.read(path)
    pattern = rf"{re.escape(str(path))}, line \d+: " + re.escape(said).replace(r"\.\*", ".*")
    assert re.match(pattern, str(caught.value)) and "\n" not in str(caught.value)


def test_all_faults_are_listed_at_once() -> None:
    faulty = {
        "optimzer": {},
        "data": {"shard": "s"},
        "views": {"x": 1, "y": 1, "flips": "maybe"},
        "algorithm": {"name": "fixmatch", "treshold": 1, "temperature": -1},
        "training": {"steps": 0, "ema_decay": True},
        "seed": -3,
    }
    with pytest.raises(ConfigError) as caught:
        cfg.validate(Recipe, faulty, "r.yaml")
    said = str(caught.value).splitlines()
    for place in (
        "unknown key 'optimzer'", "data: unknown key 'shard'", "data.shards: this key is required", "views: unknown key 'x'",
        "views: unknown key 'y'", "views.flips: ", "algorithm: unknown key 'treshold'", "algorithm.temperature: ",
        "training.steps: ", "training.ema_decay: ", "seed: ",
    ):  # fmt: skip
        assert sum(line.startswith(f"r.yaml: {place}") for line in said) == 1, place
    assert len(said) == 11


def test_metadata_frameworks_need_metadata() -> None:
    nothing = {"encoding__location": "none", "encoding__time": "none"}
    assert recipe(framework="plain", **nothing).encoding.empty
    for framework in ("metadata_input", "teacher_student"):
        with pytest.raises(ConfigError, match=f"'{framework}' needs metadata.*choose an encoding or framework: plain"):
            recipe(framework=framework, **nothing)


NOT_YAML = {
    "repeated": ("seed: 1\nseed: 2\n", "line 2, column 1: .*the key 'seed' stands here twice"),
    "repeated deep": ("a:\n  b: 1\n  c: 2\n  b: 3\n", "line 4, column 3: .*the key 'b' stands here twice"),
    "bracket": ("a: [1, 2\n", "line 2, column 1: not valid YAML"),
    "colon": ("a: b: c\n", "line 1, column 5: not valid YAML: mapping values are not allowed here"),
    "tab": ("a:\n\tb: 1\n", r"line 2, column 1: not valid YAML: .*'\\t'"),
    "alias": ("a: *b\n", "line 1, column 4: .*undefined alias"),
    "control": ("a: \x01\n", "not valid YAML: .*special characters"),
    "python": ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4: .*could not determine a constructor"),
    "python name": ("a: !!python/name:os.getcwd\n", "line 1, column 4: .*could not determine a constructor"),
    "list key": ("? [a, b]\n: 1\n", "line 1, column 3: .*a key must be one word"),
    "mapping key": ("{a: 1}: 1\n", "line 1, column 1: .*a key must be one word"),
    "two documents": ("a: 1\n---\nb: 1\n", "line 2, column 1: .*another document"),
    "no day": ("note: 2020-13-45\n", "not valid YAML: month must be in 1..12"),
    "no number": ("a: !!int x\n", "not valid YAML: invalid literal for int"),
    "no truth": ("a: !!bool x\n", "not valid YAML: 'x'"),
    "no time": ("a: !!timestamp x\n", "not valid YAML"),
    "bottomless": (f"a: {'[' * 5000}\n", "not valid YAML: maximum recursion"),
    "huge": (f"a: {'9' * 5000}\n", "not valid YAML: .*digits"),
    "empty": ("", "expected a mapping of keys to values, got NoneType"),
    "comment": ("# nothing\n", "expected a mapping of keys to values, got NoneType"),
    "list": ("- a\n- b\n", "expected a mapping of keys to values, got list"),
    "word": ("plain\n", "expected a mapping of keys to values, got str"),
}


@pytest.mark.parametrize("text, said", NOT_YAML.values(), ids=NOT_YAML)
def test_files_that_are_no_mapping(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}(, |: ){said}"):
        cfg.read_yaml(path)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: Zürich".encode("latin-1"))
    for name, said in (("none.yaml", "no such file"), ("", "cannot be read: .*[Dd]irectory"), ("latin.yaml", "utf-8")):
        with pytest.raises(ConfigError, match=f"{tmp_path}.*{said}"):
            cfg.read_yaml(tmp_path / name)
    with pytest.raises(ConfigError, match=r"cannot be read: .*null"):
        cfg.read_yaml("a\0b")


def test_nothing_is_executed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        cfg.parse_yaml(f"!!python/object/apply:os.mkdir ['{tmp_path / 'made'}']", "f")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text, value",
    [
        *(("1e-4", 1e-4), ("1E-4", 1e-4), ("5.0e-5", 5e-5), ("+1.e+2", 100.0), (".5e1", 5.0), ("-1e2", -100.0)),
        *(("64_000", 64_000), ("1.5", 1.5), ("7", 7), ("true", True), ("null", None), ("1e-4x", "1e-4x"), ("e5", "e5")),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    read = cfg.parse_yaml(text, "f")
    assert read == value and type(read) is type(value)


def test_yaml_is_written_in_order_and_read_back() -> None:
    data = {"z": 1e-05, "a": {"y": [1, None, True], "b": "no"}, "ü": "1e-4"}
    text = cfg.dump_yaml(data)
    assert list(cfg.parse_yaml(text, "f")) == ["z", "a", "ü"] and cfg.parse_yaml(text, "f") == data and "ü" in text


@pytest.mark.parametrize("rare", ["\x85", "a\u2028b", "\x07"])
def test_rare_characters_survive_yaml(rare: str) -> None:
    assert cfg.parse_yaml(cfg.dump_yaml({"note": rare}), "f") == {"note": rare}


def test_overrides_leave_the_input_alone() -> None:
    value = {"name": "supervised"}
    data, before = {"algorithm": {"name": "fixmatch"}, "n": {"l": [1]}}, None
    before = copy.deepcopy(data)
    result = cfg.with_overrides(data, {"algorithm": value, "n.k": 1})
    result["algorithm"]["x"] = result["n"]["l"] = 0
    assert data == before and value == {"name": "supervised"}


def test_overrides() -> None:
    data = {"algorithm": {"name": "fixmatch", "threshold": 0.5}, "encoding": {"time": "none"}, "empty": None, "seed": 1}
    data |= {"model": {"name": "tiny", "depth": 2}}

    def change(**o: Any) -> dict[str, Any]:
        return cfg.with_overrides(data, {k.replace("__", "."): v for k, v in o.items()}, plugins=PLUGINS)

    assert change(model__name="small")["model"] == {"name": "small", "depth": 2}  # a name, but no plugin
    assert change(seed=2)["seed"] == 2
    assert change(a__b__c=1)["a"] == {"b": {"c": 1}} and change(empty__x=1)["empty"] == {"x": 1}
    assert change(algorithm__temperature=1)["algorithm"] == {"name": "fixmatch", "threshold": 0.5, "temperature": 1}
    assert change(algorithm__name="fixmatch")["algorithm"] == {"name": "fixmatch", "threshold": 0.5}
    assert change(algorithm__name="supervised")["algorithm"] == {"name": "supervised"}
    # whatever the order in which they are given, settings are those of the new plugin
    assert change(algorithm__alpha=0.7, algorithm__name="new")["algorithm"] == {"name": "new", "alpha": 0.7}
    assert change(encoding__time__name="day_of_year")["encoding"] == {"time": {"name": "day_of_year"}}
    assert change(encoding__time__harmonics=2)["encoding"] == {"time": {"name": "none", "harmonics": 2}}
    assert change(algorithm="supervised")["algorithm"] == "supervised"
    with pytest.raises(ConfigError, match=r"^--set: seed.x.y: 'seed' is a value, not a group of keys"):
        change(seed__x__y=1)
    with pytest.raises(ConfigError, match=r"^f.yaml: seed.x: "):
        cfg.with_overrides(data, {"seed.x": 1}, "f.yaml")


def test_overrides_of_a_file_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(cfg.dump_yaml(BASE))
    assert Recipe.read(path, {"algorithm.name": "supervised"}).algorithm.name == "supervised"
    assert Recipe.read(path, {"algorithm.temperature": 1}).algorithm.threshold == 0.9
    with pytest.raises(ConfigError, match="algorithm: unknown key 'threshold'; known: name"):
        Recipe.read(path, {"algorithm.name": "supervised", "algorithm.threshold": 0.9})
    with pytest.raises(ConfigError, match="optimizer: unknown key 'lrate'; "):
        Recipe.read(path, {"optimizer.lrate": 0.9})


def test_set_options() -> None:
    parsed = cfg.parse_set(["optimizer.lr=1e-4", " a.b = x=y", "c=", "d=[1, two]", "e=true", "optimizer.lr=2e-4"])
    assert parsed == {"optimizer.lr": 2e-4, "a.b": "x=y", "c": None, "d": [1, "two"], "e": True}
    for wrong in ("optimizer.lr", "=1", " =1"):
        with pytest.raises(ConfigError, match=f"^--set {wrong}: expected key=value, for example"):
            cfg.parse_set([wrong])
    with pytest.raises(ConfigError, match=r"^--set a=\[1, line 1, column 3: not valid YAML"):
        cfg.parse_set(["a=[1"])


def test_flatten() -> None:
    assert cfg.flatten({"b": {"z": 1, "a": {"k": None}}, "a": [1], "c": {}}) == {"b.z": 1, "b.a.k": None, "a": [1]}


def test_digest_ignores_order_and_where_the_shards_lie() -> None:
    full = recipe()
    backwards = dict(reversed(full.dump().items())) | {"algorithm": dict(reversed(full.dump()["algorithm"].items()))}
    assert cfg.validate(Recipe, backwards, "r").digest() == full.digest() == recipe(data__shards="elsewhere").digest()
    assert recipe(data__residency="device").digest() == full.digest()
    assert re.fullmatch("[0-9a-f]{12}", full.digest())
    assert recipe(algorithm="fixmatch").digest() != full.digest()
    assert cfg.digest({"a": {"b": 1, "c": 2}, "d": 3}) == cfg.digest({"d": 3, "a": {"c": 2, "b": 1}})


CHANGED = {  # another valid value for every key of the recipe
    "data.bands": ["B04"], "data.split.by": "column", "data.split.block_deg": 1, "data.split.validation": 0.3,
    "data.split.test": 0.3, "data.split.seed": 1, "data.labeled.count": 9, "data.labeled.per_class": 9,
    "data.labeled.fraction": 0.5, "data.labeled.seed": 1, "data.validation_budget.count": 9,
    "data.validation_budget.per_class": 9, "data.validation_budget.fraction": 0.5, "data.validation_budget.seed": 1,
    "data.split.holdout": {"months": [1]}, "views.crop_ratio": 0.9, "views.flips": False,
    "views.strong_ops": 2, "views.strong_magnitude": 4, "framework": "plain", "encoding.location.name": "none",
    "encoding.time.name": "none", "encoding.time.harmonics": 2, "encoding.time.period_days": 365, "encoding.mlp_depth": 1,
    "encoding.mlp_width": 64, "encoding.dropout": 0.1, "encoding.jitter_deg": 0.5, "model.name": "tiny",
    "model.image_size": 64, "model.patch_size": 8, "model.embed_dim": 192, "model.depth": 2, "model.num_heads": 2,
    "model.drop_path_rate": 0.1, "model.pretrained": True, "algorithm.name": "supervised",
    "algorithm.unlabeled_weight": 2, "algorithm.threshold": 0.5, "algorithm.hard_labels": False,
    "algorithm.temperature": 1, "distillation.loss": "mae", "distillation.weight": 2, "distillation.on": "logits",
    "distillation.predictor": "mlp", "distillation.views": "labeled", "distillation.rampup_steps": 5,
    "distillation.temperature": 1, "injection.name": "film", "injection.count": 2, "injection.before_block": 1,
    "training.target_source": "ema", "training.labeled_sampling": "class_balanced", "optimizer.lr": 1,
    "optimizer.weight_decay": 1, "optimizer.warmup_steps": 1, "training.steps": 2000, "training.eval_interval": 1000,
    "training.batch_labeled": 1, "training.batch_unlabeled": 1, "training.ema_decay": 0.5,
    "training.precision": "bfloat16", "parity": "reference", "seed": 1,
}  # fmt: skip


def test_digest_follows_every_value() -> None:
    pair = {"algorithm.threshold_negative": 0.1, "algorithm.threshold_positive": 0.9}
    keys = set(cfg.flatten(recipe().dump()))
    known = {*CHANGED, *pair, "data.shards", "data.residency"}
    assert keys <= known, f"this test does not know {keys - known}: add another valid value"
    changes: list[dict[str, Any]] = [{}, pair, *({key: value} for key, value in CHANGED.items())]
    full = recipe().dump()
    digests = [
        cfg.validate(Recipe, cfg.with_overrides(full, change, plugins=PLUGINS), str(change)).digest()
        for change in changes
    ]
    assert len(set(digests)) == len(digests)


class Inner(cfg.Config):
    number: int | None = None
    flag: bool = False


class Outer(cfg.Config):
    int_: int = Field(1, alias="int")
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()


def test_truth_values_are_no_numbers() -> None:
    assert cfg.validate(Inner, {"flag": True, "number": 1}, "f") == Inner(flag=True, number=1)
    for data, where in (({"int": False}, "int"), ({"inner": {"number": True}}, "inner.number")):
        with pytest.raises(ConfigError, match=f"^f: {where}: input should be a number, not true or false"):
            cfg.validate(Outer, data, "f")
    with pytest.raises(ConfigError, match=r"^f: many.1: unknown key 'x'; known: flag, number$"):
        cfg.validate(Outer, {"many": [{}, {"x": 1}]}, "f")
    with pytest.raises(ConfigError, match=r"^f: unknown key '7'; known: inner, int, many$"):
        cfg.validate(Outer, {7: 1}, "f")
    with pytest.raises(ConfigError, match=r"^f: input should be a valid dictionary or instance of Outer \(got 3\)$"):
        cfg.validate(Outer, 3, "f")


unit = st.floats(0, 1, exclude_max=True)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "data": st.fixed_dictionaries(
        {"shards": st.text(min_size=1)},
        optional={
            "bands": st.lists(st.text(), min_size=1, max_size=3),
            "split": st.fixed_dictionaries({"validation": st.floats(0.01, 0.4), "test": st.floats(0, 0.5)}),
            "labeled": st.one_of(
                st.fixed_dictionaries({"count": st.integers(1, 10**6)}),
                st.fixed_dictionaries({"fraction": st.floats(1e-9, 1)}),
            ),
        },
    ),
    "views": st.fixed_dictionaries({"crop_ratio": st.floats(0.5, 1), "flips": st.booleans()}),
    "framework": st.sampled_from(["plain", "metadata_input", "teacher_student"]),
    "encoding": st.fixed_dictionaries(
        {"time": st.just("day_of_year") | st.builds(lambda k: {"name": "day_of_year", "harmonics": k}, st.integers(1, 6))}
    ),
    "model": st.fixed_dictionaries(
        {"name": st.just("tiny"), "drop_path_rate": unit, "pretrained": st.booleans() | st.text()}
    ),
    "algorithm": st.one_of(
        st.sampled_from(["fixmatch", "supervised"]),
        st.fixed_dictionaries({"name": st.just("fixmatch"), "threshold": st.floats(0, 1), "hard_labels": st.booleans()}),
    ),
    "distillation": st.fixed_dictionaries(
        {"loss": st.sampled_from(["mse", "mae", "cosine"]), "weight": st.floats(0, 1000)}
    ),
    "optimizer": st.fixed_dictionaries({"lr": st.floats(0, 1e6, exclude_min=True), "warmup_steps": st.integers(0, 9)}),
    "training": st.builds(
        lambda n, interval, decay: {"steps": 10 * n * interval, "eval_interval": interval, "ema_decay": decay},
        *(st.integers(1, 100), st.integers(1, 1000), unit),
    ),
    "seed": st.integers(0, 2**31 - 1),
}  # fmt: skip


@given(data=st.fixed_dictionaries({"data": PARTS["data"]}, optional={k: v for k, v in PARTS.items() if k != "data"}))
@settings(max_examples=150, deadline=None)
def test_recipe_survives_yaml(data: dict[str, Any]) -> None:
    first = cfg.validate(Recipe, data, "r.yaml")
    again = cfg.validate(Recipe, cfg.parse_yaml(cfg.dump_yaml(first.dump()), "r.yaml"), "r.yaml")
    assert again == first and again.digest() == first.digest() and again.dump() == first.dump()
    written = cfg.parse_yaml(cfg.dump_yaml(data), "r.yaml")
    assert cfg.validate(Recipe, written, "r.yaml") == first


def test_replicate_is_another_draw_of_the_same_problem() -> None:
    first = recipe(seed=5, data__labeled__seed=7, data__labeled__count=30, data__split__seed=3)
    one, two = first.replicate(1), first.replicate(2)
    assert len({first.seed, one.seed, two.seed}) == 3
    assert len({r.data.labeled.seed for r in (first, one, two)}) == 3
    assert one.data.split == two.data.split == first.data.split and one.data.labeled.count == 30
    undone = cfg.with_overrides(one.dump(), {"seed": 5, "data.labeled.seed": 7})
    assert cfg.validate(Recipe, undone, "r") == first
    assert first.replicate(1) == one
    assert recipe(seed=2**31 - 1).replicate(3).seed == 2999  # the highest seed has replicates too
