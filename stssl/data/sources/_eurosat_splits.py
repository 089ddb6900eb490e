"""Which files of EuroSAT train, validate and test, and which of them keep their labels.

EuroSAT's authors publish no division. "official" is the class-wise one that the reference project ascribes to VTAB: by
the names of all 27,000 files, in lexicographic order (`Forest_1`, `Forest_10`, `Forest_100`, ...), the first 60 % of each
class train, the next 20 % validate, the last 20 % test. Lists of file names that other projects publish may
differ. The reference project itself trains on the first 80 % and has no validation images; it chooses the labeled ones by
their numbers in that training list, which it shuffles before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stssl.data import tables
from stssl.data.sources._eurosat_files import Indices
from stssl.errors import DataError

Scheme = Literal["official", "reference", "none"]
SPLITS = ("train", "validation", "test")
NO_SPLIT = -1


class AllFiles:
    """All 27,000 files, from the table that comes with stssl, in the order of their names.

    Attributes:
        stems: [N] names without ending, sorted.
        place: [N, 2] degrees (latitude, longitude).
    """

    def __init__(self) -> None:
        table = tables.read("eurosat_27000", ["path", "lat", "lng"])
        stems = np.array([path.rpartition("/")[2].removesuffix(".jpg") for path in table["path"].to_pylist()])
        order = np.argsort(stems)  # also by class: a name begins with it, and no class is the beginning of another
        self.stems = stems[order]
        self.place = np.stack([table["lat"].to_numpy(), table["lng"].to_numpy()], 1)[order]

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """[len(ids)] row of each name, -1 = not among them."""
        near = np.searchsorted(self.stems, ids).clip(max=len(self.stems) - 1)
        return np.where(self.stems[near] == np.asarray(ids), near, -1)

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """[N] class number."""
        return np.unique([stem.rpartition("_")[0] for stem in self.stems], return_inverse=True)[1].astype(np.int64)

    def split(self, scheme: Scheme) -> NDArray[np.int8]:
        """[N] position in SPLITS, or NO_SPLIT."""
        sizes = np.bincount(self.classes)
        size = sizes[self.classes]
        rank = np.arange(len(size)) - (np.cumsum(sizes) - sizes)[self.classes]  # in its class
        later = (rank >= (0.8 * size).astype(int)).astype(np.int8)
        if scheme == "official":
            return (rank >= (0.6 * size).astype(int)).astype(np.int8) + later
        return 2 * later if scheme == "reference" else np.full(len(size), NO_SPLIT, np.int8)

    def labeled(self, indices: Indices) -> NDArray[np.int64]:
        """Rows of the labeled images of the reference project.

        Its training list is shuffled by NumPy's global generator, seeded with the run's seed, and the numbers count in the
        shuffled list. Whether that is how a file came about shows in the classes: they are exactly balanced.

        Raises:
            DataError: They are not balanced, neither in the shuffled nor in the sorted list.
        """
        train = np.flatnonzero(self.split("reference") == 0)
        tried = [train]
        if indices.seed is not None:
            order = list(range(len(train)))
            np.random.RandomState(indices.seed).shuffle(order)
            tried.insert(0, train[order])
        for rows in (files[indices.numbers] for files in tried):
            counts = np.bincount(self.classes[rows], minlength=self.classes[-1] + 1)
            if counts.min() == counts.max():
                return rows
        shuffled = f"shuffled by seed {indices.seed} or " if indices.seed is not None else ""
        hint = "" if shuffled else "; its name has no seed: expected lb_labels<N>_1_seed<S>_idx.npy"
        raise DataError(
            f"{indices.shown}: its {len(indices.numbers)} images are not the same number of each class, with the training "
            f"images {shuffled}sorted by name, so which images are meant is unknown{hint}"
        )
