"""BigEarthNet 1.0: 590,326 Sentinel-2 patches (L2A, 12 bands, 1200 m x 1200 m) of ten countries, June 2017 to May 2018.

Source: Sumbul et al., "BigEarthNet: A Large-Scale Benchmark Archive for Remote Sensing Image Understanding", IGARSS
2019. Each patch is a folder `<patch>/` of `<patch>_<band>.tif` and `<patch>_labels_metadata.json`. Labels, place (the
centre of the corners in UTM) and date are read from the JSON; the place must be near that of the table in stssl, the
date near that of the folder's name. The official split and the patches to leave out come from that table, by name; a
patch that is not in it is kept, without a split.

Order of the classes: see `_bigearthnet`.

The tree of the reference project (`bigearthnet/<patch>/`, `splits/bigearthnet/*.pkl`) works as it is with `splits`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import model_validator
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from stssl.data import tables
from stssl.data.schema import Sample, Task
from stssl.data.sources import _bigearthnet as ben
from stssl.data.sources._raster import RasterSource, quiet
from stssl.data.sources._reference_splits import Splits, read_splits
from stssl.errors import DataError, did_you_mean, short_repr
from stssl.storage import Folder

CLASSES = {43: ben.CLASSES_43, 19: ben.CLASSES_19}

_TABLE = "bigearthnet_v1_590326"
_TREES = ("BigEarthNet-v1.0", "bigearthnet", "data/bigearthnet")  # as the archive unpacks; the reference project's
_PATCH = r"^S2[AB]_MSIL2A_[0-9]{8}T[0-9]{5,6}_[0-9]+_[0-9]+$"
_EXPECTED = "expected folders such as S2A_MSIL2A_20170613T101031_87_48/, as in BigEarthNet-S2-v1.0.tar.gz"
_REMEDY = "unpack this patch again from BigEarthNet-S2-v1.0.tar.gz, or remove its folder"
_COUNT = 590_326
_FAR = 1e8  # metres: no projected coordinate is beyond
_DEGREES_OFF, _DAYS_OFF = 1, 2  # how far a JSON may be from what is known of the patch otherwise
_NO_SPLIT = -1


class BigEarthNetV1Config(ben.BigEarthNetConfig):
    """The settings; `root` is the folder of patch folders, or one that holds `BigEarthNet-v1.0/` or `bigearthnet/`.

    Attributes:
        classes: 43 CORINE classes, or the 19 into which most of them are merged.
        drop_unlabeled_19: Leave out patches without any of the 19 classes; None = if `classes` is 19.
        splits: A folder with the reference project's `train.pkl`, `val.pkl` and `test.pkl`, seen from `root` or, if
            it is not there, from where stssl runs. Then the patches are exactly the rows of these files, whatever
            `split` and the filters say.
        labeled_fraction: Which of the reference project's labeled subsets, such as 0.01 for
            `train0.01_lb_43.pkl`; the other patches of the training split lose their labels.
    """

    name: Literal["bigearthnet_v1"] = "bigearthnet_v1"
    classes: Literal[43, 19] = 43
    drop_unlabeled_19: bool | None = None
    splits: str | None = None
    labeled_fraction: float | None = None

    @model_validator(mode="after")
    def _fraction_of_splits(self) -> Self:
        if self.labeled_fraction is not None and self.splits is None:
            raise ValueError("labeled_fraction needs the folder of split files: set splits")
        return self


class BigEarthNetV1(RasterSource):
    """The folders of BigEarthNet 1.0, or any part of them."""

    Config = BigEarthNetV1Config
    name = "bigearthnet_v1"
    task: Task = "multi"
    licence = ben.LICENCE
    attribution = "BigEarthNet (Sumbul, Charfuelan, Demir, Markl 2019); contains modified Copernicus Sentinel data"

    def __init__(self, config: BigEarthNetV1Config) -> None:
        """List the folders; no file of a patch is looked into.

        Raises:
            DataError: There is no such folder, or it is something else; a folder in it is no patch; nothing is left;
                split files are missing, damaged, contradict each other or name patches that are not there.
        """
        self.config = config
        self.classes, self.bands = CLASSES[config.classes], config.bands
        root = Folder(config.root)
        try:
            self.folder, ids = _find(root)
            ben.check_dates(ids, str(self.folder))
            self._splits: Splits | None = None
            if config.splits is None:
                known = _known_places(ids)
                if gone := _COUNT - int(np.isfinite(known[:, 0]).sum()):
                    self.notes = (f"{gone:,} of the {_COUNT:,} patches of BigEarthNet 1.0 are not there",)
                keep, self._split = look_up(ids, config)
                ids, self._known = ids.filter(pa.array(keep)), known[keep]
            else:
                self._splits = read_splits(config.splits, root, config.labeled_fraction, config.classes)
                _check_there(self._splits, ids, self.folder)
                ids, self._split = self._splits.ids, self._splits.split
                self._known = _known_places(ids)
        except OSError as error:
            raise DataError(f"{root}: cannot be read: {error}") from None
        if not len(ids):
            raise DataError(
                f"{self.folder}: every patch is left out as cloud, shadow, snow or without label; see drop_*"
            )
        self.ids = ids.to_pylist()

    def files(self, index: int) -> list[str]:
        """Its JSON and the bands that are read."""
        start = f"{self.ids[index]}/{self.ids[index]}"
        return [f"{start}_labels_metadata.json", *(f"{start}_{band}.tif" for band in self.bands)]

    def stamp(self, index: int) -> str:
        """That of the files, and what the split files say."""
        stamp = super().stamp(index)
        return f"{stamp}\t{self._split[index]}\t{self._splits.labeled[index]}" if self._splits else stamp

    def read(self, index: int) -> Sample:
        """Read a patch."""
        patch, split = self.ids[index], self._split[index]
        with quiet():
            labels, lat, lng, time = self._metadata(index)
            image, _ = ben.read_bands(self.folder, f"{patch}/{patch}", self.config, _REMEDY)
        if self._splits and not self._splits.labeled[index]:
            labels = None
        return Sample(patch, image, labels, lat, lng, time, None if split == _NO_SPLIT else ben.SPLITS[split])

    def _metadata(self, index: int) -> tuple[tuple[str, ...] | None, float, float, float]:
        """Labels, latitude, longitude and time of a patch, from its JSON."""
        name = self.files(index)[0]
        shown = self.folder.show(name)
        try:
            data = json.loads(self.folder.read(name))
        except FileNotFoundError:
            raise DataError(f"{shown}: no such file; {_REMEDY}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{shown}: damaged or no JSON ({error}); {_REMEDY}") from None
        try:
            if not isinstance(data, dict):
                raise ValueError("expected a mapping")
            labels = _labels(data, self.config.classes)
            place, time = _place(data, self._known[index]), _time(data, self.ids[index])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{shown}: {error}; {_REMEDY}") from None
        self._compare(index, labels, shown)
        return labels, *place, time

    def _compare(self, index: int, labels: tuple[str, ...], shown: str) -> None:
        """Labels of the JSON and of the split file must agree."""
        if self._splits and ben.to_bits(labels, self.classes) != (bits := int(self._splits.bits[index])):
            said = list(ben.from_bits(bits, self.classes))
            raise DataError(
                f"{shown}: 'labels' are {list(labels)}, but {self._splits.file(index)} has {said}; one of the two is "
                "wrong: unpack this patch again from BigEarthNet-S2-v1.0.tar.gz, or copy the split file again from where "
                "the splits were made"
            )


def look_up(ids: pa.Array, config: BigEarthNetV1Config) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
    """Which patches to keep, and the split of those: its index in `SPLITS`, -1 = none."""
    flags = {"cloud_or_shadow": config.drop_cloud_or_shadow, "seasonal_snow": config.drop_seasonal_snow}
    drop_19 = config.drop_unlabeled_19
    flags["no_19_class_label"] = config.classes == 19 if drop_19 is None else drop_19
    table, row = _rows(ids, ["patch_id", "split", *flags])
    keep = np.ones(len(ids), bool)
    for flag in (name for name, drop in flags.items() if drop):
        keep &= ~pc.fill_null(table[flag].combine_chunks().take(row), False).to_numpy(zero_copy_only=False)
    if config.split == "none":
        return keep, np.full(keep.sum(), _NO_SPLIT, np.int8)
    split = table["split"].combine_chunks().dictionary_decode().take(row.filter(pa.array(keep)))
    code = pc.index_in(split, pa.array(["train", "val", "test"]))
    return keep, pc.fill_null(code, _NO_SPLIT).to_numpy(zero_copy_only=False).astype(np.int8)


def _rows(ids: pa.Array, columns: list[str]) -> tuple[pa.Table, pa.Array]:
    """The rows of the table in stssl that are of these patches; for each patch which one, null = none."""
    table, ids = tables.read(_TABLE, columns), ids.cast(pa.large_string())
    table = table.filter(pc.is_in(table["patch_id"], ids)).combine_chunks()  # a few patches are found much faster so
    return table, pc.index_in(ids, table["patch_id"].combine_chunks())


def _known_places(ids: pa.Array) -> NDArray[np.float32]:
    """(latitude, longitude) of each patch by the table in stssl, [N, 2]; NaN if it is not in there."""
    table, row = _rows(ids, ["patch_id", "lat", "lng"])
    columns = (table[name].combine_chunks().take(row) for name in ("lat", "lng"))
    return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], 1).astype(np.float32)


def _find(root: Folder) -> tuple[Folder, pa.Array]:
    """The folder of patch folders at or below `root`, and the names of these, sorted."""
    found: dict[Folder, tuple[list[str], pa.Array]] = {}
    for tree in (root, *(root / name for name in _TREES)):
        names = _names(tree)
        is_patch = pc.match_substring_regex(pa.array(names, pa.string()), _PATCH)
        if pc.any(is_patch).as_py():
            found[tree] = names, is_patch
            if tree is root:
                break
    if not found:
        listing = ", ".join(_names(root)[:5]) or "nothing"
        what = "this is no BigEarthNet 1.0 folder" if root.exists() else "no such folder (or a file, not a folder)"
        raise DataError(f"{root}: {what}; {_EXPECTED}; found {listing}")
    if len(found) > 1:
        raise DataError(f"{root}: holds several BigEarthNet trees; name one of them: {', '.join(map(str, found))}")
    ((tree, (names, is_patch)),) = found.items()
    everything = pa.array(names, pa.string())
    for name in everything.filter(pc.invert(is_patch)).to_pylist():
        if not name.startswith((".", "__")) and (tree / name).exists():
            raise DataError(f"{tree.show(name)}: no patch by its name; {_EXPECTED}; rename or remove it")
    return tree, everything.filter(is_patch)


def _check_there(splits: Splits, ids: pa.Array, folder: Folder) -> None:
    """Every patch of the split files must have a folder."""
    gone = np.flatnonzero(~pc.is_in(splits.ids, ids).to_numpy(zero_copy_only=False))
    if len(gone):
        raise DataError(
            f"{splits.file(gone[0])}: '{splits.ids[gone[0]]}' has no folder in {folder} ({len(gone)} of "
            f"{len(splits.ids)} patches have none); unpack the archive again, or leave out 'splits'"
        )


def _names(folder: Folder) -> list[str]:
    """What is in it; names that no patch can have, and that may be no Unicode, are left out."""
    try:
        return [name for name in folder.names() if name.isascii()]
    except NotADirectoryError:
        return []


def _labels(metadata: dict[str, Any], classes: int) -> tuple[str, ...]:
    """Labels in the order of the classes; () if none of the 19 is among them."""
    labels = metadata.get("labels")
    if not isinstance(labels, list) or not labels or len(set(map(str, labels))) < len(labels):
        raise ValueError(f"'labels' is {short_repr(labels)}; expected a list of class names, each once")
    for label in labels:
        if label not in ben.CLASSES_43:
            raise ValueError(f"unknown class {short_repr(label)}; {did_you_mean(str(label), ben.CLASSES_43)}")
    names = set(labels) if classes == 43 else {ben.MERGED.get(label) for label in labels}
    return tuple(name for name in CLASSES[classes] if name in names)


def _time(metadata: dict[str, Any], patch: str) -> float:
    """Days since 1970-01-01 UTC; from the patch's name if the JSON has no date."""
    given, named = metadata.get("acquisition_date"), ben.days_of(patch)
    if given is None:
        return named
    parts = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d?):(\d\d):(\d\d)", str(given), re.ASCII)
    try:
        time = ben.days("".join(parts.groups()[:3]), "".join(parts.groups()[3:])) if parts else None
    except ValueError:
        time = None
    if time is None:
        raise ValueError(f"'acquisition_date' is {short_repr(given)}, which is no date and time (YYYY-MM-DD HH:MM:SS)")
    if abs(time - named) > _DAYS_OFF:
        raise ValueError(f"'acquisition_date' is {short_repr(given)}, but the patch's name says {patch.split('_')[2]}")
    return time


def _place(metadata: dict[str, Any], known: NDArray[np.float32]) -> tuple[float, float]:
    """(latitude, longitude) in degrees (WGS 84) of the centre, which must be near the one that is known, if one is."""
    corners, projection = metadata.get("coordinates"), metadata.get("projection")
    if not isinstance(corners, dict) or not isinstance(projection, str):
        raise ValueError("the keys 'coordinates' (a mapping) and 'projection' (a text) are required")
    numbers: list[Any] = [corners.get(key) for key in ("ulx", "uly", "lrx", "lry")]
    if not all(isinstance(number, int | float) and abs(number) < _FAR for number in numbers):
        raise ValueError(f"'coordinates' is {short_repr(corners)}; expected numbers for ulx, uly, lrx, lry, in metres")
    left, top, right, bottom = numbers
    if (right - left, top - bottom) != (1200, 1200):
        raise ValueError(f"'coordinates' is {short_repr(corners)}; a patch is 1200 m wide and high")
    try:
        (lng,), (lat,) = transform(CRS.from_wkt(projection), "EPSG:4326", [(left + right) / 2], [(top + bottom) / 2])
    except (CRSError, CPLE_BaseError) as error:
        raise ValueError(f"'projection' is damaged ({' '.join(str(error).split())})") from None
    if not (-90 <= lat <= 90 and -180 <= lng <= 180):
        raise ValueError(f"'coordinates' lead to latitude {lat}, longitude {lng}")
    if (np.abs(known - (lat, lng)) > _DEGREES_OFF).any():
        raise ValueError(
            f"'coordinates' and 'projection' lead to latitude {lat:.2f}, longitude {lng:.2f}, but the table in stssl has "
            f"{known[0]:.2f}, {known[1]:.2f}; are x and y swapped, or is the UTM zone wrong?"
        )
    return lat, lng
