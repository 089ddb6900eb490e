"""The files that EuroSAT's settings name: places by the images' names (YAML), and labeled rows (.npy).

Both are those of the reference project: `data/eurosat_meta.yaml` and `data/splits/eurosat/lb_labels20_1_seed0_idx.npy`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import yaml
from numpy.typing import NDArray

from stssl.data.sources._table_cells import NUMBER, contradiction
from stssl.errors import DataError
from stssl.storage import Folder, is_uri

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is not in every build of PyYAML
_ENTRY = "expected <name of an image without its ending>: [<longitude>, <latitude>, ...] in degrees"


class Indices(NamedTuple):
    """The numbers in a file: `numbers` int64, unique; `seed` is that of the file's name or None, `shown` the file."""

    shown: str
    numbers: NDArray[np.int64]
    seed: int | None


def read_places(place: str, root: Folder, ids: Sequence[str], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 2] degrees (latitude, longitude) of some images; the file has them as `<id>: [<longitude>, <latitude>, ...]`.

    Args:
        place: The YAML file, seen from `root` or, if it is not there, from the working directory.
        root: Of the images.
        ids: Of the images.
        known: [N, 2] where they are, NaN = not known.

    Raises:
        DataError: The file is missing, no such YAML, names an image twice or not at all, or has an impossible place or
            one that is more than a degree off.
    """
    shown, data = _read_file(place, root, "metadata")
    places: dict[str, tuple[float, float]] = {}
    for stem, line, values in _entries(data, shown):
        if stem in places:
            raise DataError(f"{shown}, line {line}: '{stem}' stands here twice; remove one of the two")
        try:
            places[stem] = _degrees(values)
        except ValueError as error:
            raise DataError(f"{shown}, line {line}: '{stem}': [{', '.join(values)}]: {error}; {_ENTRY}") from None
    missing = [stem for stem in ids if stem not in places]
    if missing:
        more = f" and {len(missing) - 1} more images" if len(missing) > 1 else ""
        raise DataError(f"{shown}: has no place of '{missing[0]}'{more}; add it, or leave out --set metadata")
    for stem, (lat, lng) in zip(ids, known.tolist(), strict=True):
        if not math.isnan(lat) and (why := contradiction(places[stem], (lat, lng))):
            raise DataError(f"{shown}: '{stem}' is not where EuroSAT has it: {why}; {_ENTRY}")
    return np.array([places[stem] for stem in ids])


def read_indices(place: str, root: Folder, count: int) -> Indices:
    """Which of `count` training images are labeled, as the reference project saves it.

    Args:
        place: The .npy file, seen from `root` or, if it is not there, from the working directory.
        root: Of the images.
        count: One more than the largest number that makes sense.

    Raises:
        DataError: The file is missing, damaged, or holds anything but different numbers from 0 to `count` - 1.
    """
    shown, data = _read_file(place, root, "labeled")
    if re.search(r"(^|/)ulb_", shown):
        raise DataError(f"{shown}: numbers of the unlabeled images; name the file of the labeled ones, lb_..._idx.npy")
    try:
        found = np.lib.format.read_array(
            io.BytesIO(data), allow_pickle=False
        )  # np.load, but for nothing else than .npy
    except Exception as error:  # its parser lets through whatever the bytes of a header lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{shown}: damaged or no .npy file of numbers ({reason})") from None
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise DataError(f"{shown}: expected a list of whole numbers, found {found.dtype} of shape {found.shape}")
    outside = found[(found < 0) | (found >= count)]
    if len(outside):
        raise DataError(f"{shown}: {outside[0]} is no number of a training image; expected 0 to {count - 1}")
    values, times = np.unique(found, return_counts=True)
    if len(values) < len(found):
        raise DataError(f"{shown}: {values[times > 1][0]} stands here twice; expected different numbers")
    name = shown.rpartition("/")[2]
    labels, seed = (re.search(rf"{word}_?(\d{{1,9}})(?!\d)", name, re.ASCII) for word in ("labels", "seed"))
    if labels and int(labels[1]) != len(found):
        raise DataError(f"{shown}: holds {len(found)} numbers, its name says {labels[1]}; one of the two is wrong")
    return Indices(shown, found.astype(np.int64), int(seed[1]) if seed else None)


def _read_file(place: str, root: Folder, setting: str) -> tuple[str, bytes]:
    """A file's full name and content."""
    looked = place
    try:
        for folder, name in _candidates(place, root):
            looked = folder.show(name)
            if folder.size(name) is not None:
                return looked, folder.read(name)
    except OSError as error:
        raise DataError(f"{setting}: {looked}: cannot be read: {' '.join(str(error).split())}") from None
    raise DataError(f"{setting}: {looked}: no such file")


def _candidates(place: str, root: Folder) -> Iterator[tuple[Folder, str]]:
    """Where a file may lie, as a folder and a name there."""
    if is_uri(place):
        path, mark, query = place.partition("?")
        above, _, name = path.rpartition("/")
        yield Folder(above + mark + query), unquote(name)
        return
    path_ = Path(place).expanduser()
    if not path_.is_absolute():
        yield root.locate(place)
    yield Folder(path_.parent), path_.name


def _entries(data: bytes, shown: str) -> Iterator[tuple[str, int, list[str]]]:
    """Name, line and values of each entry, as they are written.

    The events of the parser are taken one by one: five times as fast as building 27,000 lists, and what is nested deeper
    than an entry is refused at once (a thousand brackets and more crash PyYAML's C loader).
    """
    depth, stem, line, values = 0, "", 0, [""]
    is_key = True
    try:
        for event in yaml.parse(data, Loader=_LOADER):
            here = getattr(event.start_mark, "line", 0) + 1
            if isinstance(event, yaml.ScalarEvent) and depth == 2:
                values.append(event.value if event.implicit[0] else repr(event.value))  # '28.5' in quotes is a string
            elif isinstance(event, yaml.ScalarEvent) and depth == 1 and is_key:
                stem, line, is_key = event.value, here, False
            elif isinstance(event, yaml.SequenceStartEvent) and depth == 1 and not is_key:
                depth, values = 2, []
            elif isinstance(event, yaml.SequenceEndEvent):
                yield stem, line, values
                depth, is_key = 1, True
            elif isinstance(event, yaml.MappingStartEvent) and depth == 0:
                depth = 1
            elif isinstance(event, yaml.MappingEndEvent):
                depth = -1  # nothing may follow
            elif isinstance(event, yaml.NodeEvent):
                raise DataError(f"{shown}, line {here}: {_ENTRY}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise DataError(f"{shown}{where}: not valid YAML: {problem}") from None


def _degrees(values: list[str]) -> tuple[float, float]:
    """(latitude, longitude) of an entry.

    Raises:
        ValueError: What is wrong with it.
    """
    if len(values) < 2 or not all(map(NUMBER.fullmatch, values[:2])):
        raise ValueError("these are not two numbers")
    lng, lat = map(float, values[:2])
    if not (math.isfinite(lng) and math.isfinite(lat)):
        raise ValueError("not finite")
    if abs(lng) <= 90 < abs(lat) <= 180:
        raise ValueError("latitude and longitude look swapped")
    if abs(lat) > 90:
        raise ValueError(f"a latitude of {lat:g}")
    if abs(lng) > 180:
        raise ValueError(f"a longitude of {lng:g}")
    return lat, lng
