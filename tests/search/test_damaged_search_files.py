"""Search files in which something is wrong: taken, or refused in sentences that name the file."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from stssl.config import validate
from stssl.errors import StsslError
from stssl.search.config import SearchConfig, located
from stssl.search.sampler import Sampler
from stssl.search.space import Space
from stssl.training.recipe import Recipe
from tests.search.mutations import ABSENT, kinds, paths, put

SEARCH: dict[str, Any] = {
    "name": "whole", "metric": "accuracy", "trials": 12, "budget_hours": 3.5, "note": "a note",
    "recipe": {
        "framework": "teacher_student", "seed": 3,
        "data": {"shards": "nowhere", "bands": ["B04", "B03", "B02"],
                 "split": {"by": "blocks", "block_deg": 0.5, "holdout": {"months": [1, 2]}}, "labeled": {"count": 10}},
        "encoding": {"location": {"name": "fourier"}, "time": "none"},
        "model": {"name": "tiny", "image_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "algorithm": {"name": "fixmatch", "threshold": 0.9},
        "optimizer": {"lr": 1e-3}, "training": {"steps": 90, "eval_interval": 10},
    },
    "points": [{"optimizer.lr": 0.01}, {"algorithm.name": "supervised"}],
    "space": {
        "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
        "algorithm.name": {"choice": ["fixmatch", "supervised"]},
        "algorithm.threshold": {"uniform": [0.5, 0.95], "step": 0.05, "when": {"algorithm.name": "fixmatch"}},
        "training.batch_labeled": {"int": [4, 64]},
    },
    "constraints": ["optimizer.lr < 0.5"],
    "scheduler": {"name": "asha", "grace_steps": 10, "reduction_factor": 3},
    "sampler": {"name": "tpe", "startup_trials": 5, "prior": 0.3},
    "replicates": {"top": 2, "seeds": 3, "race": True},
    "resources": {"cpus": 1, "gpus": 0, "retries": 2, "hang_minutes": 5.0, "custom": {"spot": 1.0}},
}  # fmt: skip
WRONG = [
    None,
    "x",
    "",
    -1,
    0,
    math.nan,
    math.inf,
    1e300,
    10**30,
    [],
    {},
    [[1]],
    True,
    {"a": {"b": 1}},
    "x" * 10_000,
    ABSENT,
]


def use(path: Path, data: Any) -> str:
    """Read a file as `search` does, before it looks at the data; what was said, empty if nothing was wrong."""
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
    try:
        config = SearchConfig.read(path)
        with located(path):
            base = validate(Recipe, config.recipe, f"{path}: recipe")
            space = Space(config.space, base.dump(), str(path), config.constraints)
            Sampler(config.sampler, space, config.ladder)
            for number, point in enumerate(config.points):
                space.point(point, f"points[{number}]")
            space.check(draws=3)
    except StsslError as error:
        return str(error)
    return ""


def test_the_whole_file_is_taken(tmp_path: Path) -> None:
    assert use(tmp_path / "s.yaml", SEARCH) == ""


def test_any_key_with_any_wrong_value(tmp_path: Path) -> None:
    path, cases, told, chance = tmp_path / "s.yaml", 0, 0, random.Random(3)
    for where in paths(SEARCH):
        here: Any = SEARCH
        for part in where:
            here = here[part]
        others = [other for other in WRONG if kinds(other) != kinds(here) or other in (-1, 10**30)]
        for other in chance.sample(others, 6):
            cases += 1
            if said := use(path, put(SEARCH, where, other)):
                told += 1
                if where == ("recipe",) and isinstance(other, str):  # another file
                    assert said.startswith(str(tmp_path)), said
                    continue
                assert all(line.startswith((f"{path}:", f"{path},")) for line in said.splitlines()), (
                    where,
                    other,
                    said,
                )
                assert len(said) < 4000, (where, len(said))
    assert cases > 346 and told > 0.6 * cases, (cases, told)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "text", "{", "a: [", "\tname: x", "name: x\nname: y", "? [a]\n: b", "!!python/object:os.system x",
     "!!int x", "name: !!binary x", "2020-13-45: 1", "&a [*a]", "--- 1\n--- 2", "name: \ud7ff\x85\u2028", "{" * 2000],
)  # fmt: skip
def test_what_is_no_search(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    assert use(path, text).startswith(str(path))
