"""Shards on a disk, and trainings on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stssl.config import Config
from stssl.data.dataset import Dataset
from stssl.data.prepare import prepare
from stssl.data.schema import Sample
from stssl.data.sources.base import Source
from stssl.data.store import ImageStore
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer


class StoreSource(Source):
    """A store as a source, so that it can be prepared as shards."""

    Config = Config
    name, licence, attribution = "colours", "CC0-1.0", "Nobody (2024)"

    def __init__(self, store: ImageStore, classes: tuple[str, ...] | None = None, order: tuple[int, ...] = (0, 1, 2)):
        self.store, self.task, self.order = store, store.card.task, list(order)
        self.classes = classes or store.card.classes
        self.bands = tuple(store.card.bands[band] for band in order)
        self.ids = store.ids.to_pylist()

    def read(self, index: int) -> Sample:
        store = self.store
        label = store.labels[index].tolist()
        hot = [label] if self.task == "single" else [k for k, value in enumerate(label) if value == 1]
        known = tuple(self.classes[k] for k in hot)
        image = store.images[index].numpy()[self.order]
        return Sample(self.ids[index], image, known, *store.place[index].tolist(), store.time[index].item(), None)


@pytest.fixture(scope="module")
def shards(
    whole_stores: dict[str, ImageStore], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Path]]:
    """Prepares a store as shards: `shards("single", classes=..., order=...)`."""
    home = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STSSL_CACHE", str(home / "cache"))

        def make(task: str = "single", **options: Any) -> Path:
            source = StoreSource(whole_stores[task], **options)
            folder = home / f"{task}-{len(list(home.iterdir()))}"
            prepare(source, folder)
            return folder

        yield make


@pytest.fixture(scope="module")
def trained(shards: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> Callable[..., Trainer]:
    """Trains two steps on shards: `trained("single", {"framework": "plain"})`."""
    folders = {task: shards(task) for task in ("single", "multi")}

    def make(task: str = "single", overrides: dict[str, Any] | None = None) -> Trainer:
        recipe = make_recipe({"data.shards": str(folders[task]), **(overrides or {})})
        trainer = Trainer(recipe, Dataset.open(recipe.data))
        trainer.run_interval()
        return trainer

    return make


@pytest.fixture(scope="module")
def trainer(trained: Callable[..., Trainer]) -> Trainer:
    return trained()
