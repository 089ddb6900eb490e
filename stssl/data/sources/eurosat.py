"""EuroSAT: 27,000 georeferenced Sentinel-2 patches (L1C, 13 bands, 64 x 64 at 10 m) of ten kinds of land use.

Source: Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
Classification", IEEE JSTARS 2019.

Band order. The files name no bands, so the order was read off the pixel values (103 patches): B8A comes LAST, not after
B08. Index 9 has a mean of 12 with a maximum of 70: the cirrus band B10. Index 8 is smooth like a 60 m band (mean
gradient 0.02 sigma, as index 0) and dim (mean 721): the water vapour band B09. Index 12 correlates 1.00 with index 6
(B07), has its 20 m sharpness and is the brightest over vegetation: B8A. Only indices 1, 2, 3 and 7 show 10 m detail:
B02, B03, B04 and B08.

EuroSAT has no acquisition dates anywhere, so `time` is None.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform

from stssl.config import Config
from stssl.data.schema import Sample, Task
from stssl.data.sources.base import Source, sign
from stssl.errors import DataError, did_you_mean

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

_TREES = ("EuroSAT_MS", "2750", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif")  # as the archives unpack
_EXPECTED = "expected <Class>/<Class>_<number>.tif, 13-band GeoTIFF, as in EuroSAT_MS.zip (zenodo.org/records/7711810)"
_REMEDY = "unpack this file again from EuroSAT_MS.zip, or remove it"


class EuroSATConfig(Config):
    """Where the 13-band GeoTIFF tree lies: the folder of class folders, or the one that holds it."""

    name: Literal["eurosat"] = "eurosat"
    root: Path


class EuroSAT(Source):
    """The 13-band GeoTIFF tree of EuroSAT, or any part of it."""

    Config = EuroSATConfig
    name = "eurosat"
    task: Task = "single"
    classes = CLASSES
    bands = BANDS
    licence = "MIT; contains modified Copernicus Sentinel data"
    attribution = "EuroSAT (Helber, Bischke, Dengel, Borth 2019); contains modified Copernicus Sentinel data"

    def __init__(self, config: EuroSATConfig) -> None:
        """Find the files.

        Raises:
            DataError: The folder is missing, empty or something else; a class folder is unknown; a name comes twice.
        """
        self.root = config.root.expanduser()
        try:
            self.folder = _find_tree(self.root)
            self.files = _find_files(self.folder)
        except OSError as error:
            raise DataError(f"{self.root}: cannot be read: {error}") from None

    def signature(self) -> str:
        """A hash that changes when the files do."""
        return sign(self.name, self.folder, self.files.values())

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.files)

    def samples(self) -> Iterator[Sample]:
        """Read all patches, sorted by id (the file's stem).

        Raises:
            DataError: A file is damaged or no EuroSAT patch.
        """
        for stem, path in self.files.items():
            with _quiet():  # entered for each file: a generator must not change global state while it is suspended
                sample = _read(stem, path)
            yield sample


def _find_tree(root: Path) -> Path:
    """The folder of class folders at or below `root`."""
    if not root.is_dir():
        what = "this is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(f"{root}: {what}; {_EXPECTED}")
    candidates = [tree for tree in (root, *(root / name for name in _TREES)) if _holds(tree, (".tif", ".tiff"))]
    if len(candidates) == 1 or candidates[:1] == [root]:
        return candidates[0]
    if candidates:
        raise DataError(f"{root}: holds several EuroSAT trees; name one of them: {', '.join(map(str, candidates))}")
    for tree in (root, *(root / name for name in (*_TREES, "EuroSAT_RGB"))):
        if _holds(tree, (".jpg", ".jpeg")):
            raise DataError(f"{tree}: this is the RGB tree of EuroSAT; only GeoTIFF is read, not JPEG; {_EXPECTED}")
    found = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    listing = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") if found else "nothing"
    raise DataError(f"{root}: this is no EuroSAT folder; {_EXPECTED}; found {listing}")


def _holds(tree: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether any EuroSAT class folder of `tree` has a file with such a suffix."""
    folders = [tree / name for name in CLASSES if (tree / name).is_dir()]
    return any(name.lower().endswith(suffixes) for folder in folders for name in os.listdir(folder))


def _find_files(tree: Path) -> dict[str, Path]:
    """Stem to path of all patches, sorted by stem."""
    files: dict[str, Path] = {}
    for folder in sorted(tree.iterdir()):
        if not folder.is_dir() or folder.name.startswith((".", "__")):
            continue
        if folder.name not in CLASSES:
            raise DataError(f"{folder}: no class of EuroSAT; {did_you_mean(folder.name, CLASSES)}; rename or remove it")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in (".tif", ".tiff") or path.name.startswith("."):
                continue
            prefix = path.stem.rpartition("_")[0]
            if prefix in CLASSES and prefix != folder.name:
                raise DataError(f"{path}: named like class {prefix}, but lies in {folder.name}/; move or remove it")
            if path.stem in files:
                raise DataError(f"{path}: has the same name as {files[path.stem]}; remove one of the two")
            files[path.stem] = path
    return dict(sorted(files.items()))


def _read(stem: str, path: Path) -> Sample:
    """Read one patch."""
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; {_REMEDY}")
        with rasterio.open(path, driver="GTiff") as file:
            shape, dtype = (file.count, file.height, file.width), set(file.dtypes)
            if shape != (len(BANDS), SIZE, SIZE):
                raise DataError(
                    f"{path}: {shape[0]} bands of {shape[1]} x {shape[2]} pixels; "
                    f"expected {len(BANDS)} of {SIZE} x {SIZE}; {_REMEDY}"
                )
            if dtype != {"uint16"}:
                raise DataError(f"{path}: pixels are {', '.join(sorted(dtype))}; expected uint16; {_REMEDY}")
            image = file.read()
            lat, lng = _centre(file, path)
    except (OSError, RasterioError) as error:
        raise DataError(f"{path}: damaged or no GeoTIFF ({error.__cause__ or error}); {_REMEDY}") from None
    return Sample(stem, image, (path.parent.name,), lat, lng, None, None)


def _centre(file: rasterio.DatasetReader, path: Path) -> tuple[float | None, float | None]:
    """(latitude, longitude) in degrees of a patch's centre, or (None, None) without a georeference."""
    if file.crs is None or file.transform.is_identity:
        return None, None
    to, column, row = file.transform, file.width / 2, file.height / 2
    x, y = to.a * column + to.b * row + to.c, to.d * column + to.e * row + to.f
    (lng,), (lat,) = transform(file.crs, "EPSG:4326", [x], [y])
    if not (-90 <= lat <= 90 and -180 <= lng <= 180):
        raise DataError(f"{path}: its georeference leads to latitude {lat}, longitude {lng}; {_REMEDY}")
    return lat, lng


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep GDAL's own words off stderr: what they report becomes a DataError."""
    log = logging.getLogger("rasterio")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    finally:
        log.setLevel(level)
