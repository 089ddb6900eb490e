"""Files that are traps: refused by kind and size before they are read, in one sentence, soon and in little memory."""

import json
import os
import re
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl import config as cfg
from stssl.config import ConfigError
from stssl.errors import CheckpointError, StsslError
from stssl.files import check_archive, check_file
from stssl.reference import checkpoint as reference
from stssl.search import clusters
from stssl.search.config import SearchConfig
from stssl.search.ledger import read as read_ledger
from stssl.storage import Folder
from stssl.training import checkpoint
from stssl.training.recipe import Recipe

SECONDS, BYTES = 2.0, 200 << 20
SEARCH: dict[str, Any] = {"name": "s", "recipe": {"data": {"shards": "x"}}, "space": {"seed": {"choice": [1, 2]}}}


def bomb(key: str) -> str:
    """Nine lists of nine aliases each: 9^9 values."""
    lines = [f"{key}:", "  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "\n".join(lines) + "\n"


TEXTS: dict[str, tuple[str, str]] = {
    "aliases": (bomb("points"), "its aliases .* repeat so much"),
    "aliases in a note": (bomb("note"), "its aliases .* repeat so much"),
    "aliases of strings": (
        "note: &a " + "x" * 100_000 + "\npoints: [" + ", ".join(["*a"] * 40_000) + "]\n",
        "points",  # the text is one object, however often it is named
    ),
    "an alias of itself": ("points: &p [*p]\n", "stands within what it repeats"),
    "a merge of itself": ("recipe: &r\n  <<: *r\n", "not valid YAML"),
    "depth": ("points: " + "[" * 5000 + "]" * 5000 + "\n", "not valid YAML"),
    "20 MB": ("note: |\n" + "  text\n" * 3_000_000, r"has 21,000,\d+ bytes, where at most"),
    "many lines": ("points:\n" + "- {seed: 1}\n" * 60_000, "too large: more than 100,000 lines and entries"),
    "many constraints": ("constraints:\n" + "- seed > 0\n" * 5_000, "constraints: .*at most 200"),
    "many points": ("points:\n" + "- {seed: 1}\n" * 5_000, "points: .*at most 1000"),
    "a long name": (f"name: {'n' * 300}\n", "name: .*at most 100 characters"),
    "a long key": (f"{'k' * 1_000}: 1\n", "unknown key 'kkk"),
}


PROGRAM = """
import json, resource, sys, time
from stssl.search.config import SearchConfig
from stssl.search import shorthand
from stssl.errors import StsslError
found = {}
for path in sys.argv[1:]:
    before, start, said = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), ""
    try:
        SearchConfig.read(path)
    except StsslError as error:
        said = str(error).replace(chr(10), " ")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found[path] = said[:500], time.process_time() - start, (peak - before) << 10
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, float, float]]:
    """Each text as a file that one process reads after the other: the file, what was said, seconds and bytes."""
    folder = tmp_path_factory.mktemp("traps")
    paths = {}
    for number, (name, (text, _)) in enumerate(TEXTS.items()):
        paths[name] = folder / f"s{number}.yaml"
        paths[name].write_text(cfg.dump_yaml({k: v for k, v in SEARCH.items() if f"{k}:" not in text}) + text)
    done = subprocess.run([sys.executable, "-c", PROGRAM, *paths.values()], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return {name: (str(path), *found[str(path)]) for name, path in paths.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_search_files(name: str, refused: dict[str, tuple[str, str, float, float]]) -> None:
    path, said, seconds, memory = refused[name]
    assert re.search(TEXTS[name][1], said) and said.startswith(path), said
    assert seconds < 2 * SECONDS and memory < BYTES, (seconds, memory)  # twice, since the machine may be busy


READERS: dict[str, Callable[[Path], object]] = {
    "search": SearchConfig.read,
    "recipe": Recipe.read,
    "cluster": clusters.read,
    "ledger": read_ledger,
    "checkpoint": checkpoint.load,
    "reference checkpoint": reference.read,
    "folder": lambda path: Folder(path.parent).read(path.name),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_pipe_or_a_device_where_a_file_is_expected(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device")):
        start = time.monotonic()
        with pytest.raises(StsslError, match=rf"{name}: is {kind}, not a regular file; write its contents into a file"):
            reader(tmp_path / name)
        assert time.monotonic() - start < 10


def test_check_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    check_file(file, 100)
    check_file(tmp_path / "nothing", 1)
    with pytest.raises(StsslError, match="file: has 100 bytes, where at most 99 can be right"):
        check_file(file, 99)


@pytest.mark.parametrize("reader", [checkpoint.load, reference.read, check_archive])
def test_a_checkpoint_that_unpacks_to_gigabytes(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    path = tmp_path / "checkpoint.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as entry,
    ):
        block = bytes(1 << 24)
        for _ in range(64):
            entry.write(block)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        StsslError, match=r"damaged, or no file of torch's: it unpacks to 1,073,741,824 bytes from [\d,]+"
    ):
        reader(path)
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < BYTES
    assert issubclass(CheckpointError, StsslError)


def test_what_torch_writes_is_no_bomb(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000, 1000), "n": [1] * 1000}, tmp_path / "w.pt")
    check_archive(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "text, value",
    [
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("1:30.5", "1:30.5"), ("017", "017"), ("0b11", "0b11"), ("0x1F", "0x1F"),
        ("1_000", 1000), ("12", 12), ("-3", -3), ("+7", 7), ("0", 0), ("1e-4", 1e-4), ("1.5e3", 1500.0), (".5", 0.5),
        ("5.", 5.0), ("1e5", 1e5), ("-1.25", -1.25), ("00", "00"), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_numbers(text: str, value: Any) -> None:
    found = cfg.parse_yaml(f"a: {text}", "f")["a"]
    assert found == value and type(found) is type(value)
    assert cfg.parse_yaml(cfg.dump_yaml({"a": found, "b": text}), "f") == {"a": found, "b": text}


def test_a_time_is_no_number_of_trials() -> None:
    with pytest.raises(ConfigError, match=r"trials: .*valid integer.*'1:30'"):
        cfg.validate(SearchConfig, SEARCH | cfg.parse_yaml("trials: 1:30", "s"), "s")


EXTREMES = [-(10**30), -1e300, -1, 0, 1e-300, 1e300, 10**30]


def numeric_keys() -> list[tuple[str, ...]]:
    """Every key of a search and of its recipe whose value is a number, of the plugins that the recipe has."""
    recipe = Recipe.model_validate(SEARCH["recipe"]).dump()
    whole = SearchConfig.model_validate(SEARCH | {"recipe": recipe}).dump()
    flat = cfg.flatten({k: v for k, v in whole.items() if k != "space"})
    named = ("budget_hours", "recipe.data.labeled.count", "recipe.data.labeled.per_class", "recipe.model.depth")
    return [tuple(k.split(".")) for k, v in flat.items() if type(v) in (int, float) or k in named]


@given(key=st.sampled_from(numeric_keys()), value=st.sampled_from(EXTREMES))
@settings(max_examples=400, deadline=None)
def test_extreme_numbers_are_refused_or_do_no_harm(key: tuple[str, ...], value: float) -> None:
    data = cfg.with_overrides(SEARCH, {".".join(key): value})
    start = time.process_time()
    try:
        config = cfg.validate(SearchConfig, data, "s")
        recipe = cfg.validate(Recipe, config.recipe, "s")
        _ = config.ladder, recipe.replicate(100).dump(), config.resources.cost(1.0)
    except StsslError as error:
        assert key[-1] in str(error) and len(str(error)) < 1000
    else:
        assert value not in (10**30, 1e300) or key[-1] in ("lr", "weight_decay", "unlabeled_weight"), (key, value)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("space", [
    {"optimizer.lr": {"loguniform": [1e-4, 1e-1]}, "model.depth": {"choice": [1, 2], "when": {"optimizer.lr": 0.001}}},
    {"optimizer.lr": {"uniform": [1e-4, 1e-1]}, "model.depth": {"choice": [1, 2], "when": {"optimizer.lr": [0.001, 0.01]}}},
])  # fmt: skip
def test_a_condition_on_one_value_of_a_continuous_range(space: dict[str, Any]) -> None:
    from stssl.search.space import Space

    config = cfg.validate(SearchConfig, SEARCH | {"space": space}, "s.yaml")
    recipe = cfg.validate(Recipe, config.recipe, "s.yaml").dump()
    with pytest.raises(ConfigError, match=r"when: optimizer\.lr is drawn from a continuous range .* give it a step"):
        Space(config.space, recipe, "s.yaml")


@pytest.mark.parametrize("ends", [{"uniform": [-1e308, 1e308]}, {"int": [0, 10**30]}, {"loguniform": [1e-5, 1e200]}])
def test_ranges_that_are_too_wide(ends: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is too large a number"):
        cfg.validate(SearchConfig, SEARCH | {"space": {"seed": ends}}, "s")
