"""EuroSAT: 27,000 Sentinel-2 patches (L1C, 64 x 64 at 10 m) of ten kinds of land use, as JPEG (RGB) or GeoTIFF (13 bands).

Source: Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
Classification", IEEE JSTARS 2019.

Band order. The files name no bands, so the order was read off the pixel values (103 patches): B8A comes LAST, not after
B08. Index 9 has a mean of 12 with a maximum of 70: the cirrus band B10. Index 8 is smooth like a 60 m band (mean
gradient 0.02 sigma, as index 0) and dim (mean 721): the water vapour band B09. Index 12 correlates 1.00 with index 6
(B07), has its 20 m sharpness and is the brightest over vegetation: B8A. Only indices 1, 2, 3 and 7 show 10 m detail:
B02, B03, B04 and B08. Over vegetation indices 4, 5, 6 and 12 rise in this order, as the red edge does (B05, B06, B07,
B8A), and 10 is brighter than 11 (B11, B12: water in leaves); over open water these two are the darkest but B10. The RGB
tree is B04, B03 and B02, divided by 2750, cut at 1 and times 255.

EuroSAT has no acquisition dates anywhere, so `time` is None.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from stssl.config import Config
from stssl.data.schema import DType, Sample, Task
from stssl.data.sources._eurosat_files import read_indices, read_places
from stssl.data.sources._eurosat_splits import NO_SPLIT, SPLITS, AllFiles, Scheme
from stssl.data.sources._raster import RasterSource, centre, opened
from stssl.errors import DataError, did_you_mean
from stssl.storage import Folder

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
SIZE = 64


class _Kind(NamedTuple):
    """What a tree is made of."""

    archive: str
    endings: tuple[str, ...]
    bands: tuple[str, ...]
    dtype: DType


_KINDS = (
    _Kind("EuroSAT_MS.zip", (".tif", ".tiff"), BANDS, "uint16"),
    _Kind("EuroSAT_RGB.zip", (".jpg", ".jpeg"), ("R", "G", "B"), "uint8"),
)
# As the archives unpack, and as other projects call it.
_TREES = ("EuroSAT_MS", "EuroSAT_RGB", "2750", "eurosat", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif")
_EXPECTED = (
    "expected <Class>/<Class>_<number>.tif (13 bands) or .jpg (RGB), as in EuroSAT_MS.zip and EuroSAT_RGB.zip "
    "(zenodo.org/records/7711810)"
)


class EuroSATConfig(Config):
    """Where the images lie, and what is said about them.

    Attributes:
        root: The folder of class folders, or the one that holds it.
        split: "official": of each class the first 60 % train, 20 % validate, 20 % test; "reference": the first 80 % train,
            20 % test, as in the reference project; "none". A file that is none of the 27,000 is in no split.
        metadata: A YAML file of places, `<name of an image without its ending>: [<longitude>, <latitude>, ...]`. They go
            before the images' own georeferences, and before the places of all 27,000 files that stssl knows;
            of these, each must be within a degree of what is known.
        labeled: A file `lb_..._idx.npy` of the reference project: only these training images keep their labels.
    """

    name: Literal["eurosat"] = "eurosat"
    root: str
    split: Scheme = "official"
    metadata: str | None = None
    labeled: str | None = None

    @model_validator(mode="after")
    def _labeled_of_reference(self) -> Self:
        if self.labeled is not None and self.split != "reference":
            raise ValueError(
                f"labeled: its numbers count the training images of split 'reference'; got split '{self.split}'"
            )
        return self


class EuroSAT(RasterSource):
    """The JPEG or the GeoTIFF tree of EuroSAT, or any part of it."""

    Config = EuroSATConfig
    name = "eurosat"
    task: Task = "single"
    classes = CLASSES
    licence = "MIT; contains modified Copernicus Sentinel data"
    attribution = "EuroSAT (Helber, Bischke, Dengel, Borth 2019); contains modified Copernicus Sentinel data"

    def __init__(self, config: EuroSATConfig) -> None:
        """Find the files, their places and splits.

        Raises:
            DataError: The folder is missing, empty or something else; a class folder is unknown; a name comes twice; a
                file that the settings name does not fit.
        """
        self.config = config
        root = Folder(config.root)
        try:
            self.folder, listing = _find_tree(root)
        except OSError as error:
            raise DataError(f"{root}: cannot be read: {' '.join(str(error).split())}") from None
        self._kind = _kind_of(self.folder, listing)
        self.bands = self._kind.bands
        self._remedy = f"unpack this file again from {self._kind.archive}, or remove it"
        files = _find_files(self.folder, listing, self._kind)
        self.ids, self._names = list(files), list(files.values())

        known = AllFiles()
        rows = known.find(self.ids)
        self._place = np.where((rows >= 0)[:, None], known.place[rows], math.nan)
        if config.metadata is not None:
            self._place = read_places(config.metadata, root, self.ids, self._place)
        self._split = np.where(rows >= 0, known.split(config.split)[rows], NO_SPLIT).astype(np.int8)
        self._labeled = np.ones(len(rows), bool)
        if config.labeled is not None:
            lacking = len(known.stems) - (rows >= 0).sum()
            if lacking:
                raise DataError(
                    f"{self.folder}: labeled: {lacking} of EuroSAT's {len(known.stems)} images are not here, and the numbers "
                    "in such a file count them all; complete the folder, or leave out --set labeled"
                )
            indices = read_indices(config.labeled, root, int((self._split == SPLITS.index("train")).sum()))
            self._labeled = (self._split != SPLITS.index("train")) | np.isin(rows, known.labeled(indices))

    def files(self, index: int) -> list[str]:
        """The one image."""
        return [self._names[index]]

    def stamp(self, index: int) -> str:
        """That of the image, and what other files say about it."""
        lat, lng = self._place[index]
        return f"{super().stamp(index)}\t{lat}\t{lng}\t{self._split[index]}\t{self._labeled[index]}"

    def read(self, index: int) -> Sample:
        """Read a patch."""
        name, expected = self._names[index], (len(self.bands), SIZE, SIZE)
        shown = self.folder.show(name)
        with opened(self.folder, name, self._remedy) as file:
            shape, dtype = (file.count, file.height, file.width), set(file.dtypes)
            if shape != expected:
                raise DataError(
                    f"{shown}: {shape[0]} bands of {shape[1]} x {shape[2]} pixels; "
                    f"expected {expected[0]} of {SIZE} x {SIZE}; {self._remedy}"
                )
            if dtype != {self._kind.dtype}:
                found = ", ".join(sorted(dtype))
                raise DataError(f"{shown}: pixels are {found}; expected {self._kind.dtype}; {self._remedy}")
            image = file.read()
            lat, lng = centre(file, shown, self._remedy) if self.config.metadata is None else (None, None)
        if lat is None and not np.isnan(self._place[index]).any():
            lat, lng = map(float, self._place[index])
        labels = (name.partition("/")[0],) if self._labeled[index] else None
        split = SPLITS[self._split[index]] if self._split[index] != NO_SPLIT else None
        return Sample(self.ids[index], image, labels, lat, lng, None, split)


def _find_tree(root: Folder) -> tuple[Folder, dict[str, list[str]]]:
    """The folder of class folders at or below `root`, and what its folders hold, by their names."""
    if not root.exists():
        what = "this is a file, not a folder" if root.path and root.path.exists() else "no such folder"
        raise DataError(f"{root}: {what}; {_EXPECTED}")
    if listing := _listing(root):
        return root, listing
    found = [(tree, listing) for tree in (root / name for name in _TREES) if (listing := _listing(tree))]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root}: holds several EuroSAT trees; name one: {', '.join(str(tree) for tree, _ in found)}")
    entries = [entry.name + "/" * entry.is_folder for entry in root.entries()]
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    raise DataError(
        f"{root}: this is no EuroSAT folder; {_EXPECTED}; found {', '.join(entries[:5]) or 'nothing'}{more}"
    )


def _listing(tree: Folder) -> dict[str, list[str]]:
    """Names in each folder of a tree, sorted; empty if no class folder has an image."""
    folders = [entry.name for entry in tree.entries() if entry.is_folder and not entry.name.startswith((".", "__"))]
    listing = {name: (tree / name).names() if name in CLASSES else [] for name in folders}
    return listing if any(_ending(name) for names in listing.values() for name in names) else {}


def _ending(path: str) -> str:
    """The ending of an image in lower case; empty for anything else."""
    stem, dot, ending = path.rpartition("/")[2].rpartition(".")
    ending = dot + ending.lower()
    return ending if stem and stem[0] != "." and any(ending in kind.endings for kind in _KINDS) else ""


def _kind_of(tree: Folder, listing: dict[str, list[str]]) -> _Kind:
    paths = [f"{folder}/{name}" for folder, names in listing.items() for name in names]
    first = {kind: next((path for path in paths if _ending(path) in kind.endings), None) for kind in _KINDS}
    found = [kind for kind in _KINDS if first[kind]]
    if len(found) > 1:
        both = " and ".join(str(first[kind]) for kind in found)
        raise DataError(f"{tree}: holds both GeoTIFF and JPEG ({both}); keep one kind, or part them")
    return found[0]


def _find_files(tree: Folder, listing: dict[str, list[str]], kind: _Kind) -> dict[str, str]:
    """Stem to name in the tree of all patches, sorted by stem."""
    files: dict[str, str] = {}
    for folder, names in sorted(listing.items()):
        if folder not in CLASSES:
            raise DataError(
                f"{tree.show(folder)}: no class of EuroSAT; {did_you_mean(folder, CLASSES)}; rename or remove it"
            )
        for name in names:
            if _ending(name) not in kind.endings:
                continue
            stem, path = name.rpartition(".")[0], f"{folder}/{name}"
            prefix = stem.rpartition("_")[0]
            if prefix in CLASSES and prefix != folder:
                raise DataError(
                    f"{tree.show(path)}: named like class {prefix}, but lies in {folder}/; move or remove it"
                )
            if stem in files:
                raise DataError(
                    f"{tree.show(path)}: has the same name as {tree.show(files[stem])}; remove one of the two"
                )
            files[stem] = path
    return dict(sorted(files.items()))
