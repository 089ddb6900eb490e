"""What the two versions of BigEarthNet share: classes, bands, dates, and the reading of a patch.

A patch covers 1200 m x 1200 m. Each band is a GeoTIFF of its own at the band's resolution: 120, 60 or 20 pixels wide.

The classes stand in the order of the reference implementation (falling frequency), because trained weights have their
outputs in that order; it is neither the alphabet's nor CORINE's. Which of the 43 CORINE classes make up the 19 and
which 11 are dropped is as published in Sumbul et al., "BigEarthNet-MM", IEEE GRSM 2021.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import field_validator
from rasterio.enums import Resampling

from stssl.config import Config
from stssl.data.sources._raster import centre, opened
from stssl.errors import DataError
from stssl.storage import Folder

Band = Literal["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]

SIZE = 120
PIXELS = dict.fromkeys(("B02", "B03", "B04", "B08"), 120) | {"B01": 20, "B09": 20}  # the others have 60
SPLITS = ("train", "validation", "test")
LICENCE = "CDLA-Permissive-1.0; contains modified Copernicus Sentinel data"

CLASSES_43 = (
    "Mixed forest",
    "Coniferous forest",
    "Non-irrigated arable land",
    "Transitional woodland/shrub",
    "Broad-leaved forest",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Complex cultivation patterns",
    "Pastures",
    "Water bodies",
    "Sea and ocean",
    "Discontinuous urban fabric",
    "Agro-forestry areas",
    "Peatbogs",
    "Permanently irrigated land",
    "Industrial or commercial units",
    "Natural grassland",
    "Olive groves",
    "Sclerophyllous vegetation",
    "Continuous urban fabric",
    "Water courses",
    "Vineyards",
    "Annual crops associated with permanent crops",
    "Inland marshes",
    "Moors and heathland",
    "Sport and leisure facilities",
    "Fruit trees and berry plantations",
    "Mineral extraction sites",
    "Rice fields",
    "Road and rail networks and associated land",
    "Bare rock",
    "Green urban areas",
    "Beaches, dunes, sands",
    "Sparsely vegetated areas",
    "Salt marshes",
    "Coastal lagoons",
    "Construction sites",
    "Estuaries",
    "Intertidal flats",
    "Airports",
    "Dump sites",
    "Port areas",
    "Salines",
    "Burnt areas",
)
CLASSES_19 = (
    "Mixed forest",
    "Coniferous forest",
    "Arable land",
    "Transitional woodland, shrub",
    "Broad-leaved forest",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Complex cultivation patterns",
    "Pastures",
    "Inland waters",
    "Marine waters",
    "Urban fabric",
    "Agro-forestry areas",
    "Inland wetlands",
    "Industrial or commercial units",
    "Natural grassland and sparsely vegetated areas",
    "Permanent crops",
    "Moors, heathland and sclerophyllous vegetation",
    "Beaches, dunes, sands",
    "Coastal wetlands",
)
_PARTS = {
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Coastal wetlands": ("Salines", "Salt marshes"),
    "Inland waters": ("Water bodies", "Water courses"),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Permanent crops": (
        "Annual crops associated with permanent crops",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Vineyards",
    ),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
}
MERGED = {part: name for name in CLASSES_19 for part in _PARTS.get(name, (name,))}  # 32 of the 43; the others vanish

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BigEarthNetConfig(Config):
    """The settings of both versions.

    Attributes:
        root: A path or a URI.
        bands: Which bands, in which order.
        resampling: How bands of 20 m and 60 m come to 120 x 120 pixels.
        split: Whether samples carry the official split.
        drop_cloud_or_shadow: Leave out patches that are listed as covered by cloud or its shadow.
        drop_seasonal_snow: Leave out patches that are listed as covered by snow.
    """

    root: str
    bands: tuple[Band, ...] = ("B04", "B03", "B02")
    resampling: Literal["nearest", "bilinear", "cubic"] = "bilinear"
    split: Literal["official", "none"] = "official"
    drop_cloud_or_shadow: bool = True
    drop_seasonal_snow: bool = True

    @field_validator("bands")
    @classmethod
    def _each_once(cls, bands: tuple[Band, ...]) -> tuple[Band, ...]:
        if not bands or len(set(bands)) < len(bands):
            raise ValueError(f"expected at least one of {', '.join(get_args(Band))}, each once")
        return bands


def read_bands(
    folder: Folder, patch: str, config: BigEarthNetConfig, remedy: str, locate: bool = False
) -> tuple[NDArray[np.uint16], tuple[float | None, float | None]]:
    """The bands of a patch, brought to one size, and the place of its centre.

    Args:
        folder: Where it lies.
        patch: The names of its files there, without `_<band>.tif`.
        config: Which bands, and how they are resampled.
        remedy: Ends the message about a damaged file.
        locate: Find the place, from the first band's georeference.

    Returns:
        Pixels [C, 120, 120] in stored units; (latitude, longitude) in degrees, or (None, None).

    Raises:
        DataError: A file is missing, damaged, or no band of BigEarthNet.
    """
    image = np.empty((len(config.bands), SIZE, SIZE), np.uint16)
    place: tuple[float | None, float | None] = (None, None)
    method = Resampling[config.resampling]
    for channel, band in enumerate(config.bands):
        name, wide = f"{patch}_{band}.tif", PIXELS.get(band, 60)
        with opened(folder, name, remedy) as file:
            form = (file.count, file.height, file.width, file.dtypes[0])
            if form != (1, wide, wide, "uint16"):
                raise DataError(
                    f"{folder.show(name)}: {form[0]} band(s) of {form[1]} x {form[2]} pixels, {form[3]}; "
                    f"expected 1 of {wide} x {wide}, uint16; {remedy}"
                )
            file.read(1, out=image[channel], resampling=method)
            if locate and channel == 0:
                place = centre(file, folder.show(name), remedy)
    return image, place


def days(date: str, clock: str) -> float:
    """Days since 1970-01-01 UTC of `YYYYMMDD` and `HHMMSS`.

    Some names of version 1 have lost the hour's leading zero (T93020 is 09:30:20) and two have a second too many
    (T94160, T94161): such seconds run on into the next minute.

    Raises:
        ValueError: There is no such date or time.
    """
    hour, minute, second = (int(part) for part in (clock[:-4], clock[-4:-2], clock[-2:]))
    day = datetime(int(date[:4]), int(date[4:6]), int(date[6:]), hour, minute, tzinfo=UTC)
    try:
        return (day + timedelta(seconds=second) - _EPOCH) / timedelta(days=1)
    except OverflowError:
        raise ValueError("the year 10000 is beyond the calendar") from None


def days_of(patch: str) -> float:
    """Days since 1970-01-01 UTC, from a patch's name.

    Raises:
        ValueError: There is no such date or time.
    """
    date, _, clock = patch.split("_")[2].partition("T")
    return days(date, clock)


def check_dates(ids: pa.Array, shown: str) -> None:
    """See that every patch's name holds a real date.

    Raises:
        DataError: One does not.
    """
    for scene in pc.unique(pc.replace_substring_regex(ids, r"_\d+_\d+$", "")).to_pylist():
        try:
            days_of(scene)
        except ValueError:
            name = next(name for name in ids.to_pylist() if name.startswith(scene))
            stamp = scene.split("_")[2]
            raise DataError(
                f"{shown}: '{name}': '{stamp}' is no date and time (YYYYMMDDTHHMMSS); rename or remove it"
            ) from None


def to_bits(labels: Iterable[str], classes: tuple[str, ...]) -> int:
    """A set of labels as a number: bit k stands for class k."""
    return sum(1 << classes.index(label) for label in set(labels))


def from_bits(bits: int, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The labels of `to_bits`, in the order of the classes."""
    return tuple(name for k, name in enumerate(classes) if bits >> k & 1)
