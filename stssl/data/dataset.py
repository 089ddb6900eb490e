"""The data that a recipe names: a store, its split, and the bands in use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.data.schema import Batch
from stssl.data.splits import SplitConfig, make_split
from stssl.data.store import ImageStore, gather
from stssl.data.subsets import LabeledConfig
from stssl.errors import ConfigError, did_you_mean


class DataConfig(Config):
    """The recipe's `data`.

    Attributes:
        shards: The prepared folder.
        bands: Which bands the networks see, in this order; None = all.
        split: Training, validation, test.
        labeled: How many training labels are used.
        validation_budget: How many validation labels recipes are selected on: as many as a user would really have.
        residency: Where images lie: "mapped" in a file that all processes of the node share, or on the "device" itself, from
            where a batch costs nothing; "auto": on a GPU if they take at most a quarter of its free memory.
    """

    shards: str
    bands: tuple[str, ...] | None = Field(default=None, min_length=1)
    split: SplitConfig = SplitConfig()
    labeled: LabeledConfig = LabeledConfig()
    validation_budget: LabeledConfig = LabeledConfig()
    residency: Literal["auto", "mapped", "device"] = "auto"


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
        self.split = make_split(store, config.split, config.labeled, config.validation_budget)
        self.channels = len(self.bands)
        channels = [card.bands.index(band) for band in self.bands]
        self.mean = torch.tensor([card.mean[channel] for channel in channels], dtype=torch.float32)
        self.std = torch.tensor([card.std[channel] for channel in channels], dtype=torch.float32)
        self._channels = None if self.bands == card.bands else channels
        self._residency = config.residency
        self._resident: Tensor | None = None

    @classmethod
    def open(cls, config: DataConfig) -> Self:
        """Open the shards that the config names; see `ImageStore.open`."""
        return cls(config, ImageStore.open(config.shards))

    def buffer(self, rows: int, pinned: bool) -> Tensor | None:
        """Memory for `batch` to copy images into, or None where no copy is made."""
        if self._resident is not None:
            return None
        images = self.store.images
        return torch.empty((rows, self.channels, *images.shape[2:]), dtype=images.dtype, pin_memory=pinned)

    def settle(self, device: torch.device | str) -> None:
        """Bring the images to the device that trains, if `residency` says so and they fit.

        Raises:
            ConfigError: `residency: device`, and they do not fit.
        """
        device, store = torch.device(device), self.store.images
        if self._residency == "mapped" or self._resident is not None:
            return
        shape = (len(store), self.channels, *store.shape[2:])
        need = math.prod(shape) * store.element_size()
        if self._residency == "auto" and (device.type != "cuda" or need > torch.cuda.mem_get_info(device)[0] // 4):
            return
        try:
            resident = torch.empty(shape, dtype=store.dtype, device=device)
            for rows in torch.arange(len(store)).split(1024):  # a part at a time: the process stays small
                resident[rows[0] : rows[-1] + 1] = gather(store, rows, self._channels).to(device)
        except (RuntimeError, MemoryError) as error:
            raise ConfigError(
                f"data.residency: the images take {need / 2**30:.1f} GiB, which {device} has not free "
                f"({str(error).splitlines()[0]}); set data.residency=mapped"
            ) from None
        self._resident = resident

    def batch(self, indices: Tensor | NDArray[np.int64], out: Tensor | None = None) -> Batch:
        """The rows `indices` [B]: images where they lie (see `settle`), the rest as CPU tensors.

        Args:
            indices: [B] row numbers.
            out: [B, channels, H, W] to copy images into, if they lie in memory.
        """
        rows, store = torch.as_tensor(indices), self.store
        images, channels = (store.images, self._channels) if self._resident is None else (self._resident, None)
        out = out if self._resident is None else None
        return Batch(gather(images, rows, channels, out), store.labels[rows], store.place[rows], store.time[rows], rows)

    def iterate(self, indices: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """All rows `indices` once, in order; the last batch may be smaller."""
        for start in range(0, len(indices), batch_size):
            yield self.batch(indices[start : start + batch_size])
