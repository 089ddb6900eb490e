"""Images of any band count and depth: what one looks like, its pixels, and the time in its tags."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling

from stssl.data.schema import DType
from stssl.data.sources._table_cells import moment, show
from stssl.errors import DataError

_STORED: dict[str, DType] = {"uint8": "uint8", "uint16": "uint16"}
_STORED |= dict.fromkeys(["int8", "int16", "uint32", "int32", "float32", "float64"], "float32")
_EXACT = 2**24  # float32 holds all integers up to here
_MOST_PIXELS = 2**28  # over all bands; a header that claims more is damaged, or the image a whole scene

# Where a time may stand, the most telling first. TIFF's own DateTime is when the file was made, and in many
# collections of patches, when the image was taken.
_TIME_TAGS = (
    "ACQUISITIONDATETIME",  # of GDAL's domain IMAGERY
    "ACQUISITION_DATETIME",
    "ACQUISITION_DATE",
    "ACQUISITION_TIME",
    "DATETIME",
    "EXIF_DATETIMEORIGINAL",
    "TIFFTAG_DATETIME",
)
_NO_DATE = re.compile(r"[0:/TZ .-]*", re.ASCII)  # "0000:00:00 00:00:00" is EXIF's unknown time
_CLOCK = re.compile(r"T?\d\d?:\d\d(:\d\d([.,]\d+)?)? ?(Z|UTC|[-+]\d\d(:?\d\d)?)?", re.ASCII)
_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d)( \d\d:\d\d:\d\d)", re.ASCII)


class Look(NamedTuple):
    """What all images of a table share, and `of`, the file that it was seen in. Printed, it is a part of a message."""

    bands: int
    height: int
    width: int
    dtype: DType
    described: tuple[str, ...] | None  # names that the bands have in the file, if each has one of its own
    of: str

    def __str__(self) -> str:
        return f"{self.bands} bands of {self.height} x {self.width} pixels, {self.dtype}"


def look(file: rasterio.DatasetReader, shown: str, remedy: str) -> Look:
    """Look at an open image without its pixels.

    Raises:
        DataError: It has no bands, several pages, a palette, pixels of another kind, or is larger than any patch.
    """
    if not file.count or file.subdatasets:
        raise DataError(f"{shown}: holds {'several images' if file.subdatasets else 'no bands'}; {remedy}")
    if file.colorinterp[0] == ColorInterp.palette:
        raise DataError(f"{shown}: its pixels are numbers of a palette; save it as RGB or grey; {remedy}")
    kinds = set(file.dtypes)
    if not kinds <= _STORED.keys():
        raise DataError(f"{shown}: pixels are {', '.join(sorted(kinds))}; known: {', '.join(_STORED)}; {remedy}")
    if file.count * file.height * file.width > _MOST_PIXELS:
        size = f"{file.count} bands of {file.height} x {file.width} pixels"
        raise DataError(f"{shown}: {size} are too many for one image; cut it into patches; {remedy}")
    stored = {_STORED[kind] for kind in kinds}
    names = tuple((name or "").strip() for name in file.descriptions)
    described = names if all(names) and len(set(names)) == len(names) else None
    dtype: DType = stored.pop() if len(stored) == 1 else "float32"
    return Look(file.count, file.height, file.width, dtype, described, shown)


def pixels(file: rasterio.DatasetReader, dtype: DType, size: int | None, shown: str, remedy: str) -> NDArray[Any]:
    """All bands as they are stored, [C, H, W] or [C, size, size].

    Values are neither scaled nor masked: a declared no-data value is a value. Other sizes are resampled bilinearly (GDAL).

    Raises:
        DataError: float32 cannot hold a value: it is NaN, infinite or too large.
    """
    if size is None or (file.height, file.width) == (size, size):
        image = file.read()
    else:
        image = file.read(out_shape=(file.count, size, size), resampling=Resampling.bilinear)
    if dtype != "float32":
        return image
    if image.dtype.kind in "iu" and (image.max() > _EXACT or image.min() < -_EXACT):
        raise DataError(f"{shown}: has integers beyond 2^24, which 32-bit floats do not hold; rescale it; {remedy}")
    with np.errstate(over="ignore"):
        image = image.astype(np.float32)
    if faults := int(np.count_nonzero(~np.isfinite(image))):
        raise DataError(f"{shown}: {faults} values are NaN, infinite or beyond 32 bits; fill them; {remedy}")
    return image


def acquired(file: rasterio.DatasetReader, shown: str, remedy: str) -> float | None:
    """Days since 1970-01-01 UTC by the first of `_TIME_TAGS` that says a day; without a zone it is UTC.

    Blanks, a date of zeros and a mere time of day say none.

    Raises:
        DataError: What that tag holds is no date.
    """
    tags = {key.upper(): value for space in ("IMAGERY", None) for key, value in file.tags(ns=space).items()}
    for tag in _TIME_TAGS:
        given = tags.get(tag, "").strip(" \0:")  # EXIF writes an unknown time as blanks between colons
        if _NO_DATE.fullmatch(given) or _CLOCK.fullmatch(given):
            continue
        try:
            days = moment(_EXIF.sub(r"\1-\2-\3\4", given))
        except ValueError as error:
            raise DataError(f"{shown}: tag {tag} {show(given)}: {error}; or give a column 'time'; {remedy}") from None
        return None if math.isnan(days) else days
    return None
