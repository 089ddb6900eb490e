"""Errors say on which line of the file the key stands, and never a line of another file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stssl.errors import ConfigError, DataError
from stssl.lines import located
from stssl.search import checks
from stssl.search.config import SearchConfig
from stssl.search.config import located as located_search
from stssl.training.recipe import Recipe

TEXT = """\
# a comment
optimizer:
  lr: 1
  weight_decay: 0
points:
  - {optimizer.lr: 2}
  - {seed: 1,
     framework: plain}
space:
  optimizer.lr:
    uniform: [0,
      x]
  a.b: {choice: [1]}
"""


@pytest.mark.parametrize(
    "fault, line",
    [
        ("optimizer.lr: too large", 3),
        ("optimizer: lr 1 must be below 2", 3),
        ("optimizer: unknown key 'weight_decay'; known: x", 4),
        ("optimizer.warmup_steps: this key is required", 2),
        ("unknown key 'points'", 5),
        ("points[1]: framework = 'plain' lies outside", 8),
        ("points[1]: r.yaml: optimizer.lr = 1 lies outside", 7),
        ("points.0: input should be a valid dictionary", 6),
        ("points[7]: gone", 5),
        ("space.optimizer.lr: 0 does not work: recipe with optimizer.lr=0", 10),
        ("space.optimizer.lr.uniform.1: input should be", 12),
        ("space.optimizer.lr.when: unknown key 'x'", 10),
        ("space.a.b: must be the same", 13),
        ("space: the conditions of a.b go in a circle", 9),
        ("optimizer.lr 1 must be below 2", 3),
        ("recipe with optimizer.lr=3: optimizer.lr: no", None),
        ("something else", None),
        ("seed: by the command line", None),
        ("optimizer.nested: by the command line", None),
        ("optimizer: unknown key 'nested'", None),
        ("many[0]: optimizer.lr = 2 lies outside", None),
    ],
)
def test_lines_of_keys(tmp_path: Path, fault: str, line: int | None) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(TEXT)
    with pytest.raises(DataError) as caught, located(path, {"seed": 1, "optimizer.nested": 2, "many": []}):
        raise DataError(f"{path}: {fault}\n{path}: {fault}\nelsewhere.yaml: optimizer.lr: {fault}")
    said = f"{path}, line {line}: {fault}" if line else f"{path}: {fault}"
    assert str(caught.value) == f"{said}\n{said}\nelsewhere.yaml: optimizer.lr: {fault}"


@pytest.mark.parametrize(
    "text", ["a: &x [*x]", "a: [1", "", "- a", "a: &b {c: &d [1, *b]}\ne: *b", "\0", f"a: {'[' * 3000}"]
)
def test_odd_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.yaml").write_text(text)
    for source in (tmp_path / "f.yaml", tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match=r"key: fault$"), located(source):
            raise ConfigError(f"{source}: key: fault")


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def write(**contents: str) -> Path:
        for name, text in contents.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path / f"{next(iter(contents))}.yaml"

    return write


def said(call: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def test_a_recipe_on_a_base(files) -> None:
    path = files(
        top="base: bottom.yaml\noptimizer:\n  weight_decay: 0.1\nseed: -1\n",
        bottom="data: {shards: x}\noptimizer: {lr: -1}\nviews: {flips: 3}\n",
    )
    lines = said(lambda: Recipe.read(path)).splitlines()
    assert lines[0].startswith(f"{path}: views.flips: ")  # stands in the other file
    assert lines[1].startswith(f"{path}: optimizer.lr: ")
    assert lines[2].startswith(f"{path}, line 4: seed: ")


def test_a_search(files) -> None:
    recipe = "data: {shards: x}\nmodel: {name: tiny, image_size: 16}\ntraining: {steps: 90, eval_interval: 10}\n"
    space = (
        "name: s\nrecipe: r.yaml\nspace:\n  framework: {choice: [plain, teacher_student]}\n"
        "  injection:\n    plugin:\n      token:\n        count: {int: [1, 99]}\n"
    )
    path = files(s=space, r=recipe)
    config = SearchConfig.read(path)

    def check() -> None:
        from stssl.search.space import Space

        with located_search(path):
            Space(config.space, Recipe.model_validate(config.recipe).dump(), str(path)).check()

    assert said(check).startswith(f"{path}, line 8: space.injection.count: 99 does not work: ")
    files(s=space + "  seed: -1\n")
    assert said(lambda: SearchConfig.read(path)).startswith(f"{path}, line 9: space.seed: input should be greater")
    files(s=space + "trials: 0\n")
    assert said(lambda: SearchConfig.read(path)).startswith(f"{path}, line 9: trials: input")
    assert said(lambda: SearchConfig.read(path, {"trials": -1})).startswith(f"{path}: trials: input")
    files(s=space, r=recipe + "seed: -1\n")
    config = SearchConfig.read(path)

    def check_all() -> None:
        with located_search(path):
            checks.check(config, str(path))

    assert said(check_all).startswith(f"{path}, line 2: recipe: seed: input")  # the line that names the recipe
