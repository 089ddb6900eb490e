"""What may stand in a table's cells. Each reader raises ValueError: what is wrong with the cell, and what would be right."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stssl.data.schema import Task
from stssl.data.sources._raster import DRIVERS
from stssl.data.sources._table_file import Days, Rows
from stssl.errors import DataError, did_you_mean
from stssl.files import NAME_BYTES

NONE_APPLIES = "-"  # in a text cell of `labels`: known to have no label

_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
_SPLITS |= {"validation": "validation", "test": "test", "testing": "test"}
_MISSING = frozenset({"nan", "none", "null", "<na>"})  # as which libraries write an empty cell
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan", re.ASCII | re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _END = (float((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).days) for year in (1900, 2101))


def show(cell: Any) -> str:
    """A cell for a message, in quotes and not too long."""
    text = repr(cell if isinstance(cell, str) else str(cell))
    return text if len(text) <= 60 else f"{text[:56]}...'"


def text(cell: Any) -> str:
    """Stripped text; empty = nothing there."""
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise ValueError(f"expected text, got {show(cell)} ({type(cell).__name__})")
    return cell.strip()


def sample_id(cell: Any) -> str:
    """An id, never empty; an integer is one too, as it would be in CSV."""
    if not (name := str(cell) if _is_integer(cell) else text(cell)):
        raise ValueError("the id is empty; fill it in, or leave out the column")
    return name


def image_path(folder: Path | None) -> Callable[[Any], str]:
    """Reader of an image's path, in its shortest spelling.

    Args:
        folder: The table's. None = it lies in a bucket, where only paths below it lead anywhere.
    """

    def read(cell: Any) -> str:
        if not (path := text(cell)):
            raise ValueError("the path is empty; every row needs its image")
        if "://" in path or _CONTROL.search(path):
            raise ValueError(f"{show(path)} is no path; write it relative to the table's folder")
        path = posixpath.normpath(path)
        if folder is not None:
            path = path.removeprefix(f"{folder}/")
        elif path.startswith(("/", "../")):
            raise ValueError(f"{show(path)} leads out of the table's folder; in a bucket, images must lie below it")
        if max(len(os.fsencode(name)) for name in path.split("/")) > NAME_BYTES:
            raise ValueError(f"{show(path)} holds a name of more than {NAME_BYTES} bytes, which no file has")
        if "." + path.rpartition(".")[2].lower() not in DRIVERS:
            raise ValueError(f"{show(path)} is no image by its ending; known: {', '.join(DRIVERS)}")
        return path

    return read


def split(cell: Any) -> str | None:
    """`train`, `validation` or `test`, by any usual name; empty = None."""
    if not (name := text(cell)):
        return None
    if name.lower() not in _SPLITS:
        raise ValueError(f"unknown split {show(name)}; {did_you_mean(name.lower(), _SPLITS)}; or leave it empty")
    return _SPLITS[name.lower()]


def labels(task: Task, classes: tuple[str, ...] | None) -> Callable[[Any], tuple[str, ...] | None]:
    """Reader of a cell's class names: None = unlabeled (an empty cell, a null), () = known to have none.

    Args:
        task: "single": the cell is one name. "multi": names with `;` between them, or a list; `-` or an empty list = none.
        classes: The known names; None = any.
    """

    def read(cell: Any) -> tuple[str, ...] | None:
        if task == "multi" and isinstance(cell, tuple):
            names = tuple(_label(one) for one in cell)
        elif not (given := _label(cell)):
            return None
        elif task == "multi":
            names = () if given == NONE_APPLIES else tuple(name.strip() for name in given.split(";"))
        elif ";" in given and given not in (classes or ()):
            raise ValueError(f"{show(given)} is several labels; use `--set task=multi`, or a name without ';'")
        else:
            names = (given,)
        for name in names:
            if name in ("", NONE_APPLIES):
                raise ValueError(
                    f"{show(name)} is no label (in {show(cell)}); leave the cell empty if the label is unknown"
                    + (f", write only '{NONE_APPLIES}' if it is known that none applies" if task == "multi" else "")
                )
            if _CONTROL.search(name):
                raise ValueError(f"{show(name)} holds a line break or another control character; take it out")
            if name.lower() in _MISSING and name not in (classes or ()):
                raise ValueError(
                    f"{show(name)} reads like a missing value; leave the cell empty for an unlabeled image, or set "
                    "`classes` to name it a class"
                )
            if classes is not None and name not in classes:
                raise ValueError(f"unknown label {show(name)}; {did_you_mean(name, classes)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a label stands twice in {show(cell)}; name each once")
        return names

    return read


def _label(cell: Any) -> str:
    """A class name; a whole number is one too: pandas makes floats of integers if one is missing."""
    if _is_integer(cell):
        return str(cell)
    if not isinstance(cell, float):
        return text(cell)
    if math.isnan(cell):
        return ""
    if not cell.is_integer():
        raise ValueError(f"{show(cell)} is no class name; write names as text or as whole numbers")
    return str(int(cell))


def _is_integer(cell: Any) -> bool:
    return isinstance(cell, int) and not isinstance(cell, bool)


def number(cell: Any) -> float:
    """A number; NaN = nothing there."""
    given = "" if cell is None else str(cell).strip()
    if not given:
        return math.nan
    if isinstance(cell, bool | tuple | bytes | Days) or not NUMBER.fullmatch(given):
        raise ValueError(f"{show(cell)} is no number; write degrees such as 48.137, or leave it empty")
    return float(given)


def places(rows: Rows) -> dict[str, NDArray[np.float64]]:
    """`lat` and `lng` of each row in degrees, [N]; NaN = unknown.

    Raises:
        DataError: Only one of the two is there, or they are no place on Earth: the first such row.
    """
    lat, lng = (np.array(rows.convert(column, number), np.float64) for column in ("lat", "lng"))
    known = ~np.isnan(lat)
    faulty = (known != ~np.isnan(lng)) | (known & ((np.abs(lat) > 90) | (np.abs(lng) > 180)))
    for row in np.flatnonzero(faulty):
        raise DataError(f"{rows.where(int(row))}: {_explain(float(lat[row]), float(lng[row]))}")
    return {"lat": lat, "lng": lng}


def _explain(lat: float, lng: float) -> str:
    given = f"latitude {lat:.10g}, longitude {lng:.10g}"
    if math.isnan(lat) or math.isnan(lng):
        return f"{given}: one of the two is missing; give both or none"
    if abs(lat) <= 90 and 180 < lng <= 360:
        return f"{given}: the longitude counts from 0 to 360; subtract 360 from those above 180"
    if 90 < abs(lat) <= 180 and abs(lng) <= 90:
        return f"{given}: the two look swapped; exchange the columns"
    return f"{given}: no place on Earth; expected degrees (WGS 84) from -90 to 90 and from -180 to 180"


def contradiction(told: tuple[float, float], seen: tuple[float, float]) -> str:
    """What is wrong with a place (latitude, longitude) that is told, by one that is known; empty = within a degree."""
    if not _far(told, seen):
        return ""
    places = " but ".join(f"latitude {lat:.10g}, longitude {lng:.10g}" for lat, lng in (told, seen))
    return f"{places}{'' if _far(told[::-1], seen) else ': the two look swapped'}"


def _far(one: tuple[float, float], other: tuple[float, float]) -> bool:
    east = (one[1] - other[1] + 180) % 360 - 180
    return math.hypot(one[0] - other[0], east * math.cos(math.radians(other[0]))) > 1


def moment(cell: Any) -> float:
    """Days since 1970-01-01 UTC; NaN = nothing there. Without a zone it is UTC, without a time of day midnight."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return math.nan
    days = float(cell) if isinstance(cell, Days) else _parse(cell)
    if not math.isnan(days) and not _FIRST <= days < _END:
        raise ValueError(f"{_date(days)} is out of the years 1900 to 2100; mend it, or leave it empty")
    return days


def _parse(cell: Any) -> float:
    remedy = "write a date such as 2021-06-30 or 2021-06-30T10:15:00Z (ISO 8601), or leave it empty"
    if isinstance(cell, int | float) or NUMBER.fullmatch(text(cell)):
        raise ValueError(f"{show(cell)} is a mere number, with neither unit nor origin; {remedy}")
    if not (given := text(cell)):
        return math.nan
    if not _ISO.fullmatch(given):
        raise ValueError(f"{show(given)} is no date; {remedy}")
    try:
        when = datetime.fromisoformat(given)
    except ValueError as error:
        raise ValueError(f"{show(given)} does not exist ({error}); {remedy}") from None
    return (when.replace(tzinfo=when.tzinfo or UTC) - _EPOCH) / timedelta(days=1)


def _date(days: float) -> str:
    try:
        return (_EPOCH + timedelta(days=days)).date().isoformat()
    except OverflowError:
        return f"day {days:.0f} since 1970-01-01"
