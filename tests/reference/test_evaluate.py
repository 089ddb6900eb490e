"""Scores of the reference's checkpoints: its pixels, its network, its F1; and the commands that lead there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from torch import Tensor

from stssl.cli.app import main
from stssl.data.store import ImageStore
from stssl.errors import ConfigError
from stssl.reference import evaluate as room
from stssl.training.evaluate import scores
from tests.reference.published import published

FILES = published()
MEANS, DEVIATIONS = [590.23569706, 614.21682446, 429.9430203], [675.88746967, 582.87945694, 572.41639287]


def store_of(dataset: str, bands: tuple[str, ...]) -> ImageStore:
    random = np.random.default_rng(0)
    n, several = 16, dataset == "bigearthnet"
    high = 256 if bands[0] == "R" else 4000
    images = random.integers(0, high, (n, 3, 20, 20)).astype(np.uint8 if high == 256 else np.uint16)
    labels = (random.random((n, 43)) < 0.3).astype(float) if several else np.arange(n) % 10
    place = np.stack([random.uniform(40, 60, n), random.uniform(0, 30, n)], 1)
    days = random.uniform(17_000, 17_800, n) if several else None
    classes, splits = [f"c{i:02d}" for i in range(43 if several else 10)], ["train", "validation", "test", "test"] * 4
    task: Any = "multi" if several else "single"
    return ImageStore.from_arrays(images, labels, place, days, classes, task, bands, splits=splits)


@pytest.fixture
def open_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[ImageStore], ImageStore]:
    def show(store: ImageStore) -> ImageStore:
        monkeypatch.setattr(ImageStore, "open", classmethod(lambda cls, shards: store))
        return store

    return show


def config_file(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / Path(name).name
    path.write_text(yaml.safe_dump({**FILES[name], **changes}))
    return path


def expected_pixels(images: Tensor, dataset: str, size: int) -> Tensor:
    """As the reference scales them, written down anew."""
    x = images.float()
    if dataset == "bigearthnet":
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEANS, DEVIATIONS))
        x = ((x - (mean - 2 * std)) / (4 * std)).clamp(0, 1)
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear")
        return (x - 0.5) / 0.25
    x = x / 255 if images.dtype == torch.uint8 else (x / 2750).clamp(max=1)
    x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return (x - 0.5) / 0.5


@pytest.mark.parametrize(
    "name, bands",
    [
        ("bigearthnet/fixmatch0.01.yaml", ("B04", "B03", "B02")),
        ("bigearthnet/cdmad0.01.yaml", ("B04", "B03", "B02")),
        ("eurosat/fixmatch40.yaml", ("R", "G", "B")),
        ("eurosat/fixmatch40.yaml", ("B04", "B03", "B02")),
    ],
)
def test_pixels_network_and_scores(
    name, bands, open_store, save, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = name.split("/")[0]
    store = open_store(store_of(dataset, bands))
    classes, size, patch = len(store.card.classes), *((128, 16) if dataset == "bigearthnet" else (32, 2))
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224", img_size=size, patch_size=patch, num_classes=classes).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    seen: list[Tensor] = []
    monkeypatch.setattr(
        room, "score", lambda logits, data, split, **more: seen.append(logits(data.batch(data.split.test)))
    )
    config = config_file(tmp_path, name)
    arguments = (save(network.state_dict(), it=5000), config, "test")
    room.evaluate(*arguments)
    rows = torch.tensor([2, 3, 6, 7, 10, 11, 14, 15])
    with torch.no_grad():
        expected = network(expected_pixels(store.images[rows], dataset, size))
        if "cdmad" in name:
            expected = expected - network(torch.ones(1, 3, size, size))
    assert torch.allclose(seen[0].detach(), expected, atol=2e-4), (seen[0] - expected).abs().max()
    monkeypatch.undo()
    open_store(store)
    command = ["evaluate", "--reference-checkpoint", str(arguments[0]), "--reference-config", str(config)]
    capsys.readouterr()
    assert main([*command, "--split", "test", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    ours = scores(expected, store.labels[rows], store.card.task, parity=True)
    for key in ("map_macro", "f1_macro_reference") if dataset == "bigearthnet" else ("accuracy", "balanced_accuracy"):
        assert said[key] == pytest.approx(ours[key], abs=1e-6), key
    assert main([*command, "--role", "teacher"]) == 2
    assert "has no teacher; it has a student" in capsys.readouterr().err.replace("\n", " ")


def test_shards_of_another_kind(open_store, save, states, tmp_path) -> None:
    open_store(store_of("eurosat", ("B04", "B03", "B02")))
    with pytest.raises(
        ConfigError, match=r"num_classes: 43 and several labels per image, but .* has 10 classes and one label"
    ):
        room.evaluate(save(states["plain"]), config_file(tmp_path, "bigearthnet/fixmatch0.01.yaml"), "test")


def test_train_on_a_reference_config(open_store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(store_of("eurosat", ("R", "G", "B")))
    path = config_file(tmp_path, "eurosat/stssl_fixmatch40.yaml", num_labels=10)
    small = ["model.depth=1", "model.patch_size=8", "data.labeled.count=4"]
    command = ["train", "--reference-config", str(path), "--shards", "nowhere", "--dry-run"]
    command += [word for setting in small for word in ("--set", setting)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "note: ignored: patience_iters 32768 (no early stopping)" in said.err and "set parity=reference" in said.err
    recipe = yaml.safe_load(said.out)
    assert recipe["framework"] == "teacher_student" and recipe["data"]["shards"].endswith("nowhere")
    assert recipe["algorithm"]["threshold"] == 0.95 and recipe["model"]["depth"] == 1
    assert main([*command, "--set", "parity=reference"]) == 0 and "parity" not in capsys.readouterr().err
    assert main([*command, "recipe.yaml"]) == 2 and "give either a RECIPE or" in capsys.readouterr().err
    assert main(["train"]) == 2 and main(["evaluate"]) == 2
    assert main(["evaluate", "--reference-checkpoint", "x.pth"]) == 2 and "go together" in capsys.readouterr().err
    assert main(["evaluate", "somewhere", "--role", "teacher"]) == 2
    store = store_of("bigearthnet", ("B04", "B03", "B02"))
    open_store(store)
    assert main([*command, "--set", "data.bands=[B04, B03, B02]"]) == 2
    assert "num_classes: 10 and one label per image, but" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n in FILES if "stssl" in n or "extrainfo" in n or "cap" in n])
def test_dry_run_of_published_files(name: str, open_store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = name.split("/")[0].removesuffix("43")
    open_store(store_of(dataset, ("B04", "B03", "B02") if dataset == "bigearthnet" else ("R", "G", "B")))
    path = config_file(tmp_path, name)
    small = ["model.depth=1", "model.embed_dim=48", "model.num_heads=3", "data.labeled={}"]
    sets = [word for setting in small for word in ("--set", setting)]
    assert main(["train", "--reference-config", str(path), "--dry-run", *sets]) == 0, capsys.readouterr().err
