"""The data that a recipe names: a store, its split, and the bands in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.data.schema import Batch
from stssl.data.splits import LabeledConfig, SplitConfig, make_split
from stssl.data.store import ImageStore
from stssl.errors import ConfigError, did_you_mean


class DataConfig(Config):
    """The recipe's `data`.

    Attributes:
        shards: The prepared folder.
        bands: Which bands the networks see, in this order; None = all.
        split: Training, validation, test.
        labeled: How many training labels are used.
    """

    shards: str
    bands: tuple[str, ...] | None = Field(default=None, min_length=1)
    split: SplitConfig = SplitConfig()
    labeled: LabeledConfig = LabeledConfig()


class Dataset:
    """A store seen through a recipe.

    Attributes:
        store: All images.
        split: Row numbers of labeled, unlabeled, validation and test.
        bands: Names of the bands in use.
        classes: Class names.
        task: "single" or "multi".
        channels: Number of bands in use.
        mean: [channels] float32, of all pixels of the data set, in stored units.
        std: [channels] float32, likewise.

    Raises:
        ConfigError: An unknown or repeated band, or a split that does not work out.
    """

    def __init__(self, config: DataConfig, store: ImageStore) -> None:
        card = store.card
        self.store, self.classes, self.task = store, card.classes, card.task
        self.bands = card.bands if config.bands is None else config.bands
        for band in self.bands:
            if band not in card.bands:
                raise ConfigError(f"data.bands: '{card.name}' has no band '{band}'; {did_you_mean(band, card.bands)}")
        if len(set(self.bands)) < len(self.bands):
            raise ConfigError(f"data.bands: a band stands there twice: {', '.join(self.bands)}")
        self.split = make_split(store, config.split, config.labeled)
        self.channels = len(self.bands)
        channels = [card.bands.index(band) for band in self.bands]
        self.mean = torch.tensor([card.mean[channel] for channel in channels], dtype=torch.float32)
        self.std = torch.tensor([card.std[channel] for channel in channels], dtype=torch.float32)
        self._channels = None if self.bands == card.bands else channels

    @classmethod
    def open(cls, config: DataConfig) -> Self:
        """Open the shards that the config names; see `ImageStore.open`."""
        return cls(config, ImageStore.open(Path(config.shards)))

    def batch(self, indices: Tensor | NDArray[np.int64]) -> Batch:
        """The rows `indices` [B] as CPU tensors."""
        rows = torch.as_tensor(indices)
        store = self.store
        return Batch(store.gather(rows, self._channels), store.labels[rows], store.place[rows], store.time[rows])

    def iterate(self, indices: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """All rows `indices` once, in order; the last batch may be smaller."""
        for start in range(0, len(indices), batch_size):
            yield self.batch(indices[start : start + batch_size])
