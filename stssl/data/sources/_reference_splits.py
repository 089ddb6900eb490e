"""The split files of the reference project: which BigEarthNet patches it trains on, and which of them with labels.

`train.pkl`, `val.pkl` and `test.pkl` are pickled pandas tables with a patch in each row: its name, its labels as a vector
of zeros and ones in the order of the classes, and what the images' own metadata say. `train0.01_lb_43.pkl` (also written
`train_0.01_lb_43.pkl`) holds the rows of the training split that keep their labels, chosen by the 43 classes; its sister
with `_ulb_` the others.
"""

from __future__ import annotations

import os
import re
import reprlib
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stssl.data.sources._reference_pickle import read_columns
from stssl.errors import DataError
from stssl.storage import Folder, is_uri

_FILES = ("train.pkl", "val.pkl", "test.pkl")  # in the order of _bigearthnet.SPLITS


class Splits(NamedTuple):
    """What the files say of each patch.

    Attributes:
        folder: Where they lie.
        ids: Names of the patches, sorted.
        split: 0 = train, 1 = validation, 2 = test.
        labeled: Whether the patch keeps its labels.
        bits: Its labels: bit k stands for class k.
    """

    folder: Folder
    ids: pa.Array
    split: NDArray[np.int8]
    labeled: NDArray[np.bool_]
    bits: NDArray[np.uint64]

    def file(self, index: int) -> str:
        """The file that a patch stands in, for a message."""
        return self.folder.show(_FILES[self.split[index]])


def read_splits(place: str, root: Folder, fraction: float | None, classes: int) -> Splits:
    """Read the split files.

    Args:
        place: Their folder, seen from `root` or, if it is not there, from the working directory.
        root: Of the images.
        fraction: Of the training patches that keep their labels; None = all do.
        classes: How many: 43 or 19.

    Raises:
        DataError: A file is missing, damaged, holds something else, or contradicts another one.
    """
    folder = _find(place, root)
    found: dict[str, tuple[int, int]] = {}
    for code, name in enumerate(_FILES):
        for patch, bits in _read(folder, name, classes).items():
            if patch in found:
                other = _FILES[found[patch][0]]
                raise DataError(f"{folder.show(name)}: '{patch}' stands in {other} too; a patch has one split")
            found[patch] = code, bits
    ids = sorted(found)
    split = np.array([found[patch][0] for patch in ids], np.int8)
    labeled = np.ones(len(ids), bool)
    if fraction is not None:
        train = {patch: bits for patch, (code, bits) in found.items() if code == 0}
        keep = _labeled(folder, fraction, classes, train)
        labeled = (split != 0) | np.array([patch in keep for patch in ids], bool)
    return Splits(folder, pa.array(ids, pa.string()), split, labeled, np.array([found[p][1] for p in ids], np.uint64))


def _find(place: str, root: Folder) -> Folder:
    far = Folder(place)
    near = far if is_uri(place) or os.path.isabs(os.path.expanduser(place)) else root.locate(f"{place}/{_FILES[0]}")[0]
    for folder in (near, far):
        if folder.exists():
            return folder
    raise DataError(f"splits: no folder {near}" + (f" and no folder {far}" if near is not far else ""))


def _read(folder: Folder, name: str, classes: int) -> dict[str, int]:
    """Patch to labels, as bits, of one file."""
    column, shown = f"multi_hot_labels{classes}", folder.show(name)
    table = read_columns(folder, name, ["patch", column])
    patches, vectors = table["patch"], table[column]
    seen: set[str] = set()
    for row, (patch, vector) in enumerate(zip(patches, vectors, strict=True)):
        is_name = isinstance(patch, str) and patch.isascii()
        if not is_name or patch in seen:
            why = "stands here twice" if is_name else "expected the name of a patch"
            raise DataError(f"{shown}: row {row}: {_brief(patch)}: {why}")
        seen.add(patch)
        if not _is_vector(vector, classes):
            raise _no_vector(shown, row, patch, column, classes, vector)
    matrix = np.array(vectors, float) if vectors else np.empty((0, classes))
    for row in np.flatnonzero(~np.isin(matrix, (0, 1)).all(1)).tolist():
        raise _no_vector(shown, row, patches[row], column, classes, vectors[row])
    bits = (matrix == 1).astype(np.uint64) @ (np.uint64(1) << np.arange(classes, dtype=np.uint64))
    return dict(zip(patches, bits.tolist(), strict=True))


def _is_vector(value: Any, length: int) -> bool:
    """Whether it is that many numbers in a row; lists are looked at without NumPy, which fails on ragged ones."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.shape == (length,)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple) or len(value) != length:
        return False
    return {*map(type, value)} <= {bool, int, float} and all(number in (0, 1) for number in value)


def _no_vector(shown: str, row: int, patch: str, column: str, classes: int, found: Any) -> DataError:
    return DataError(f"{shown}: row {row} ('{patch}'): {column} is {_brief(found)}; expected {classes} zeros and ones")


def _brief(value: Any) -> str:
    """A value of any kind for a message; it may be deep, endless, or a number too long to write out."""
    if isinstance(value, str):
        return repr(value)
    try:
        return " ".join(reprlib.repr(value.tolist() if isinstance(value, np.ndarray) else value).split())[:60]
    except (TypeError, ValueError):
        return f"of type {type(value).__name__}"


def _labeled(folder: Folder, fraction: float, classes: int, train: dict[str, int]) -> set[str]:
    """Patches of the training split that keep their labels."""
    parts: dict[str, set[str]] = {"lb": set(), "ulb": set()}
    known = []
    for name in folder.names():
        match = re.fullmatch(r"train_?(\d*\.?\d+)_(u?lb)_(\d+)\.pkl", name, re.ASCII)
        if not match:
            continue
        known.append(name)
        if (float(match[1]), int(match[3])) != (fraction, classes):
            continue
        rows = _read(folder, name, classes)
        for patch, bits in rows.items():
            if train.get(patch) != bits:
                why = "has other labels than" if patch in train else "is not in"
                raise DataError(f"{folder.show(name)}: '{patch}' {why} train.pkl; these files do not belong together")
        parts[match[2]].update(rows)
    if not parts["lb"]:
        raise DataError(
            f"{folder}: labeled_fraction: no file train{fraction:g}_lb_{classes}.pkl with a row; "
            f"found {', '.join(known) or 'no such files'}"
        )
    return parts["lb"]
