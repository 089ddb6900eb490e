"""Class-balanced draws: a pure function of (seed, number of the draw), exactly balanced, cheap for any number of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stssl.data.schema import Task
from stssl.errors import ConfigError

Positions = NDArray[np.int64]

_BALANCED = 5  # keeps these random numbers apart from those of `batches` (4) and of the trainer (1, 2, 3)
_AT_ONCE = 1024  # orders of short lists are made so many entries at a time


def groups(labels: Tensor, task: Task) -> list[Positions]:
    """The images of each class that has any; a multi-label image is in several groups.

    Images whose known labels are all negative (multi-label) are a group of their own, as `choose` counts them; images of
    which nothing is known are in none, since a step could not learn from them.

    Args:
        labels: [N] int64 or [N, K] float of the labeled pool, -1 = unknown.
        task: `single` or `multi`.

    Returns:
        Positions in the pool, sorted, one array a group.

    Raises:
        ConfigError: No image has a known label.
    """
    y = labels.numpy()
    if task == "single":
        hot = y[:, None] == np.unique(y[y >= 0])
    else:
        hot = np.concatenate([y == 1, ((y >= 0).any(1) & ~(y == 1).any(1))[:, None]], 1)
    found = [np.flatnonzero(column) for column in hot.T if column.any()]
    if not found:
        raise ConfigError(
            "training.labeled_sampling: class_balanced: no labeled image has a known label; use labeled_sampling: uniform"
        )
    return found


class Balanced:
    """Draws from each group equally often, and inside one without repeats until all its members were drawn.

    The draws are numbered from 0. G groups make rounds of G draws: each round goes through all groups in a random order of
    its own, and the r-th round takes the r-th entry of each group's endless list, one random order of its members after
    another. So any number of whole rounds is exactly balanced.

    Args:
        members: Positions of each group, see `groups`.
        seed: Of all orders.
    """

    def __init__(self, members: list[Positions], seed: int) -> None:
        self.members, self.seed = members, seed
        self._latest: dict[int, tuple[int, Positions]] = {}  # spares computing an order anew at every step

    def positions(self, size: int, step: int) -> Positions:
        """Which members of the pool a step takes: [size]."""
        numbers = np.arange(step * size, (step + 1) * size)
        count = len(self.members)
        group, taken = self._entries(0, count, numbers), np.empty(size, np.int64)
        for g in np.unique(group):
            here = group == g
            members = self.members[g]
            taken[here] = members[self._entries(1 + int(g), len(members), numbers[here] // count)]
        return taken

    def _entries(self, key: int, length: int, numbers: Positions) -> Positions:
        """Entries of an endless list: random orders of 0 .. length-1, one after another."""
        per_block = length * max(1, _AT_ONCE // length)
        blocks, entries = numbers // per_block, np.empty(len(numbers), np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            entries[here] = self._block(key, length, int(block))[numbers[here] % per_block]
        return entries

    def _block(self, key: int, length: int, block: int) -> Positions:
        latest = self._latest.get(key)
        if latest is None or latest[0] != block:
            random = np.random.default_rng(np.random.SeedSequence([_BALANCED, self.seed, key, block]))
            orders = np.tile(np.arange(length), (max(1, _AT_ONCE // length), 1))
            latest = self._latest[key] = block, random.permuted(orders, axis=1).ravel()
        return latest[1]
