"""Constraints: what may be written, when they hold, and how they shape what a space draws."""

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stssl.errors import ConfigError
from stssl.search.constraints import Constraint
from stssl.search.space import Space
from tests.search.test_space import read, said_of

FLAT = {"a": 2, "b.c": 0.5, "b.flag": True, "b.name": "mae", "none": None, "list": [1, 2]}


@pytest.mark.parametrize(
    "text, met",
    [
        ("a < b.c", False),
        ("b.c < a <= 2", True),
        ("0 < b.c < 0.4", False),
        ("a * b.c + 1 <= 2.0", True),
        ("a ** 2 == 4 and -a < 0", True),
        ("(a - 1) / 4 > 0.3", False),
        ("b.name == 'mae'", True),
        ("b.name != 'mae' or a == 2", True),
        ("b.name in ['kl', 'mae']", True),
        ("b.name not in ('kl', 'mae')", False),
        ("not b.flag", False),
        ("b.flag == true and none == null", True),
        ("b.flag == 1", False),
        ("a in [true, 2.0]", True),
        ("none == null or none > 3", True),
        ("x.y < 1", True),  # another plugin's key
        ("x.y < 1 and a > 5", True),
        ("a >\n 1", True),
    ],
)
def test_met(text: str, met: bool) -> None:
    fault = Constraint(text, "constraints[0]").fault(FLAT)
    assert (fault is None) == met
    assert met or (fault or "").startswith(f"constraints[0]: '{text}' is not met: ")


@pytest.mark.parametrize(
    "text, said",
    [
        ("a <", "cannot be read: invalid syntax; write for example: optimizer.lr * tr"),
        ("", "cannot be read"),
        ("a = 1", "cannot be read"),
        ("a\0 < 1", "cannot be read"),
        ("(" * 5000 + "a", "cannot be read"),
        ("a + 1", "compares nothing"),
        ("1 < 2", "names no key of a recipe"),
        ("__import__('os').system('x') == 1", "'__import__('os').system('x')' is not allowed"),
        ("a.__class__() == 1", "is not allowed in a constraint"),
        ("'x'.upper == a", "'x'.upper' is not allowed"),
        ("a[0] == 1", "'a[0]' is not allowed"),
        ("[v for v in a] == 1", "is not allowed"),
        ("(lambda: a)() == 1", "is not allowed"),
        ("a // 2 == 1", "'a // 2' is not allowed"),
        ("a is 1", "'a is 1' is not allowed"),
        ("a in b.name", "write a list after `in`"),
        ("a == [1]", "'[1]' is not allowed"),
        ("a if a else a", "is not allowed"),
        ("f'{a}' == 'x'", "is not allowed"),
        ("(a := 2) == 2", "is not allowed"),
        ("a == 1j", "'1j' is not allowed"),
    ],
)
def test_what_may_not_be_written(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        Constraint(text, "constraints[0]")
    assert str(caught.value).startswith("constraints[0]: ")


def test_null_is_as_good_as_absent() -> None:
    assert Constraint("none < 1", "constraints[0]").fault(FLAT) is None
    assert "is not met" in str(Constraint("none != None and a > 0", "constraints[0]").fault(FLAT))


@pytest.mark.parametrize(
    "text, said",
    [
        ("b.name < a", "'mae' is no number"),
        ("b.name * 1000000000 == 'x'", "'mae' is no number"),
        ("b.flag < 2", "True is no number"),
        ("a / 0 < 1", "division by zero"),
        ("a ** 9999 ** 9 < 1", "math range error"),
        ("(0 - a) ** 0.5 < 1", "math domain error"),
        ("a or b.flag", "2 is neither true nor false"),
        ("-a", "it is -2, neither true nor false"),
        ("b.name", "it is 'mae', neither true nor false"),
    ],
)
def test_what_cannot_be_compared(text: str, said: str) -> None:
    fault = Constraint(text, "constraints[0]").fault(FLAT)
    assert fault is not None and f"'{text}' cannot be told where " in fault and said in fault


@given(text=st.text(alphabet="ab.c<>=()[]+-*/'1 andorti\"", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        Constraint(text, "w").fault(FLAT)
    except ConfigError as error:
        assert str(error).startswith("w: ")


PAIR: dict[str, Any] = {
    "algorithm.threshold_negative": {"uniform": [0.05, 0.9]},
    "algorithm.threshold_positive": {"uniform": [0.1, 0.9]},
}
BELOW = "algorithm.threshold_negative < algorithm.threshold_positive"
BASE = {"recipe__algorithm": {"name": "fixmatch", "threshold_negative": 0.2, "threshold_positive": 0.7}}


def test_ranges_that_cross_need_a_constraint(search_config, space_of) -> None:
    said = said_of(search_config, space_of, PAIR, **BASE)
    assert re.match("s.yaml: space.algorithm.threshold_negative: 0.9 does not work: .* must be below", said)
    config, found = read(search_config, space_of, PAIR, constraints=[BELOW], **BASE)
    found.check()
    assert config.dump()["constraints"] == [BELOW]
    bad = {"algorithm.threshold_negative": 0.8, "algorithm.threshold_positive": 0.3}
    said = f"constraints[0]: '{BELOW}' is not met: algorithm.threshold_negative is 0.8, algorithm.threshold_positive is 0.3"
    shown = "recipe with algorithm.threshold_negative=0.8, algorithm.threshold_positive=0.3: "
    assert found.fault(bad) == shown + said and found.fault(found.base_point()) is None
    for call in (found.recipe, lambda values: found.point(values, "points[0]")):
        with pytest.raises(ConfigError, match=re.escape(said)):
            call(bad)
    for seed in range(30):
        point = found.unseen([], random.Random(seed))
        assert point is not None and found.fault(point) is None


def test_a_constraint_on_a_plugins_default(search_config, space_of) -> None:
    space = {"algorithm.name": {"choice": ["supervised", "fixmatch"]}, "optimizer.lr": {"loguniform": [1e-5, 0.1]}}
    constraints = ["algorithm.threshold * optimizer.lr < 0.01"]
    found = read(search_config, space_of, space, constraints=constraints, recipe__algorithm="supervised")[1]
    found.check()
    assert found.fault({"algorithm.name": "supervised", "optimizer.lr": 0.1}) is None
    assert "algorithm.threshold is 0.95" in (found.fault({"algorithm.name": "fixmatch", "optimizer.lr": 0.1}) or "")


def test_an_invalid_draw_may_be_excluded(search_config, space_of) -> None:
    space = {"optimizer.warmup_steps": {"int": [0, 200]}}  # of 90 steps
    hint = "`constraints` can exclude such draws"
    assert hint not in said_of(search_config, space_of, space)  # an end that does not work is an end to change
    found = read(search_config, space_of, {"optimizer.warmup_steps": {"int": [0, 89]}}, constraints=[
        "optimizer.warmup_steps < training.steps"
    ])[1]  # fmt: skip
    found.check()
    middle = {"views.strong_ops": {"uniform": [0, 8]}}
    assert hint in said_of(search_config, space_of, middle)


@pytest.mark.parametrize(
    "constraint, said",
    [
        ("optimizer.lrr < 1", r"constraints\[0\]: unknown key 'optimizer.lrr' .*; did you mean 'optimizer.lr'\?"),
        ("framework == plain", r"constraints\[0\]: unknown key 'plain' \(a word, if you mean one, stands in quotes\)"),
        ("optimizer.lr <", r"constraints\[0\]: 'optimizer.lr <' cannot be read"),
        (
            "optimizer.lr > 1e-3",
            r"constraints\[0\]: .* is not met: optimizer.lr is 0.0001 \(recipe\); change the value or th",
        ),
        (
            "framework != 'plain' or seed > 0",
            r"space.framework: 'plain' does not work: recipe with .*: constraints\[0\]: ",
        ),
        ("views.strong_ops < 5", r"space.views.strong_ops: 8 does not work: recipe with .*views.strong_ops is 8"),
        ("optimizer.lr < 2e-4", r"space.optimizer.lr: 0.1 does not work: .* is not met: optimizer.lr is 0.1"),
    ],
)
def test_faults(search_config, space_of, constraint: str, said: str) -> None:
    space = {
        "framework": {"choice": ["plain", "teacher_student"]},
        "views.strong_ops": {"int": [0, 8]},
        "optimizer.lr": {"loguniform": [1e-5, 0.1]},
    }
    text = said_of(search_config, space_of, space, constraints=[constraint])
    assert re.match(f"s.yaml: {said}", text), text


def test_too_little_is_allowed(search_config, space_of) -> None:
    space = {
        key: {"uniform": [0.0, 0.5]} for key in ("encoding.dropout", "model.drop_path_rate", "optimizer.weight_decay")
    }
    narrow = "encoding.dropout + model.drop_path_rate + optimizer.weight_decay < 0.1"
    with pytest.raises(ConfigError, match="does not work"):
        read(search_config, space_of, space, constraints=[narrow])[1].check()
    close = "0.999 < encoding.dropout * 2 + 1 - model.drop_path_rate * 2 < 1.001"
    found = read(search_config, space_of, {k: space[k] for k in list(space)[:2]}, constraints=[close])[1]
    with pytest.raises(
        ConfigError, match=r"^s.yaml: constraints: allow \d of 200 random draws \('0.999 < .*' refuses \d+\)"
    ):
        found.check()


def test_unseen_gives_up_and_skips_faults(search_config, space_of) -> None:
    grid = {"views.strong_ops": {"int": [0, 8]}, "injection.count": {"int": [1, 8]}}
    found = read(search_config, space_of, grid, constraints=["views.strong_ops + injection.count <= 4"])[1]
    seen: list[dict[str, Any]] = []
    while (point := found.unseen(seen, random.Random(len(seen)))) is not None:
        seen.append(point)
    assert len(seen) == sum(a + b <= 4 for a in range(9) for b in range(1, 9))
    large: Space = read(search_config, space_of, {"optimizer.warmup_steps": {"int": [0, 10**6]}}, constraints=[
        "optimizer.warmup_steps < 0 or seed == 1"
    ])[1]  # fmt: skip
    assert large.unseen([], random.Random(0)) is None  # soon
