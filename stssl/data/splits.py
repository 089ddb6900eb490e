"""Training, validation and test rows, without a place that is in two of them; and which training labels are used."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stssl.config import Config
from stssl.data.holdout import HoldoutConfig, block_ids, held_out
from stssl.data.store import ImageStore
from stssl.data.subsets import LabeledConfig, choose
from stssl.errors import ConfigError, DataError

Rows = NDArray[np.int64]
_NAMES = ("training", "validation", "test")
_COLUMN = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}


class SplitConfig(Config):
    """How rows are divided.

    Attributes:
        by: "blocks": whole blocks of land go to one split, so that no place is in two; "time": whole days, the latest are
            test, the ones before them validation; "column": the authors' splits.
        block_deg: Edge of a block in degrees of latitude and longitude.
        validation: Share of the labeled rows to select recipes on.
        test: Share of the labeled rows to report on; may be 0.
        seed: Of the division into blocks.
        holdout: Rows that are in none of these splits, but in one of their own.
    """

    by: Literal["blocks", "time", "column"] = "blocks"
    block_deg: float = Field(default=0.5, ge=1e-4, le=90)
    validation: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    holdout: HoldoutConfig | None = None

    @model_validator(mode="after")
    def _leave_training(self) -> Self:
        if self.validation + self.test >= 1:
            both = f"validation {self.validation} and test {self.test}"
            raise ValueError(f"{both} must sum to less than 1: training needs a share")
        return self


class Split(NamedTuple):
    """Row numbers, sorted, int64.

    Attributes:
        labeled: Training rows whose label is used.
        unlabeled: The whole training pool: the labeled rows are part of it.
        validation: To select on: as many labels as a user would really have.
        test: To report on, once.
        validation_full: All validation rows, `validation` among them.
        holdout: Labeled rows of the held-out region, season or time.
    """

    labeled: Rows
    unlabeled: Rows
    validation: Rows
    test: Rows
    validation_full: Rows
    holdout: Rows

    def sizes(self) -> str:
        """How many rows each has, for people."""
        shown = {name: len(rows) for name, rows in self._asdict().items()}
        if shown["validation_full"] == shown["validation"]:
            del shown["validation_full"]
        return ", ".join(f"{name} {count}" for name, count in shown.items() if count or name in ("labeled", "test"))


EVALUATED = ("validation", "validation_full", "test", "holdout")


def make_split(
    store: ImageStore, split: SplitConfig, labeled: LabeledConfig, budget: LabeledConfig | None = None
) -> Split:
    """Divide the rows of a store.

    Rows without a label serve training only. Those that lie in a validation, test or held-out block are left out: to train
    on them would show the network the held-out place.

    Args:
        store: The data.
        split: Which rows may serve what.
        labeled: Which training labels are used.
        budget: Which validation labels are used; None = all.

    Raises:
        ConfigError: Validation, test or the labeled rows come out empty, or more labels are asked for than there are.
        DataError: `by: column`, but the data has no such column, or names in it are unknown.
    """
    hot, known = _one_hot(store), _known(store)
    held = np.zeros(len(store), bool)
    if split.holdout is not None:
        block_deg = split.block_deg if split.by == "blocks" else None
        held = held_out(split.holdout, store.place.numpy(), store.time.numpy(), block_deg)
    usable = known & ~held
    if not usable.any():
        what = (
            "data.split.holdout: it takes every labeled image; narrow it"
            if known.any()
            else "data.split: no image has a label"
        )
        raise ConfigError(f"{what} ('{store.card.name}', {len(store)} images)")
    if split.by == "column":
        part = _by_column(store, known)
    elif split.by == "time":
        part = _by_time(store, usable, split)
    else:
        part = _by_blocks(store, hot, usable, split)
    part[held] = -1
    pool = np.flatnonzero(part == 0)
    full, test = (np.flatnonzero((part == number) & known) for number in (1, 2))
    if not len(full):
        raise ConfigError(_empty("validation", store, split))
    if not len(test) and split.by != "column" and split.test > 0:
        raise ConfigError(_empty("test", store, split))
    candidates = pool[known[pool]]
    if not len(candidates):
        raise ConfigError(_empty("training", store, split))
    held_rows = np.flatnonzero(held & known)
    if split.holdout is not None and not len(held_rows):
        raise ConfigError("data.split.holdout: no labeled image lies there; widen it, or leave it out")
    classes = store.card.classes
    chosen = candidates[choose(hot[candidates], labeled, classes, "data.labeled", "training")]
    validation = full[choose(hot[full], budget or LabeledConfig(), classes, "data.validation_budget", "validation")]
    return Split(np.sort(chosen), pool, np.sort(validation), test, full, held_rows)


def _one_hot(store: ImageStore) -> NDArray[np.bool_]:
    """[N, K] whether a class is known to be there."""
    labels = store.labels.numpy()
    if store.card.task == "multi":
        return np.asarray(labels == 1)
    return np.asarray(labels[:, None] == np.arange(len(store.card.classes)))


def _known(store: ImageStore) -> NDArray[np.bool_]:
    """[N] whether a row has any label."""
    labels = store.labels.numpy()
    return np.asarray(labels >= 0 if store.card.task == "single" else (labels >= 0).any(1))


def _by_blocks(
    store: ImageStore, hot: NDArray[np.bool_], known: NDArray[np.bool_], split: SplitConfig
) -> NDArray[np.int64]:
    """[N] split number of each row: blocks one by one, each to where the class counts need it most.

    The need is Pearson's chi-square between the counts so far and the wanted ones, over all classes and the number of
    rows: it weighs rare classes and small splits by their own size.
    """
    blocks = block_ids(store.place.numpy(), split.block_deg)
    number = int(blocks.max()) + 1
    columns = [*(hot[:, column] & known for column in range(hot.shape[1])), known]
    counts = np.stack([np.bincount(blocks[column], minlength=number) for column in columns], 1).astype(float)
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


def _by_time(store: ImageStore, known: NDArray[np.bool_], split: SplitConfig) -> NDArray[np.int64]:
    """[N] split number of each row by its day: the latest are test, the ones before them validation.

    A day goes where the larger part of its labeled rows lies. Rows without a date train.
    """
    days = np.floor(store.time.numpy())
    used = known & np.isfinite(days)
    if not used.any():
        raise ConfigError("data.split.by: no labeled image has a date; set data.split.by=blocks")
    each, counts = np.unique(days[used], return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()  # of each day, in the order of labeled rows
    part_of_day = np.where(middle > 1 - split.test, 2, np.where(middle > 1 - split.test - split.validation, 1, 0))
    at = np.searchsorted(each, days).clip(0, len(each) - 1)
    # a day that has no labeled row goes with the next one that has
    return np.where(np.isfinite(days), part_of_day[at], 0)


def _by_column(store: ImageStore, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N] split number of each row as the data set's authors have it."""
    names = pc.utf8_lower(store.splits.combine_chunks())
    if names.null_count == len(names):
        raise DataError(f"data set '{store.card.name}' has no split column; set data.split.by=blocks")
    number = pc.index_in(names, value_set=pa.array(list(_COLUMN)))
    for row in pc.indices_nonzero(pc.and_(pc.is_valid(names), pc.is_null(number)))[:1].to_pylist():
        raise DataError(f"'{store.ids[row]}': unknown split '{store.splits[row]}'; known: {', '.join(_COLUMN)}")
    position = pc.fill_null(number, -1).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(known & (position < 0))[:1]:  # without a label it trains; with one, all would be a guess
        raise DataError(f"'{store.ids[row]}': labeled, but in no split; fill it in or set data.split.by=blocks")
    return np.array([*_COLUMN.values(), 0], np.int64)[position]


def _empty(name: str, store: ImageStore, split: SplitConfig) -> str:
    if split.by == "column":
        return f"data.split.by: the split column has no labeled {name} row; set data.split.by=blocks"
    share = "data.split.validation and data.split.test" if name == "training" else f"data.split.{name}"
    verb = "lower" if name == "training" else "raise"
    if split.by == "time":
        days = len(np.unique(np.floor(store.time.numpy()[np.isfinite(store.time.numpy())])))
        return f"data.split: no labeled row is left for {name}: {len(store)} images are of {days} days; {verb} {share}"
    blocks = block_ids(store.place.numpy(), split.block_deg).max() + 1
    return (
        f"data.split: no labeled row is left for {name}: {len(store)} images lie in {blocks} blocks of "
        f"{split.block_deg:g} degrees; lower data.split.block_deg or {verb} {share}"
    )
