"""A table of images: CSV or Parquet, one row an image.

| column | what | absent |
|---|---|---|
| `path` | JPEG, PNG or GeoTIFF, relative to the table's folder; absolute or with `..` only on a disk | refused |
| `label` | a class name, or a whole number (`1.0` is `1` if all labels are such); empty = unlabeled | see `labels` |
| `labels` | class names with `;` between them, or a list (Parquet); empty or null = unlabeled, `-` or an empty list = known to have none | all unlabeled, if `classes` and `task` are set |
| `lat`, `lng` | degrees (WGS 84) of the image's centre; empty or NaN = unknown | of the image's georeference |
| `time` | ISO 8601, or a Parquet timestamp or date; without a zone UTC; empty = unknown | of the image's tags |
| `split` | train, validation or test; empty = none | none |
| `id` | text or an integer, unique | the path without its ending |

Further columns are ignored, unless one reads like a column that is missing (`latitude`): that one must be named or waived by
`columns`. CSV is UTF-8, with commas. A place in the table must be within a degree of the image's georeference, if there
is one.

Pixels: 8 and 16 bit without sign stay as they are; the rest becomes float32. An alpha channel is a band like any other;
no-data values and masks are not looked at; of JPEG, the pixels are taken as they lie, without EXIF's turn.
"""  # noqa: E501

from __future__ import annotations

import json
import posixpath
import re
from typing import Annotated, Any, Literal

import pyarrow as pa
import rasterio
from pydantic import AfterValidator, BeforeValidator, Field
from rasterio._err import CPLE_BaseError  # as in _raster
from rasterio.errors import RasterioError

from stssl.config import Config
from stssl.data.schema import Sample, Task
from stssl.data.sources._raster import RasterSource, centre, opened
from stssl.data.sources._table_cells import contradiction, image_path, labels, moment, places, sample_id, show, split
from stssl.data.sources._table_columns import Column, choose_columns
from stssl.data.sources._table_file import Rows, find_table, read_rows
from stssl.data.sources._table_image import Look, acquired, look, pixels
from stssl.errors import DataError
from stssl.storage import Folder

_WHOLE = re.compile(r"-?\d+\.0", re.ASCII)  # as pandas writes integers if one is missing
_TRIES = 100  # images that are opened to see what they look like, should the first ones be damaged


def _each_once(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is not None and (not names or "" in names or len(set(names)) < len(names)):
        raise ValueError(f"expected at least one name, each once, got {list(names)}")
    return names


def _integers_as_text(names: Any) -> Any:
    return [str(name) if type(name) is int else name for name in names] if isinstance(names, list | tuple) else names


Names = Annotated[tuple[str, ...] | None, BeforeValidator(_integers_as_text), AfterValidator(_each_once)]


class TableConfig(Config):
    """Which table, and what it does not say itself.

    Attributes:
        root: The table, or the folder of one that is called table.csv, table.parquet or metadata.csv.
        bands: A name for each band. None = R, G, B for 8-bit JPEG and PNG with three; else as the first image's bands
            are described; else band1, band2, ...
        classes: All class names, in order. None = those in the table, sorted as text.
        size: Resample every image to size x size pixels. None = all must agree.
        task: None = "single" for a column `label`, "multi" for `labels`.
        columns: Headings that differ, such as `{lat: latitude}`; null = there is no such thing: with `time: null`
            or `lat: null, lng: null`, it is not looked for in the images' tags or georeferences either.
    """

    name: Literal["table"] = "table"
    root: str
    bands: Names = None
    classes: Names = None
    size: int | None = Field(default=None, ge=1, le=4096)
    task: Task | None = None
    columns: dict[Column, str | None] = {}
    licence: str = "unknown, see the data's owner"
    attribution: str = "unknown, see the data's owner"


class Table(RasterSource):
    """The images of a table, sorted by id."""

    Config = TableConfig
    name = "table"

    def __init__(self, config: TableConfig) -> None:
        """Read the table and look at its first image.

        Raises:
            DataError: The table is missing, damaged or ambiguous; a cell is not what it should be; an id or an image comes
                twice; no image can be opened.
        """
        self.config, self.licence, self.attribution = config, config.licence, config.attribution
        self.folder, self._table = find_table(config.root)
        shown = self.folder.show(self._table)
        rows = read_rows(
            self.folder, self._table, lambda headings: choose_columns(headings, config.columns, config.task, shown)
        )
        paths = rows.convert("path", image_path(self.folder.path))
        _refuse_twice(rows, paths, "name the same image {}; keep one of them")
        if "id" in rows.cells:
            ids = rows.convert("id", sample_id)
            _refuse_twice(rows, ids, "have the same id {}; give each row its own")
        else:
            ids = [posixpath.splitext(path)[0] for path in paths]
            _refuse_twice(rows, ids, "have the same path but for its ending, {}; add a column 'id'")
        self.task, self.classes, found = _read_labels(rows, config)

        # As Arrow arrays, which are compact: a source is sent to every worker.
        order = sorted(range(len(ids)), key=ids.__getitem__)
        columns = {"path": pa.array(paths), "labels": pa.array(found, pa.list_(pa.string()))}
        for name in ("lat", "lng", "time"):
            if name in config.columns and config.columns[name] is None:
                columns[name] = pa.nulls(len(ids), pa.float64())
        if "lat" in rows.cells:
            columns |= {name: pa.array(values, from_pandas=True) for name, values in places(rows).items()}
        if "time" in rows.cells:
            columns["time"] = pa.array(rows.convert("time", moment), pa.float64(), from_pandas=True)
        if "split" in rows.cells:
            columns["split"] = pa.array(rows.convert("split", split), pa.string())
        self.ids = [ids[row] for row in order]
        self._columns = {name: column.take(pa.array(order)) for name, column in columns.items()}
        self._word, self._numbers = rows.word, rows.numbers[order]
        self._look = self._look_at_first()
        self.bands = self._name_bands()

    def files(self, index: int) -> tuple[str]:
        """The image."""
        return (self._columns["path"][index].as_py(),)

    def stamp(self, index: int) -> str:
        """Of the image, and of what its own row says: a change in another row does not matter."""
        return f"{super().stamp(index)}\t{json.dumps(self._row(index))}"

    def read(self, index: int) -> Sample:
        """Read one image."""
        row = self._row(index)
        folder, name, remedy = self._image(row["path"], index)
        shown = folder.show(name)
        with opened(folder, name, remedy) as file:
            seen = look(file, shown, remedy)
            self._refuse_other(seen, remedy)
            image = pixels(file, seen.dtype, self.config.size, shown, remedy)
            if "lat" in row or "lng" in row:
                lat, lng = row.get("lat"), row.get("lng")
                if lat is not None and lng is not None:
                    self._refuse_elsewhere((lat, lng), file, shown, remedy)
            else:
                lat, lng = centre(file, shown, remedy)
            time = row["time"] if "time" in row else acquired(file, shown, remedy)
        names = None if row["labels"] is None else tuple(row["labels"])
        return Sample(self.ids[index], image, names, lat, lng, time, row.get("split"))

    def _refuse_elsewhere(
        self, told: tuple[float, float], file: rasterio.DatasetReader, shown: str, remedy: str
    ) -> None:
        """Refuse an image that lies elsewhere than the table says."""
        try:
            lat, lng = centre(file, shown, remedy)
        except (ValueError, RasterioError, CPLE_BaseError):  # of no use, but the table has a place
            return
        if lat is not None and lng is not None and (why := contradiction(told, (lat, lng))):
            raise DataError(f"{shown}: {self._table} and georeference differ: {why}; mend the table, or {remedy}")

    def _row(self, index: int) -> dict[str, Any]:
        """What the table says of a sample, None = unknown; columns that it has not are not there."""
        return {name: column[index].as_py() for name, column in self._columns.items()}

    def _image(self, path: str, index: int) -> tuple[Folder, str, str]:
        """Folder and name of an image, and what to do if it is faulty."""
        folder, name = self.folder.locate(path)
        return folder, name, f"replace it, or take out {self._word} {self._numbers[index]} of {self._table}"

    def _look_at_first(self) -> Look:
        """The look of the first image that can be opened."""
        first: DataError | None = None
        for index in range(min(len(self.ids), _TRIES)):
            folder, name, remedy = self._image(*self.files(index), index)
            try:
                with opened(folder, name, remedy) as file:
                    return look(file, folder.show(name), remedy)
            except DataError as error:
                first = first or error
        raise first or DataError(f"{self.folder.show(self._table)}: holds no rows")

    def _name_bands(self) -> tuple[str, ...]:
        """Names for the bands of the first image."""
        seen, given = self._look, self.config.bands
        if given is not None:
            if len(given) != seen.bands:
                raise DataError(
                    f"{seen.of}: has {seen.bands} bands, and `bands` names {len(given)}: {', '.join(given)}"
                )
            return given
        if (seen.bands, seen.dtype) == (3, "uint8") and not seen.of.lower().endswith((".tif", ".tiff")):
            return ("R", "G", "B")
        return seen.described or tuple(f"band{number}" for number in range(1, seen.bands + 1))

    def _refuse_other(self, seen: Look, remedy: str) -> None:
        """Refuse an image that is not like the first one."""
        first, size = self._look, self.config.size
        if (seen.bands, seen.dtype) != (first.bands, first.dtype):
            raise DataError(
                f"{seen.of}: has {seen}; expected {first.bands} bands, {first.dtype}, as {first.of}; {remedy}"
            )
        if size is None and (seen.height, seen.width) != (first.height, first.width):
            raise DataError(
                f"{seen.of}: has {seen}; {first.of} has {first}; resample with `--set size=...`, or {remedy}"
            )
        if self.config.bands is None and seen.described not in (None, self.bands):
            names = ", ".join(seen.described or ())
            raise DataError(
                f"{seen.of}: its bands are {names}; expected {', '.join(self.bands)}, as {first.of}; {remedy}; or, if "
                "they are the same bands in the same order, name them with `--set 'bands=[...]'`"
            )


def _read_labels(rows: Rows, config: TableConfig) -> tuple[Task, tuple[str, ...], list[tuple[str, ...] | None]]:
    """The task, all classes, and each row's labels.

    Raises:
        DataError: A cell is faulty, or the table does not tell the task or the classes and the configuration neither.
    """
    column = next((name for name in ("label", "labels") if name in rows.cells), None)
    if column is None:
        if config.classes is None or config.task is None:
            raise DataError(
                f"{rows.shown}: no column 'label' (one name) or 'labels' (several, with ';' between them); add one, or "
                "set `task` and `classes` if no image is labeled"
            )
        return config.task, config.classes, [None] * len(rows.numbers)
    task: Task = config.task or ("single" if column == "label" else "multi")
    _refuse_vectors(rows, column, config.classes or ())
    given = {cell for cell in rows.cells[column] if cell not in (None, "")}
    if task == "single" and given.isdisjoint(config.classes or ()) and all(map(_is_whole, given)):
        whole = [cell.removesuffix(".0") if isinstance(cell, str) else cell for cell in rows.cells[column]]
        rows = rows._replace(cells={**rows.cells, column: whole})
    found = rows.convert(column, labels(task, config.classes))
    classes = config.classes or tuple(sorted({name for names in found for name in names or ()}))
    if not classes:
        raise DataError(f"{rows.shown}: no row has a label; name the classes with `--set 'classes=[...]'`")
    return task, classes, found


def _is_whole(cell: Any) -> bool:
    return isinstance(cell, str) and _WHOLE.fullmatch(cell) is not None


def _refuse_vectors(rows: Rows, column: str, classes: tuple[str, ...]) -> None:
    """Refuse lists of 0 and 1, all of the same length, unless these are names of classes."""
    lists = [(row, cell) for row, cell in enumerate(rows.cells[column]) if isinstance(cell, tuple)]
    lengths, numbers = {len(cell) for _, cell in lists}, {number for _, cell in lists for number in cell}
    if len(lengths) == 1 and lengths.isdisjoint({0, 1}) and numbers <= {0, 1} and not {"0", "1"} & set(classes):
        row, cell = lists[0]
        raise DataError(
            f"{rows.where(row)}: column '{rows.headings[column]}': {show(cell)} looks like 0/1 vectors; give class names"
        )


def _refuse_twice(rows: Rows, values: list[str], fault: str) -> None:
    seen: dict[str, int] = {}
    for row, value in enumerate(values):
        first = seen.setdefault(value, row)
        if first != row:
            raise DataError(f"{rows.where(first)} and {rows.word} {rows.numbers[row]} {fault.format(show(value))}")
