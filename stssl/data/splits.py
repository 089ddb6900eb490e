"""Training, validation and test rows, without a place that is in two of them; and which training labels are used."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stssl.config import Config
from stssl.data.store import ImageStore
from stssl.errors import ConfigError, DataError

Rows = NDArray[np.int64]
_NAMES = ("training", "validation", "test")
_COLUMN = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}


class SplitConfig(Config):
    """How rows are divided.

    Attributes:
        by: "blocks": whole blocks of land go to one split, so that no place is in two; "column": the authors' splits.
        block_deg: Edge of a block in degrees of latitude and longitude.
        validation: Share of the labeled rows to select recipes on.
        test: Share of the labeled rows to report on; may be 0.
        seed: Of the division into blocks.
    """

    by: Literal["blocks", "column"] = "blocks"
    block_deg: float = Field(default=0.5, gt=0, le=90)
    validation: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _leave_training(self) -> Self:
        if self.validation + self.test >= 1:
            both = f"validation {self.validation} and test {self.test}"
            raise ValueError(f"{both} must sum to less than 1: training needs a share")
        return self


class LabeledConfig(Config):
    """How many training labels are used: one of the three, or none of them for all labels.

    Attributes:
        count: Labeled rows in total, spread over the classes as evenly as possible.
        per_class: Labeled rows of each class (multi-label: at least so many).
        fraction: Share of the training labels, in the classes' own proportions (none of them left out if possible).
        seed: Of the choice; another seed leaves validation and test as they are.
    """

    count: int | None = Field(default=None, ge=1)
    per_class: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [key for key in ("count", "per_class", "fraction") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of count, per_class, fraction; got {' and '.join(given)}")
        return self


class Split(NamedTuple):
    """Row numbers, sorted, int64. `unlabeled` is the whole training pool: the labeled rows are part of it."""

    labeled: Rows
    unlabeled: Rows
    validation: Rows
    test: Rows


def make_split(store: ImageStore, split: SplitConfig, labeled: LabeledConfig) -> Split:
    """Divide the rows of a store.

    Rows without a label serve training only. Those that lie in a validation or test block are left out: to train on
    them would show the network the held-out place.

    Raises:
        ConfigError: Validation, test or the labeled rows come out empty, or more labels are asked for than there are.
        DataError: `by: column`, but the data has no such column, or names in it are unknown.
    """
    hot = _one_hot(store)
    known = _known(store)
    part = _by_column(store, known) if split.by == "column" else _by_blocks(store, hot, known, split)
    pool = np.flatnonzero(part == 0)
    validation, test = (np.flatnonzero((part == number) & known) for number in (1, 2))
    if not len(validation):
        raise ConfigError(_empty("validation", store, split))
    if not len(test) and split.by == "blocks" and split.test > 0:
        raise ConfigError(_empty("test", store, split))
    candidates = pool[known[pool]]
    if not len(candidates):
        raise ConfigError(_empty("training", store, split))
    chosen = candidates[_choose(hot[candidates], labeled, store.card.classes)]
    return Split(np.sort(chosen), pool, validation, test)


def block_ids(place: NDArray[np.float32], block_deg: float) -> Rows:
    """Number of each row's block of land.

    Args:
        place: [N, 2] degrees (latitude, longitude), NaN = unknown.
        block_deg: Edge of a block in degrees.

    Returns:
        [N] block numbers from 0; a row without a place is a block of its own.
    """
    degrees = place.astype(np.float64)
    cells = np.floor(np.stack([degrees[:, 0] + 90, (degrees[:, 1] + 180) % 360], 1) / block_deg)  # 180 E is 180 W
    nowhere = np.isnan(degrees).any(1)
    cells[nowhere, 0], cells[nowhere, 1] = -1, np.arange(nowhere.sum())
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _one_hot(store: ImageStore) -> NDArray[np.float64]:
    """[N, K] 1 where a class is known to be there."""
    labels = store.labels.numpy()
    if store.card.task == "multi":
        return (labels == 1).astype(np.float64)
    return (labels[:, None] == np.arange(len(store.card.classes))).astype(np.float64)


def _known(store: ImageStore) -> NDArray[np.bool_]:
    """[N] whether a row has any label."""
    labels = store.labels.numpy()
    return np.asarray(labels >= 0 if store.card.task == "single" else (labels >= 0).any(1))


def _by_blocks(
    store: ImageStore, hot: NDArray[np.float64], known: NDArray[np.bool_], split: SplitConfig
) -> NDArray[np.int64]:
    """[N] split number of each row: blocks one by one, each to where the class counts need it most.

    The need is Pearson's chi-square between the counts so far and the wanted ones, over all classes and the number of
    rows: it weighs rare classes and small splits by their own size.
    """
    blocks = block_ids(store.place.numpy(), split.block_deg)
    counted = np.concatenate([hot, np.ones((len(hot), 1))], 1) * known[:, None]
    counts = np.zeros((blocks.max() + 1, counted.shape[1]))
    np.add.at(counts, blocks, counted)
    total = counts.sum(0)
    used = total > 0
    shares = np.array([1 - split.validation - split.test, split.validation, split.test])
    numbers = np.flatnonzero(shares > 0)
    want, counts = shares[numbers, None] * total[used], counts[:, used]
    have = np.zeros_like(want)
    part = np.zeros(len(counts), np.int64)  # a block without labels trains
    size = counts[:, -1] if used.any() else np.zeros(len(counts))
    shuffle = np.random.default_rng(np.random.SeedSequence([split.seed, 0])).permutation(len(counts))
    # Largest first, in powers of two: within one the order is the seed's, so that seeds differ.
    order = shuffle[np.argsort(-np.floor(np.log2(np.maximum(size[shuffle], 1))), kind="stable")]
    for block in order[size[order] > 0]:
        added = counts[block]
        best = np.argmin((added * (2 * (have - want) + added) / want).sum(1))
        have[best] += added
        part[block] = numbers[best]
    return part[blocks]


def _by_column(store: ImageStore, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N] split number of each row as the data set's authors have it."""
    if not any(store.splits):
        raise DataError(f"data set '{store.card.name}' has no split column; set data.split.by=blocks")
    part = np.zeros(len(store.splits), np.int64)
    for row, name in enumerate(store.splits):
        if name:
            number = _COLUMN.get(name.lower())
            if number is None:
                raise DataError(f"'{store.ids[row]}': unknown split '{name}'; known: {', '.join(_COLUMN)}")
            part[row] = number
        elif known[row]:  # without a label it can only train; with one, anything would be a guess
            raise DataError(f"'{store.ids[row]}': labeled, but in no split; fill it in or set data.split.by=blocks")
    return part


def _empty(name: str, store: ImageStore, split: SplitConfig) -> str:
    if split.by == "column":
        return f"data.split.by: the split column has no labeled {name} row; set data.split.by=blocks"
    blocks = block_ids(store.place.numpy(), split.block_deg).max() + 1
    share = "data.split.validation and data.split.test" if name == "training" else f"data.split.{name}"
    verb = "lower" if name == "training" else "raise"
    return (
        f"data.split: no labeled row is left for {name}: {len(store)} images lie in {blocks} blocks of "
        f"{split.block_deg:g} degrees; lower data.split.block_deg or {verb} {share}"
    )


def _choose(hot: NDArray[np.float64], labeled: LabeledConfig, classes: tuple[str, ...]) -> Rows:
    """Positions of the labeled rows among the candidates.

    Rows are taken one by one, always for the class that has the least of what it is due, so a smaller count is a part
    of a larger one. A row without any class (multi-label) counts as a class of its own.
    """
    hot = np.concatenate([hot, (hot.sum(1) == 0)[:, None]], 1)
    n, available = len(hot), hot.sum(0)
    due = np.ones_like(available)
    goal = n
    if labeled.count is not None:
        goal = labeled.count
        if goal > n:
            raise ConfigError(f"data.labeled.count: asked for {goal} labeled images, training has {n}; lower it")
    elif labeled.fraction is not None:
        goal, due = max(1, round(labeled.fraction * n)), available
    elif labeled.per_class is not None:
        for name, there in zip(classes, available, strict=False):  # a class that training lacks cannot be asked for
            if 0 < there < labeled.per_class:
                raise ConfigError(
                    f"data.labeled.per_class: asked for {labeled.per_class} labeled images of class {name}, "
                    f"training has {int(there)}; lower it"
                )
        available[-1] = 0  # not a class
    if goal == n and labeled.per_class is None:
        return np.arange(n)
    random = np.random.default_rng(np.random.SeedSequence([labeled.seed, 1]))
    order = random.permutation(n)
    columns = random.permutation(np.flatnonzero(available))  # shuffled: ties between classes are the seed's to break
    queues = [iter(order[hot[order, column] > 0]) for column in columns]
    hot, due, have = hot[:, columns], due[columns], np.zeros(len(columns))
    taken: dict[int, None] = {}
    while len(taken) < goal:
        if labeled.per_class is not None and have.min() >= labeled.per_class:
            break
        neediest = int(np.argmin(have / due))
        row = next((int(row) for row in queues[neediest] if row not in taken), None)
        if row is None:
            due[neediest] = 1e-300  # this class has no row left: it is due nothing more
            have[neediest] = np.inf
            continue
        taken[row] = None
        have += hot[row]
    return np.fromiter(taken, np.int64)
