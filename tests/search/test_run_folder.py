"""The folder of a search: made once all is known to be right, and never mixed up with another."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stssl import config as cfg
from stssl.config import Config
from stssl.data.prepare import prepare
from stssl.data.schema import Sample
from stssl.data.shards import MANIFEST as DATASET
from stssl.data.shards import read_card
from stssl.data.sources.base import Source
from stssl.errors import ConfigError, DataError, RunError
from stssl.search import checks, disk, run_folder
from stssl.search.config import SearchConfig
from stssl.storage import Folder
from stssl.training import checkpoint
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer

MODEL = {"name": "tiny", "image_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
DATA = {"split": {"block_deg": 1, "validation": 0.25, "test": 0.2}, "labeled": {"count": 9}}


TWO = {"name": "fixmatch", "threshold_negative": 0.1, "threshold_positive": 0.7}  # for data with several labels


class Colours(Source):
    """Images of one colour, three classes, a place each."""

    Config = Config
    name, licence, attribution, task, classes, bands = (
        "colours",
        "none",
        "nobody",
        "single",
        ("a", "b", "c"),
        ("R", "G"),
    )

    def __init__(self, first: int = 0) -> None:
        self.first, self.ids = first, [f"s{i:03d}" for i in range(60)]

    def read(self, index: int) -> Sample:
        image = np.full((2, 4, 4), (index + self.first) % 256, np.uint8)
        return Sample(self.ids[index], image, ("abc"[index % 3],), float(index), float(index), None, None)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STSSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    prepare(Colours(), tmp_path / "shards", rows_per_shard=30)
    return tmp_path / "shards"


@pytest.fixture
def config(search_config, shards: Path) -> SearchConfig:
    return search_config(
        recipe__data={"shards": str(shards), **DATA}, recipe__model=MODEL, points=[{"optimizer.lr": 0.01}], note="ü: no"
    )


def made(folder: Path, config: SearchConfig) -> tuple[SearchConfig, dict[str, Any]]:
    run_folder.create(folder, config, read_card(Path(config.recipe["data"]["shards"])))
    return run_folder.load(folder)


def test_what_is_written_is_the_search(tmp_path: Path, config: SearchConfig) -> None:
    folder = tmp_path / "runs" / "one"
    read, manifest = made(folder, config)
    assert read == config and read.dump() == config.dump()
    assert sorted(entry.name for entry in folder.iterdir()) == ["manifest.json", "search.yaml"]
    card = read_card(tmp_path / "shards")
    assert manifest["data"] == {
        "name": "colours",
        "fingerprint": card.fingerprint,
        "shards": [s.model_dump() for s in card.shards],
    }
    assert {"torch", "timm", "ray", "optuna", "numpy", "pyarrow"} == set(manifest["packages"])
    assert {"stssl", "created", "python", "commit"} < set(manifest)
    (tmp_path / "runs" / "empty").mkdir()
    made(tmp_path / "runs" / "empty", config)


ANY_SIZE = {"choice": [None, 8, 16]}


@pytest.mark.parametrize(
    "changes",
    [
        {
            "space": {
                "model.patch_size": ANY_SIZE,
                "views.flips": {"choice": [True], "when": {"model.patch_size": [None, 8]}},
            }
        },
        {
            "space": {
                "model.patch_size": ANY_SIZE,
                "views.flips": {"choice": [True], "when": {"model.patch_size": None}},
            }
        },
        {"space": {"views.strong_ops": {"int": [0, 3]}, "optimizer.lr": {"choice": [1e-4, 1e-5, 3]}}},
        {"space": {"optimizer.lr": {"uniform": [1e-7, 1e3]}}, "points": [{"optimizer.lr": 1}, {"optimizer.lr": 1e-5}]},
        {"note": "1e-4", "name": "1e5", "recipe__data": {"shards": "2e3"}, "metric": "loss"},
        {
            "note": "a: b\n\n  # c\n'\"\t☃",
            "scheduler__name": "none",
            "resources": {"cpus": 3, "gpus": 0.5, "retries": 0},
        },
    ],
)
def test_resolved_and_read_back_is_the_same(tmp_path: Path, search_config, changes: dict[str, Any]) -> None:
    config = search_config(**changes)
    (tmp_path / "search.yaml").write_text(cfg.dump_yaml(config.dump()), encoding="utf-8")
    read = SearchConfig.read(tmp_path / "search.yaml")
    assert read == config and read.dump() == config.dump() and list(read.space) == list(config.space)
    types = lambda c: [[(type(v), v) for v in p.choice or ()] for p in c.space.values()]  # noqa: E731
    assert types(read) == types(config)


def test_an_existing_folder_is_refused(tmp_path: Path, config: SearchConfig) -> None:
    folder = tmp_path / "run"
    made(folder, config)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(
        RunError, match=f"run: exists and is not empty; resume it with: python launch.py resume {folder}"
    ):
        made(folder, config)
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("dear")
    with pytest.raises(RunError, match="photos: exists and is not empty; choose another --out"):
        made(tmp_path / "photos", config)
    with pytest.raises(RunError, match=r"holiday.jpg: is a file; choose another --out"):
        made(tmp_path / "photos" / "holiday.jpg", config)
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "dear"


def test_a_folder_appears_with_its_manifest(
    tmp_path: Path, config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """search.yaml makes the folder a run, so it must come last."""
    order: list[str] = []
    write = Folder.write
    monkeypatch.setattr(Folder, "write", lambda self, name, data: (order.append(name), write(self, name, data)))
    made(tmp_path / "run", config)
    assert order == ["manifest.json", "search.yaml"]


def test_what_is_no_run(tmp_path: Path, config: SearchConfig) -> None:
    for folder in (tmp_path, tmp_path / "none", tmp_path / "shards" / DATASET):
        with pytest.raises(RunError, match=r"not the folder of a search \(no search.yaml in it\); start one with: "):
            run_folder.load(folder)
    folder = tmp_path / "run"
    made(folder, config)
    manifest = (folder / "manifest.json").read_text()
    for damaged in ("", "{", "[]", "{}", '{"data": {}}', '{"data": []}', "null", "\xff"):
        (folder / "manifest.json").write_bytes(damaged.encode("latin-1"))
        with pytest.raises(
            RunError, match=r"manifest.json: cannot be read: .*; put a copy back, or start the search anew"
        ):
            run_folder.load(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"manifest.json: cannot be read"):
        run_folder.load(folder)
    (folder / "manifest.json").write_text(manifest)
    (folder / "search.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match=r"search.yaml, line 1, column 8: not valid YAML"):
        run_folder.load(folder)


def test_the_same_shards(tmp_path: Path, config: SearchConfig, shards: Path) -> None:
    read, manifest = made(tmp_path / "run", config)
    run_folder.check_unchanged(read, manifest)
    part = next(shards.glob("part-00001-*.parquet"))
    whole = part.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    part.write_bytes(flipped)
    with pytest.raises(DataError, match=r"part-00001-.*.parquet: damaged: its SHA-256"):
        run_folder.check_unchanged(read, manifest)
    part.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"part-00001-.*.parquet: damaged: \d+ bytes, expected"):
        run_folder.check_unchanged(read, manifest)
    part.unlink()
    with pytest.raises(DataError, match=r"part-00001-.*.parquet: this shard is missing"):
        run_folder.check_unchanged(read, manifest)
    shutil.rmtree(shards)
    with pytest.raises(DataError, match=r"shards: no such folder"):
        run_folder.check_unchanged(read, manifest)
    prepare(Colours(first=1), shards)
    with pytest.raises(
        DataError, match=r"changed since the search began \(fingerprint [0-9a-f]{12} then, [0-9a-f]{12} now\)"
    ):
        run_folder.check_unchanged(read, manifest)
    shutil.rmtree(shards)
    prepare(Colours(), shards, rows_per_shard=7)  # the same content in other files is the same data
    run_folder.check_unchanged(read, manifest)
    broken = read.model_copy(update={"recipe": {"data": {}}})
    with pytest.raises(ConfigError, match=r"search.yaml: recipe: data.shards: this key is required"):
        run_folder.check_unchanged(broken, manifest)


def test_large_shards_are_not_read_again(config: SearchConfig, shards: Path, tmp_path: Path, monkeypatch) -> None:
    read, manifest = made(tmp_path / "run", config)
    next(shards.glob("part-00001-*.parquet")).unlink()
    monkeypatch.setattr(run_folder, "VERIFY_BYTES", 100)
    run_folder.check_unchanged(read, manifest)


def test_a_right_search_passes(config: SearchConfig) -> None:
    space, dataset = checks.check(config, "s.yaml")
    assert list(space.parameters) == list(config.space) and dataset.classes == ("a", "b", "c")
    assert len(dataset.split.labeled) == 9


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"metric": "acuracy"}, "metric: 'acuracy' is no metric of this data; did you mean 'accuracy'? known: accuracy, bal"),
        ({"metric": "f1_makro"}, "metric: 'f1_makro' is no metric of this data; did you mean 'f1_macro'?"),
        ({"scheduler__grace_steps": 15}, "scheduler.grace_steps 15: the rung at step 15 is no multiple"),
        ({"points": [{}, {"optimizer.lr": 1}]}, "points[1]: optimizer.lr = 1 lies outside the space"),
        ({"points": [{"optimzer.lr": 1}]}, "points[0]: 'optimzer.lr' is not searched; did you mean"),
        ({"space": {"optimzer.lr": {"uniform": [0.1, 1]}}}, "recipe: no value for optimzer.lr here or in the base recipe; did"),
        (
            {"points": [], "space": {"algorithm.threshold_positive": {"choice": [None, 0.7]}}},
            "space.algorithm.threshold_positive: 0.7 does not work: ",
        ),
        ({"recipe": {"data": {"shards": 3}}}, "recipe: data.shards: input should be a valid string (got 3)"),
        ({"recipe__optimizer": {"lr": 0}}, "recipe: optimizer.lr: input should be greater than 0"),
        ({"recipe__data__labeled": {"count": 90}}, "recipe: data.labeled.count: asked for 90"),
        ({"recipe__data__bands": ["R", "X"]}, "recipe: data.bands: 'colours' has no band 'X'; known: G, R"),
        ({"points": [], "recipe__algorithm": TWO}, "recipe: algorithm.threshold_positive: only for data with several labels"),
    ],
)  # fmt: skip
def test_what_can_be_known_before_is_refused_before(config: SearchConfig, changes: dict[str, Any], said: str) -> None:
    data = cfg.with_overrides(config.dump(), {key.replace("__", "."): value for key, value in changes.items()})
    with pytest.raises(ConfigError) as caught:
        checks.check(cfg.validate(SearchConfig, data, "s.yaml"), "s.yaml")
    assert str(caught.value).startswith(f"s.yaml: {said}")


def test_a_point_that_is_no_recipe_is_refused_before(config: SearchConfig) -> None:
    """Draws that do not fit are skipped; what the user asks for must not be."""
    space = {"optimizer.warmup_steps": {"int": [0, 89]}, "algorithm.name": {"choice": ["fixmatch", "supervised"]}}
    pair = {
        f"algorithm.threshold_{k}": {"choice": [None], "when": {"algorithm.name": "fixmatch"}}
        for k in ("negative", "positive")
    }
    data = config.dump() | {
        "scheduler": {"name": "none"},
        "space": space | pair,
        "points": [{"optimizer.warmup_steps": 89}],
    }
    checks.check(cfg.validate(SearchConfig, data, "s.yaml"), "s.yaml")
    data["space"] = {
        "algorithm.threshold_negative": {"choice": [None, 0.1]},
        "algorithm.threshold_positive": {"choice": [None]},
    }
    data["points"] = [{}, {"algorithm.threshold_negative": 0.1}]
    said = r"^s.yaml: points\[1\]: does not work: recipe with .*threshold_negative=0.1.*: algorithm: threshold_negative and"
    with pytest.raises(ConfigError, match=said):
        checks.check(cfg.validate(SearchConfig, data, "s.yaml"), "s.yaml")


def test_missing_shards(config: SearchConfig, shards: Path) -> None:
    shutil.rmtree(shards)
    with pytest.raises(DataError, match=r"no such folder"):
        checks.check(config, "s.yaml")


def test_a_recipe_in_a_file_of_its_own(tmp_path: Path, config: SearchConfig) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "base.yaml").write_text(cfg.dump_yaml(config.recipe))
    data = config.dump() | {"recipe": "recipes/base.yaml"}
    path = tmp_path / "s.yaml"
    path.write_text(cfg.dump_yaml(data))
    assert SearchConfig.read(path) == config
    assert SearchConfig.read(path, {"recipe.optimizer.lr": 1.0, "trials": 3}).recipe["optimizer"]["lr"] == 1.0
    with pytest.raises(
        ConfigError, match=r"--set space.optimizer.lr: the space is changed in .*s.yaml, not on the command"
    ):
        SearchConfig.read(path, {"space.optimizer.lr": 1})
    path.write_text(cfg.dump_yaml(data | {"recipe": "nowhere.yaml"}))
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        SearchConfig.read(path)
    path.write_text(cfg.dump_yaml(data | {"recipe": None}))
    with pytest.raises(ConfigError, match=r"s.yaml, line \d+: recipe: input should be a valid dictionary"):
        SearchConfig.read(path)


def test_the_demo_is_a_valid_search() -> None:
    config = SearchConfig.read(Path(__file__).parents[2] / "search_spaces" / "demo.yaml")
    assert config.recipe["optimizer"]["lr"] == 5e-5 and config.space["optimizer.lr"].loguniform == (5e-5, 3e-3)
    assert config.note.startswith("103 patches") and "\n" not in config.note


def test_a_warm_up_beyond_the_first_rung_is_refused(config: SearchConfig) -> None:
    data = config.dump() | {"points": [], "space": {"optimizer.warmup_steps": {"int": [0, 11]}}}
    said = r"space.optimizer.warmup_steps: 11 does not work: optimizer.warmup_steps 11: lasts beyond scheduler.grace_steps 10"
    with pytest.raises(ConfigError, match=said):
        checks.check(cfg.validate(SearchConfig, data, "s.yaml"), "s.yaml")
    base = data["recipe"] | {"distillation": {"rampup_steps": 20}}
    with pytest.raises(ConfigError, match=r"distillation.rampup_steps 20: lasts beyond scheduler.grace_steps 10"):
        checks.check(cfg.validate(SearchConfig, data | {"recipe": base}, "s.yaml"), "s.yaml")
    checks.check(cfg.validate(SearchConfig, data | {"scheduler": {"name": "none"}}, "s.yaml"), "s.yaml")


def test_a_run_from_before_a_setting_was_there(config: SearchConfig, tmp_path: Path) -> None:
    run_folder.create(tmp_path / "run", config, read_card(config.recipe["data"]["shards"]))
    read, manifest = run_folder.load(tmp_path / "run")
    del manifest["search"]["constraints"]
    run_folder.check_unchanged(read, manifest)


def test_the_estimate_of_the_weights_is_near_the_truth(config: SearchConfig, tmp_path: Path) -> None:
    _, dataset = checks.check(config, "s.yaml")
    trainer = Trainer(Recipe.model_validate(config.recipe), dataset)
    trainer.train(1)  # the optimizer's own state appears with its first step
    checkpoint.save(tmp_path / "c.pt", trainer.state_dict())
    needed = disk.need(config, dataset, running=2)
    one = needed.least / (2 + 3 * 3)
    assert needed.most == pytest.approx(needed.least + one * (4 + 2))  # of 12 trials
    assert one < (tmp_path / "c.pt").stat().st_size < one + 100_000  # names and shapes, in a file of any size


def test_the_commit_is_that_of_this_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another project, in whose folder stssl is installed or unpacked."""
    monkeypatch.delenv("STSSL_COMMIT", raising=False)
    code = tmp_path / ".venv" / "stssl" / "search" / "run_folder.py"
    code.parent.mkdir(parents=True)
    code.touch()
    monkeypatch.setattr(run_folder, "__file__", str(code))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], check=True)
    assert run_folder.commit() is None
    subprocess.run([*git, "add", "--force", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "ours"], check=True)
    assert re.fullmatch("[0-9a-f]{12}", run_folder.commit() or "")
