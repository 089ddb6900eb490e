"""Image files of any kind that GDAL reads, on a disk or in a bucket: pixels, place and time of one file."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import rasterio
from rasterio._err import CPLE_BaseError  # what GDAL reports where rasterio has no exception of its own
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.warp import transform

from stssl.data.sources.base import Source
from stssl.errors import DataError
from stssl.storage import Folder

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",  # else a JPEG with damaged pixels is read as far as they make sense
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # that shortcut reads zeros where a PNG was cut off, without a word
}


_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep GDAL's own words off stderr and set its options.

    `opened` sees to this by itself. Entering costs more than reading a small file, so who opens several does it once
    around them all.
    """
    if _is_quiet.get():
        yield
        return
    log = logging.getLogger("rasterio")
    level, hook = log.level, sys.unraisablehook
    log.setLevel(logging.CRITICAL + 1)
    # rasterio stumbles over GDAL's words where they quote a damaged file, and Python would print that
    sys.unraisablehook = lambda what: None if isinstance(what.exc_value, UnicodeDecodeError) else hook(what)
    token = _is_quiet.set(True)
    try:
        with warnings.catch_warnings(), rasterio.Env(**_OPTIONS):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    finally:
        _is_quiet.reset(token)
        sys.unraisablehook = hook
        log.setLevel(level)


class RasterSource(Source):
    """A source that reads its images with `opened`."""

    def session(self) -> AbstractContextManager[None]:
        """Quiet, once for all."""
        return quiet()


@contextmanager
def opened(folder: Folder, name: str, remedy: str) -> Iterator[rasterio.DatasetReader]:
    """Open an image for reading.

    Only the driver of the file's ending is tried, so no file can make GDAL open anything else. GDAL's own words are kept
    off stderr: what they report becomes a DataError.

    Args:
        folder: Where it lies.
        name: Its name there.
        remedy: What a user can do about a damaged file; ends the message.

    Raises:
        DataError: The file is missing, empty, damaged or no image; also whatever goes wrong while it is read.
    """
    shown, driver = folder.show(name), DRIVERS.get("." + name.rpartition(".")[2].lower())
    if driver is None:
        raise DataError(f"{shown}: no image by its ending; known: {', '.join(DRIVERS)}; {remedy}")
    try:
        with quiet():
            if folder.path is not None:
                path = folder.local_path(name)
                if path.stat().st_size == 0:
                    raise DataError(f"{shown}: the file is empty; {remedy}")
                with rasterio.open(path, driver=driver) as file:
                    yield file
                return
            data = folder.read(name)
            if not data:
                raise DataError(f"{shown}: the file is empty; {remedy}")
            with MemoryFile(data) as memory, memory.open(driver=driver) as file:
                yield file
    except FileNotFoundError:
        raise DataError(f"{shown}: no such file; {remedy}") from None
    except (OSError, RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{shown}: damaged or no {driver} image ({reason}); {remedy}") from None


def centre(file: rasterio.DatasetReader, shown: str, remedy: str) -> tuple[float | None, float | None]:
    """(latitude, longitude) in degrees (WGS 84) of an image's centre, or (None, None) without a georeference.

    Raises:
        DataError: The georeference leads nowhere on Earth.
    """
    if file.crs is None or file.transform.is_identity:
        return None, None
    to, column, row = file.transform, file.width / 2, file.height / 2
    x, y = to.a * column + to.b * row + to.c, to.d * column + to.e * row + to.f
    (lng,), (lat,) = transform(file.crs, "EPSG:4326", [x], [y])
    if 180 < abs(lng) <= 540:  # a raster across the date line, or one that counts from 0 to 360
        lng = (lng + 180) % 360 - 180
    if not (-90 <= lat <= 90 and -180 <= lng <= 180):
        raise DataError(f"{shown}: its georeference leads to latitude {lat}, longitude {lng}; {remedy}")
    return lat, lng
