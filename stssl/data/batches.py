"""Which rows a training step sees: a pure function of (seed, step), so a resumed run needs no sampler state."""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssl.data.balance import Balanced, groups
from stssl.data.dataset import Dataset
from stssl.data.schema import Batch

_LABELED, _UNLABELED = 0, 1  # pools: each has a random stream of its own


class Batches:
    """Draws one labeled and one unlabeled batch a step.

    Each pool is gone through in a new random order every epoch, without repeats inside one; a batch runs on across the
    end of an epoch, and may be larger than its pool. Class-balanced labeled draws have epochs of each class instead: see
    `Balanced`.

    Args:
        dataset: Where rows come from.
        labeled: Labeled images a step.
        unlabeled: Unlabeled images a step; 0 = none.
        seed: Of the order.
        device: Where batches go.
        balanced: Draw labeled images of each class equally often.

    Raises:
        ConfigError: Balanced, and no labeled image has a known label.
    """

    def __init__(
        self,
        dataset: Dataset,
        labeled: int,
        unlabeled: int,
        seed: int,
        device: torch.device | str,
        balanced: bool = False,
    ) -> None:
        self.dataset, self.labeled, self.unlabeled, self.seed = dataset, labeled, unlabeled, seed
        self.device = torch.device(device)
        self._balanced: Balanced | None = None
        if balanced:
            labels = dataset.store.labels[torch.as_tensor(dataset.split.labeled)]
            self._balanced = Balanced(groups(labels, dataset.task), seed)
        pinned = self.device.type == "cuda"
        self._places = [[_Place(dataset, size, pinned) for _ in range(2)] for size in (labeled, unlabeled)]
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[int, Future[tuple[Batch, Batch | None]]] | None = None

    def draw(self, step: int) -> tuple[Batch, Batch | None]:
        """The labeled and the unlabeled batch of a step (from 0), on the device.

        Meanwhile a thread fetches the batches of the step after it, so that they are there when they are asked for. Images
        stay as they are until the next draw.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            wait([ahead[1]])  # one thread writes at a time
        drawn = ahead[1].result() if ahead is not None and ahead[0] == step else self._fetch(step)
        self._ahead = (step + 1, self._thread.submit(self._fetch, step + 1))
        return drawn

    def _fetch(self, step: int) -> tuple[Batch, Batch | None]:
        labeled = self._take(self.dataset.split.labeled, _LABELED, self.labeled, step)
        if self.unlabeled == 0:
            return labeled, None
        return labeled, self._take(self.dataset.split.unlabeled, _UNLABELED, self.unlabeled, step)

    def _take(self, pool: NDArray[np.int64], stream: int, size: int, step: int) -> Batch:
        place = self._places[stream][step % 2]
        if self._balanced is not None and stream == _LABELED:
            members = self._balanced.positions(size, step)
        else:
            members = positions(self.seed, stream, len(pool), size, step)
        batch = self.dataset.batch(pool[members], place.free())._replace(member=torch.from_numpy(members))
        moved = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        place.sent(self.device)
        return moved


class _Place:
    """Memory that one batch of images in two is copied to; fresh memory costs more than the copy itself.

    On the way to a GPU it is pinned, which lets the copy run beside the work that is already queued there.
    """

    def __init__(self, dataset: Dataset, rows: int, pinned: bool) -> None:
        self.images = dataset.buffer(rows, pinned)
        self._copied: torch.cuda.Event | None = None

    def free(self) -> Tensor | None:
        """The memory, once the GPU has taken what lay there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self.images

    def sent(self, device: torch.device) -> None:
        """The batch is on its way."""
        if device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))


def positions(seed: int, stream: int, pool: int, size: int, step: int) -> NDArray[np.int64]:
    """Which of a pool's `pool` members a step takes: [size] numbers below `pool`."""
    first = step * size
    epochs = range(first // pool, (first + size - 1) // pool + 1)
    joined = np.concatenate([_order(seed, stream, epoch, pool) for epoch in epochs])
    start = first - epochs[0] * pool
    return joined[start : start + size]


_BATCHES = 4  # keeps these random numbers apart from the trainer's, whose keys begin with 1, 2 and 3


@functools.lru_cache(maxsize=4)  # two pools, and the epochs on both sides of a boundary
def _order(seed: int, stream: int, epoch: int, pool: int) -> NDArray[np.int64]:
    return np.random.default_rng(np.random.SeedSequence([_BATCHES, seed, stream, epoch])).permutation(pool)
