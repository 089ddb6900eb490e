"""The bundle: what any timm user can load, and what is refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stssl.data.store import ImageStore
from stssl.errors import CheckpointError, ConfigError, RunError
from stssl.export import bundle
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]
FILES = {"recipe.yaml", "student.safetensors", "model.json", "README.md"}


@pytest.fixture
def exported(trainer: Trainer, tmp_path: Path) -> Path:
    folder = tmp_path / "student"
    bundle.write(trainer, folder, "Made by a test.", ["Validation accuracy: 0.5."])
    return folder


def logits_of(trainer: Trainer, images: torch.Tensor) -> torch.Tensor:
    networks = trainer.ema.module.eval()
    nowhere, never = torch.full((len(images), 2), torch.nan), torch.full((len(images),), torch.nan)
    with torch.no_grad():
        return networks("student", trainer.views.normalise(images), nowhere, never).logits


# --- with timm alone ------------------------------------------------------------------------------------------------

IN_ANOTHER_PROCESS = """
import sys
import numpy, torch
torch.set_num_threads(1)
x = torch.from_numpy(numpy.load(sys.argv[1]))
with torch.no_grad():
    exec(open(sys.argv[2]).read())
assert not [name for name in sys.modules if name.split(".")[0] == "stssl"]
numpy.save(sys.argv[3], logits.numpy())
"""


@pytest.mark.parametrize("framework", ["teacher_student", "plain"])
def test_the_cards_own_lines_load_it_without_stssl(
    framework: str, trained: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = trained("single", {"framework": framework})
    folder = tmp_path / "student"
    bundle.write(trainer, folder, "Made by a test.", [])
    lines = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    images = trainer.dataset.batch(np.arange(8)).images
    (tmp_path / "lines.py").write_text(lines)
    np.save(tmp_path / "x.npy", images.float().numpy())
    paths = [str(tmp_path / name) for name in ("x.npy", "lines.py", "logits.npy")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *paths],
        cwd=folder,  # not the repository: stssl's own sources are not at hand there
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.from_numpy(np.load(paths[2])), logits_of(trainer, images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("framework", ["teacher_student", "plain"])
def test_loaded_student_is_the_moving_average_to_the_last_bit(
    framework: str, trained: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = trained("multi", {"framework": framework})
    bundle.write(trainer, tmp_path / "student", "Made by a test.", [])
    network, model, recipe = bundle.load(tmp_path / "student")
    images = trainer.dataset.batch(np.arange(8)).images
    with torch.no_grad():
        assert torch.equal(network(trainer.views.normalise(images)), logits_of(trainer, images))
        live = trainer.networks.student.eval()(trainer.views.normalise(images)).logits
    assert not torch.allclose(live, logits_of(trainer, images), atol=1e-4)  # the average is not the network that learns
    assert not network.training and recipe == trainer.recipe
    assert ("reg_tokens" in model["timm"]) == (framework == "teacher_student")


def test_contents(exported: Path, trainer: Trainer) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    assert [path.name for path in exported.parent.iterdir()] == ["student"]
    model = json.loads((exported / "model.json").read_text())
    assert model["classes"] == ["field", "lake", "town"] and model["task"] == "single"
    assert model["bands"] == ["B04", "B03", "B02"] and model["image_size"] == 16 and model["step"] == 2
    assert model["band_mean"] == pytest.approx(trainer.dataset.mean.tolist())
    assert model["recipe"] == trainer.recipe.digest()
    assert model["data"]["fingerprint"] == trainer.dataset.store.card.fingerprint
    assert Recipe.read(exported / "recipe.yaml") == trainer.recipe


def test_card(exported: Path, trainer: Trainer) -> None:
    card = (exported / "README.md").read_text()
    split = trainer.dataset.split
    for part in (
        "vit_tiny_patch16_224",
        "Made by a test.",
        "decay 0.9",
        "after 2 steps",
        "B04, B03, B02",
        "field, lake, town",
        "one per image",
        "fixmatch, framework teacher_student",
        f"{len(split.labeled)} labeled images among {len(split.unlabeled)} training images",
        "It needs no metadata",
        "Validation accuracy: 0.5.",
        "16 by 16 pixels",
        f"Validation ({len(split.validation)} images) and test ({len(split.test)} images) are whole spatial blocks",
        "Nobody (2024). Licence: CC0-1.0.",
        trainer.recipe.digest(),
        trainer.dataset.store.card.fingerprint[:12],
        "load_state_dict",
        "Other sensors, processing levels, seasons and regions are untested",
    ):
        assert part in card, part
    assert "{" not in card.split("```")[0] + card.split("```")[2]  # nothing left to fill in


def test_card_of_several_labels_and_authors_splits(
    make_trainer: MakeTrainer, tmp_path: Path, whole_stores: Any
) -> None:
    old = whole_stores["multi"]
    splits = ["train", "train", "val", "test"] * (len(old) // 4)
    store = ImageStore.from_arrays(
        old.images, old.labels, old.place, old.time, old.card.classes, "multi", old.card.bands, splits=splits
    )
    trainer = make_trainer("multi", {"framework": "plain", "data.split": {"by": "column"}}, store)
    bundle.write(trainer, tmp_path / "b", "Made by a test.", [])
    card = (tmp_path / "b" / "README.md").read_text()
    assert "several per image" in card and "one network that sees the image alone" in card
    assert "the authors' own splits" in card and "blocks" not in card


def test_a_constant_band_is_no_division_by_zero(
    make_trainer: MakeTrainer, whole_stores: dict[str, ImageStore], tmp_path: Path
) -> None:
    old = whole_stores["single"]
    images = np.array(old.images)
    images[:, 1] = 500
    store = ImageStore.from_arrays(images, old.labels, old.place, old.time, old.card.classes, "single", old.card.bands)
    trainer = make_trainer("single", {"framework": "plain"}, store)
    bundle.write(trainer, tmp_path / "b", "Made by a test.", [])
    model = json.loads((tmp_path / "b" / "model.json").read_text())
    mean, std = (torch.tensor(model[key]).view(-1, 1, 1) for key in ("band_mean", "band_std"))
    x = torch.from_numpy(images[:4].astype(np.float32))
    by_card = (((x - (mean - 2 * std)) / (4 * std)).clamp(0, 1) - 0.5) / 0.25
    torch.testing.assert_close(by_card, trainer.views.normalise(x), rtol=1e-5, atol=1e-5)


# --- replaced, refused ----------------------------------------------------------------------------------------------


def test_replaces_an_older_bundle(exported: Path, trained: Callable[..., Trainer]) -> None:
    newer = trained("single", {"seed": 4})
    bundle.write(newer, exported, "Newer.", [])
    assert "Newer." in (exported / "README.md").read_text()
    assert bundle.load(exported)[2].seed == 4
    assert [path.name for path in exported.parent.iterdir()] == ["student"]


def test_a_failed_write_leaves_the_older_bundle_and_nothing_else(
    exported: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in exported.iterdir()}

    def fail(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "model_card", fail)
    with pytest.raises(OSError, match="No space left"):
        bundle.write(trainer, exported, "Newer.", [])
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in exported.parent.iterdir()] == ["student"]


@pytest.mark.parametrize("kind", ["other files", "a bundle and other files", "a file"])
def test_nothing_of_the_users_is_replaced(kind: str, exported: Path, trainer: Trainer, tmp_path: Path) -> None:
    target = exported if kind == "a bundle and other files" else tmp_path / "mine"
    if kind != "a file":
        target.mkdir(exist_ok=True)
    mine = target / "thesis.tex" if kind != "a file" else target
    mine.write_text("years of work")
    with pytest.raises(RunError, match=rf"{re.escape(str(target))}: exists and is no bundle.*choose another folder"):
        bundle.write(trainer, target, "Newer.", [])
    assert mine.read_text() == "years of work"


def test_an_empty_folder_will_do(trainer: Trainer, tmp_path: Path) -> None:
    (tmp_path / "deep" / "b").mkdir(parents=True)
    for folder in (tmp_path / "deep" / "b", tmp_path / "new" / "deep" / "b"):
        bundle.write(trainer, folder, "Made by a test.", [])
        assert {path.name for path in folder.iterdir()} == FILES


def test_metadata_input_has_no_student(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"metadata_input trains no network that sees the image alone.*teacher_student$"):
        bundle.write(make_trainer("single", {"framework": "metadata_input"}), tmp_path / "b", "", [])
    assert not list(tmp_path.iterdir())


def cut_weights(folder: Path) -> None:
    path = folder / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_network(folder: Path) -> None:
    path = folder / "model.json"
    model = json.loads(path.read_text())
    model["timm"]["depth"] = 3
    path.write_text(json.dumps(model))


DAMAGE: dict[str, Callable[[Path], object]] = {
    **{f"no {name}": lambda folder, name=name: (folder / name).unlink() for name in sorted(FILES - {"README.md"})},
    "cut weights": cut_weights,
    "empty weights": lambda folder: (folder / "student.safetensors").write_bytes(b""),
    "weights of another network": other_network,
    "cut model.json": lambda folder: (folder / "model.json").write_text('{"timm": {'),
    "empty model.json": lambda folder: (folder / "model.json").write_text("{}"),
    "list in model.json": lambda folder: (folder / "model.json").write_text("[1]"),
    "cut recipe": lambda folder: (folder / "recipe.yaml").write_text("data: {"),
    "binary recipe": lambda folder: (folder / "recipe.yaml").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged(kind: str, exported: Path) -> None:
    DAMAGE[kind](exported)
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(str(exported))}: not a whole bundle \(.+\); export it again"
    ):
        bundle.load(exported)


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("framework", ["teacher_student", "plain"])
def test_evaluates_as_the_trainer_does(
    task: str, framework: str, trained: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = trained(task, {"framework": framework})
    bundle.write(trainer, tmp_path / "b", "Made by a test.", [])
    for split in ("validation", "test"):
        assert bundle.evaluate(tmp_path / "b", None, split) == trainer.evaluate(split)


@pytest.mark.parametrize("model", [{}, {"model": {"name": "test_resnet", "image_size": 32}, "distillation.weight": 0}])
@pytest.mark.parametrize("task", ["single", "multi"])
def test_cdmads_correction_is_in_the_exported_bias(
    task: str, model: dict[str, Any], trained: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = trained(task, {"framework": "plain", "algorithm": {"name": "cdmad", "threshold": 0.4}, **model})
    bundle.write(trainer, tmp_path / "b", "Made by a test.", [])
    correction = trainer.correction()
    assert correction is not None and correction.abs().sum() > 0
    expected, scores = trainer.evaluate("validation"), bundle.evaluate(tmp_path / "b", None, "validation")
    assert scores == pytest.approx(expected, abs=1e-5)
    student, _, _ = bundle.load(tmp_path / "b")
    white = torch.full((1, 3, *[trainer.recipe.model.image_size] * 2), trainer.views.white)
    with torch.no_grad():  # about an image that shows nothing, it says nothing
        torch.testing.assert_close(student(white), torch.zeros(1, 3), atol=1e-5, rtol=0)


def test_other_shards_of_the_same_data(exported: Path, trainer: Trainer, shards: Callable[..., Path]) -> None:
    assert bundle.evaluate(exported, shards("single"), "test") == trainer.evaluate("test")


def test_an_unknown_split(exported: Path) -> None:
    with pytest.raises(ConfigError, match="split 'train' is unknown; known: holdout, test, validation"):
        bundle.evaluate(exported, None, "train")


# --- who may read it, and what a foreign one may do ------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_decides_who_may_read(trainer: Trainer, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        bundle.write(trainer, tmp_path / "b", "Made by a test.", [])
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "b").iterdir()} == dict.fromkeys(
        FILES, 0o666 & ~mask
    )
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_link_is_not_replaced(exported: Path, trainer: Trainer, tmp_path: Path) -> None:
    for target in (exported, tmp_path / "nothing"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(RunError, match="link: is a symbolic link, which is not replaced; choose another folder"):
            bundle.write(trainer, tmp_path / "link", "Newer.", [])
    assert "Made by a test." in (exported / "README.md").read_text() and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpoint_path", "weights.pth"),
        ("pretrained", True),
        ("pretrained", 1),
        ("pretrained_cfg", {"file": "weights.pth"}),
        ("model_name", "hf-hub:somebody/model"),
        ("model_name", "local-dir:/models/one"),
        ("model_name", ["vit_tiny_patch16_224"]),
        ("cache_dir", "somewhere"),
        ("depth", [["x"] * 1000] * 1000),
    ],
)
def test_a_foreign_bundle_loads_no_other_weights(exported: Path, key: str, value: object) -> None:
    model = json.loads((exported / "model.json").read_text())
    model["timm"][key] = value
    (exported / "model.json").write_text(json.dumps(model))
    with pytest.raises(
        CheckpointError, match=rf"not a whole bundle \(model.json: timm.{key}: .*export it again"
    ) as error:
        bundle.load(exported)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("text", ["[]", '{"timm": []}', '{"timm": null}', "3", "[" * 100_000])
def test_another_model_json_is_refused(exported: Path, text: str) -> None:
    (exported / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a whole bundle"):
        bundle.load(exported)
