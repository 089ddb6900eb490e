"""BigEarthNet 2.0 (reBEN): 549,488 Sentinel-2 patches (L2A, 12 bands, 1200 m x 1200 m), made anew from the tiles of 1.0.

Source: Clasen et al., "reBEN: Refined BigEarthNet Dataset for Remote Sensing Image Analysis", IGARSS 2025.
`metadata.parquet` has the labels (19 classes) and splits of 480,038 patches; those under cloud, shadow or snow stand in
`metadata_for_patches_with_snow_cloud_or_shadow.parquet`. The place is that of the first band's georeference, the date
that of the patch's name.

Order of the classes: see `_bigearthnet`.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stssl.data.schema import Sample, Task
from stssl.data.sources import _bigearthnet as ben
from stssl.data.sources._raster import RasterSource, quiet
from stssl.errors import DataError, did_you_mean, short_repr
from stssl.storage import Folder

_IMAGES = "BigEarthNet-S2"
_TABLE = "metadata.parquet"
_MORE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
_NO_SPLIT = -1
_PATCH = r"^S2[AB]_MSIL2A_[0-9]{8}T[0-9]{6}_N[0-9]{4}_R[0-9]{3}_T[0-9A-Z]{5}_[0-9]+_[0-9]+$"
_COLUMNS = {
    "patch_id": pa.string(),
    "labels": pa.list_(pa.string()),
    "split": pa.string(),
    "contains_seasonal_snow": pa.bool_(),
    "contains_cloud_or_shadow": pa.bool_(),
}
_EXPECTED = f"expected {_TABLE} beside {_IMAGES}/<tile>/<patch>/, as from zenodo.org/records/10891137"
_REMEDY = "unpack this patch again from BigEarthNet-S2.tar.zst, or remove its folder"


class BigEarthNetV2Config(ben.BigEarthNetConfig):
    """The settings; `root` is the folder of `metadata.parquet` and `BigEarthNet-S2/`."""

    name: Literal["bigearthnet_v2"] = "bigearthnet_v2"


class BigEarthNetV2(RasterSource):
    """The patches of BigEarthNet 2.0, or any part of them: those that are in the table and on the disk."""

    Config = BigEarthNetV2Config
    name = "bigearthnet_v2"
    task: Task = "multi"
    classes = ben.CLASSES_19
    licence = ben.LICENCE
    attribution = (
        "reBEN (Clasen, Hackel, Burgert, Sumbul, Demir, Markl 2024), BigEarthNet (Sumbul, Charfuelan, Demir, Markl 2019); "
        "contains modified Copernicus Sentinel data"
    )

    def __init__(self, config: BigEarthNetV2Config) -> None:
        """Read the tables and list the folders; no image is looked into.

        Raises:
            DataError: A table is missing, damaged, or not that of BigEarthNet 2.0; no patch of it is on the disk.
        """
        self.config, self.bands = config, config.bands
        self.folder = Folder(config.root)
        try:
            tables = [_read_table(self.folder, _TABLE)]
            if not (config.drop_cloud_or_shadow and config.drop_seasonal_snow):
                tables.append(_read_table(self.folder, _MORE))
            _check_apart(self.folder, *(table["patch_id"].combine_chunks() for table in tables))
            table = pa.concat_tables(tables).combine_chunks()
            for drop, column in (
                (config.drop_cloud_or_shadow, "contains_cloud_or_shadow"),
                (config.drop_seasonal_snow, "contains_seasonal_snow"),
            ):
                table = table.filter(pc.invert(table[column])) if drop else table
            rows = len(table)
            table = table.filter(_on_disk(table["patch_id"].combine_chunks(), self.folder)).sort_by("patch_id")
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be read: {error}") from None
        if not len(table):
            raise DataError(f"{self.folder}: no patch of {_TABLE} is in {_IMAGES}/ (after drop_*); {_EXPECTED}")
        if gone := rows - len(table):
            files = " and ".join((_TABLE, _MORE)[: len(tables)])
            self.notes = (f"{gone:,} of {rows:,} rows of {files} (after drop_*) have no folder and are left out",)
        self.ids = table["patch_id"].to_pylist()
        self._bits = _bits(table["labels"].combine_chunks())
        split = pc.index_in(table["split"].combine_chunks(), pa.array(ben.SPLITS))
        self._split = pc.fill_null(split, _NO_SPLIT).to_numpy(zero_copy_only=False).astype(np.int8)

    def files(self, index: int) -> list[str]:
        """The bands that are read."""
        start = self._start(index)
        return [f"{start}_{band}.tif" for band in self.bands]

    def stamp(self, index: int) -> str:
        """That of the files, and what the table says."""
        return f"{super().stamp(index)}\t{self._split[index]}\t{self._bits[index]}"

    def read(self, index: int) -> Sample:
        """Read a patch."""
        with quiet():
            image, (lat, lng) = ben.read_bands(self.folder, self._start(index), self.config, _REMEDY, locate=True)
        patch, code = self.ids[index], self._split[index]
        split = None if self.config.split == "none" or code == _NO_SPLIT else ben.SPLITS[code]
        labels = ben.from_bits(int(self._bits[index]), self.classes)
        return Sample(patch, image, labels, lat, lng, ben.days_of(patch), split)

    def _start(self, index: int) -> str:
        patch = self.ids[index]
        return f"{_IMAGES}/{patch.rsplit('_', 2)[0]}/{patch}/{patch}"


def _read_table(folder: Folder, name: str) -> pa.Table:
    """The columns that are needed, checked.

    Raises:
        DataError: The file is missing, damaged, lacks a column, or has an unknown label, split or name.
    """
    shown = folder.show(name)
    try:
        file = pq.ParquetFile(io.BytesIO(folder.read(name)))
        for column in _COLUMNS:
            if column not in file.schema_arrow.names:
                raise DataError(f"{shown}: no column '{column}'; {did_you_mean(column, file.schema_arrow.names)}")
        table = file.read(list(_COLUMNS)).select(list(_COLUMNS)).cast(pa.schema(_COLUMNS))
        table.validate(full=True)  # also that texts are UTF-8, which Parquet itself does not see to
    except FileNotFoundError:
        what = "no such file" if folder.exists() else "no such folder"
        remedy = "or set drop_cloud_or_shadow and drop_seasonal_snow to true" if name == _MORE else _EXPECTED
        raise DataError(f"{shown}: {what}; {remedy}") from None
    except NotADirectoryError:
        raise DataError(f"{folder}: a file, not a folder; set root to the folder that holds {_TABLE}") from None
    except (pa.ArrowException, OSError, LookupError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{shown}: damaged or no table of BigEarthNet 2.0 ({reason}); download it again") from None
    for column, values, known in (
        ("labels", pc.list_flatten(table["labels"]), ben.CLASSES_19),
        ("split", table["split"].drop_null(), ben.SPLITS),
    ):
        for value in pc.unique(values).to_pylist():
            if value not in known:
                raise DataError(
                    f"{shown}: {column}: unknown value {short_repr(value)}; {did_you_mean(str(value), known)}"
                )
    few = pc.equal(pc.fill_null(pc.list_value_length(table["labels"]), 0), 0)
    if pc.any(few).as_py():
        raise DataError(f"{shown}: '{table['patch_id'].filter(few)[0]}' has no labels; download the table again")
    for column in ("patch_id", "contains_seasonal_snow", "contains_cloud_or_shadow"):
        if table[column].null_count:
            raise DataError(f"{shown}: {column}: {table[column].null_count} values are missing; download it again")
    _check_ids(table["patch_id"].combine_chunks(), shown)
    return table


def _check_ids(ids: pa.Array, shown: str) -> None:
    """Every name must be one of BigEarthNet 2.0, and stand there once."""
    for id_ in ids.filter(pc.invert(pc.match_substring_regex(ids, _PATCH))).to_pylist():
        raise DataError(
            f"{shown}: patch_id '{id_}' is no name of BigEarthNet 2.0, such as "
            "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57; download it again"
        )
    counts = pc.value_counts(ids)
    for id_ in counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist():
        raise DataError(f"{shown}: patch_id '{id_}' stands there twice; download it again")
    ben.check_dates(ids, shown)


def _check_apart(folder: Folder, ids: pa.Array, more: pa.Array | None = None) -> None:
    """No patch may stand in both tables."""
    for id_ in more.filter(pc.is_in(more, ids)).to_pylist() if more is not None else ():
        raise DataError(f"{folder.show(_MORE)}: patch_id '{id_}' stands in {_TABLE} too; download both again")


def _on_disk(ids: pa.Array, folder: Folder) -> pa.Array:
    """Which patches have a folder: one listing for each tile."""
    images = folder / _IMAGES
    tiles = set(pc.unique(pc.replace_substring_regex(ids, r"_\d+_\d+$", "")).to_pylist())
    there = [name for tile in images.names() if tile in tiles for name in (images / tile).names()]
    return pc.is_in(ids, pa.array((name for name in there if name.isascii()), pa.string()))


def _bits(labels: pa.Array) -> NDArray[np.uint32]:
    """Lists of labels as numbers: bit k stands for class k."""
    code = pc.index_in(pc.list_flatten(labels), pa.array(ben.CLASSES_19)).to_numpy(zero_copy_only=False)
    bits = np.zeros(len(labels), np.uint32)
    np.bitwise_or.at(bits, pc.list_parent_indices(labels).to_numpy(), np.uint32(1) << code.astype(np.uint32))
    return bits
