"""The table reader: what users write into tables, every kind of image, and everything that can be wrong with either."""

import csv
import pickle
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from PIL import Image
from rasterio.transform import Affine, from_origin

from stssl.config import validate
from stssl.data.content import Content
from stssl.data.schema import Sample
from stssl.data.sources.table import Table, TableConfig
from stssl.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

ROOT = Path(__file__).parents[2]
# 8 x 8 pixels of 10 m around a point of the zone's central meridian, 9 degrees east
UTM = {"crs": "EPSG:32632", "transform": from_origin(500_000 - 40, 5_300_000 + 40, 10, 10)}
TOWN = {"path": "a.png", "label": "town"}


def image(path: Path, bands: int = 3, size: int = 8, dtype: str = "uint8", seed: int = 0, **options: Any) -> np.ndarray:
    """Write an image of noise; returns its pixels."""
    tags, names = options.pop("tags", {}), options.pop("names", ())
    noise = np.random.default_rng(seed).integers(0, 256, (bands, size, size))
    pixels = noise.astype(dtype) * options.pop("scale", 1) + options.pop("shift", 0)
    driver = {".png": "PNG", ".jpg": "JPEG"}.get(path.suffix, "GTiff")
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": bands, "height": size, "width": size, "dtype": dtype}
    with rasterio.open(path, "w", driver=driver, **shape, **options) as file:
        file.write(pixels.astype(dtype))
        file.update_tags(**tags)
        if names:
            file.descriptions = names
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)
    return pixels.astype(dtype)


def table(path: Path, *rows: dict[str, Any], **settings: Any) -> Table:
    """Write the rows as CSV or Parquet (by the ending) and open them."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return open_(path, **settings)


def open_(root: Path | str, **settings: Any) -> Table:
    return Table(validate(TableConfig, {"root": str(root), **settings}, "prepare table"))


def samples(source: Table) -> list[Sample]:
    return [source.read(index) for index in range(len(source))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the images a.png, b.png and c.png."""
    for seed, name in enumerate("abc"):
        image(tmp_path / f"{name}.png", seed=seed)
    return tmp_path


@pytest.fixture
def fault(folder: Path) -> Callable[..., str]:
    """Opens a table of a.png with some cells changed, reads it, and returns what it is refused with."""

    def refused(ending: str = "csv", config: dict[str, Any] | None = None, **cells: Any) -> str:
        with pytest.raises(DataError) as error:
            samples(table(folder / f"my.{ending}", {**TOWN, **cells}, **(config or {})))
        message = str(error.value)
        assert str(folder) in message and "\n" not in message
        return message

    return refused


def test_all_columns(folder: Path) -> None:
    source = table(
        folder / "my.csv",
        {"path": "c.png", "label": "town ", "lat": 48.5, "lng": -11, "time": "2021-06-30T12:00:00Z", "split": "Valid"},
        {"path": " a.png", "label": "", "lat": "", "lng": "NaN", "time": "", "split": ""},
        {"path": "b.png", "label": "a, lake", "lat": "-9e1", "lng": "+180.", "time": "1970-01-02", "split": "TRAIN"},
        licence="CC0",
    )
    a, b, c = samples(source)
    assert (source.task, source.classes, source.bands) == ("single", ("a, lake", "town"), ("R", "G", "B"))
    assert (source.licence, source.attribution) == ("CC0", "unknown, see the data's owner")
    assert source.ids == ["a", "b", "c"] and [s.id for s in (a, b, c)] == source.ids
    assert a[2:] == (None, None, None, None, None)
    assert b[2:] == (("a, lake",), -90.0, 180.0, 1.0, "train")
    assert c[2:] == (("town",), 48.5, -11.0, 18808.5, "validation")
    assert np.array_equal(a.image, image(folder / "again.png", seed=0)) and a.image.dtype == np.uint8


def test_parquet_types(folder: Path) -> None:
    rows = [
        {"path": "a.png", "labels": ["x", "y"], "lat": 1, "time": datetime(2021, 1, 1, 6), "id": "2"},
        {"path": "b.png", "labels": [], "lat": None, "time": None, "id": "10"},
        {"path": "c.png", "labels": None, "lat": 3, "time": datetime(2021, 1, 2, 6, tzinfo=UTC), "id": "1"},
    ]
    lng = pa.array([2.5, float("nan"), -3.5])
    for unit in ("s", "ms", "us", "ns"):
        times = pa.array([row["time"] for row in rows], pa.timestamp("us")).cast(pa.timestamp(unit))
        for kind in (times, times.cast(pa.timestamp(unit, "America/New_York"))):
            data = pa.Table.from_pylist(rows).drop_columns("time").append_column("lng", lng).append_column("time", kind)
            pq.write_table(data, folder / "table.parquet")
            c, b, a = samples(open_(folder))
            assert [s.id for s in (c, b, a)] == ["1", "10", "2"]
            assert a[2:] == (("x", "y"), 1.0, 2.5, 18628.25, None)
            assert b[2:] == ((), None, None, None, None)
            assert c[2:] == (None, 3.0, -3.5, 18629.25, None)


def test_parquet_categories_integers_and_dates(folder: Path) -> None:
    columns = {
        "path": pa.array(["a.png", "b.png"]).dictionary_encode(),
        "label": pa.array([3, None], pa.int8()),
        "time": pa.array([date(2020, 2, 29), None]),
        "split": pa.array(["test", None]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), folder / "t.parquet")
    a, b = samples(open_(folder / "t.parquet"))
    assert (a.labels, a.time, a.split) == (("3",), 18321.0, "test") and b[2:] == (None, None, None, None, None)


@pytest.mark.parametrize(("cell", "labels"), [("x", ("x",)), ("y; x", ("y", "x")), ("", None), ("  ", None), ("-", ())])
def test_several_labels_as_text(folder: Path, cell: str, labels: tuple[str, ...] | None) -> None:
    source = table(folder / "my.csv", {"path": "a.png", "labels": cell}, classes=["y", "x"])
    assert source.task == "multi" and source.classes == ("y", "x") and source.read(0).labels == labels


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"label": "town;lake"}, "'town;lake' is several labels; use `--set task=multi`"),
        ({"label": "-"}, "'-' is no label"),
        ({"labels": "x;;y"}, "'' is no label (in 'x;;y')"),
        ({"labels": "x;-"}, "'-' is no label (in 'x;-')"),
        ({"label": "nan"}, "'nan' reads like a missing value; leave the cell empty for an unlabeled image, or set"),
        ({"labels": "x;None"}, "'None' reads like a missing value"),
        ({"label": "a\tb"}, r"'a\tb' holds a line break or another control character"),
        ({"labels": "x;y;x"}, "a label stands twice in 'x;y;x'"),
    ],
)
def test_faulty_labels(folder: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as error:
        table(folder / "my.csv", {"path": "a.png", **cells})
    assert f"my.csv: line 2: column '{next(iter(cells))}'" in str(error.value)


def test_numbers_as_labels(folder: Path) -> None:
    rows = [{"path": "a.png", "label": 1.0}, {"path": "b.png", "label": None}, {"path": "c.png", "label": 10.0}]
    for ending in ("csv", "parquet"):  # as pandas writes integers of which one is missing
        source = table(folder / f"my.{ending}", *rows)
        assert source.classes == ("1", "10") and [s.labels for s in samples(source)] == [("1",), None, ("10",)]
        assert open_(folder / f"my.{ending}", classes=[10, 1]).classes == ("10", "1")
    assert open_(folder / "my.csv", classes=["1.0", "10.0"]).read(0).labels == ("1.0",)
    assert table(folder / "my.csv", *rows, {"path": "d.png", "label": "v1"}).classes == ("1.0", "10.0", "v1")
    source = table(folder / "my.parquet", {"path": "a.png", "labels": [0, 1], "id": 7}, classes=[0, 1])
    assert source.ids == ["7"] and source.read(0).labels == ("0", "1")


def test_a_class_may_be_called_none(folder: Path) -> None:
    assert table(folder / "my.csv", {**TOWN, "label": "None"}, classes=["None", "x"]).read(0).labels == ("None",)


def test_unknown_label(fault: Callable[..., str]) -> None:
    message = fault(label="towm", config={"classes": ["lake", "town"]})
    assert "line 2: column 'label': unknown label 'towm'; did you mean 'town'? known: lake, town" in message


def test_task_is_the_users_to_choose(folder: Path) -> None:
    row = {"path": "a.png", "label": "x", "labels": "x;y"}
    with pytest.raises(DataError, match="both 'label' and 'labels'; choose"):
        table(folder / "my.csv", row)
    assert open_(folder / "my.csv", task="single").read(0).labels == ("x",)
    assert open_(folder / "my.csv", task="multi").read(0).labels == ("x", "y")
    source = table(folder / "my.csv", {"path": "a.png", "label": "x;y"}, task="multi")
    assert source.task == "multi" and source.read(0).labels == ("x", "y")


def test_no_labels_at_all(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no row has a label; name the classes"):
        table(folder / "my.csv", {"path": "a.png", "label": ""})
    assert open_(folder / "my.csv", classes=["x"]).read(0).labels is None
    with pytest.raises(DataError, match="no column 'label'"):
        table(folder / "my.csv", {"path": "a.png"})
    assert open_(folder / "my.csv", classes=["x"], task="multi").read(0).labels is None


@pytest.mark.parametrize(
    ("lat", "lng", "message"),
    [
        ("1", "", "latitude 1, longitude nan: one of the two is missing"),
        ("nan", "1", "one of the two is missing"),
        ("-120.5", "45", "latitude -120.5, longitude 45: the two look swapped"),
        ("10", "350", "from 0 to 360; subtract 360"),
        ("91", "200", "no place on Earth"),
        ("5300000", "600000", "no place on Earth; expected degrees"),
        ("1e999", "1", "latitude inf"),
        ("10", "-180.001", "no place on Earth"),
        ("48,5", "1", "column 'lat': '48,5' is no number"),
        ("1", "11°E", "column 'lng': '11°E' is no number"),
        ("1_0", "1", "'1_0' is no number"),
        ("٣", "1", "is no number"),
    ],
)
def test_faulty_places(fault: Callable[..., str], lat: str, lng: str, message: str) -> None:
    found = fault(lat=lat, lng=lng)
    assert message in found and "my.csv: line 2: " in found


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("2021-02-30", "'2021-02-30' does not exist"),
        ("2021-13-01", "does not exist"),
        ("2021-06-30T25:00", "does not exist"),
        ("30.06.2021", "'30.06.2021' is no date; write a date such as 2021-06-30"),
        ("2021", "'2021' is a mere number"),
        ("1624000000.5", "is a mere number"),
        ("20210630", "is a mere number"),
        ("NaT", "is no date"),
        ("1899-12-31", "1899-12-31 is out of the years 1900 to 2100"),
        ("2101-01-01", "out of the years"),
        ("0001-01-01T00:00:00+14:00", "out of the years"),
        ("٢٠٢١-06-30", "is no date"),
    ],
)
def test_faulty_times(fault: Callable[..., str], time: str, message: str) -> None:
    found = fault(time=time)
    assert message in found and "my.csv: line 2: column 'time': " in found


@pytest.mark.parametrize(
    ("time", "days"),
    [
        ("2021-06-30", 18808),
        ("2021-06-30 18:00", 18808.75),
        ("2021-06-30T18:00:00.000+06:00", 18808.5),
        ("2021-06-30T18:00:00Z", 18808.75),
        ("2100-12-31T23:59:59", 47847 - 1 / 86400),
        ("1900-01-01", -25567),
    ],
)
def test_times(folder: Path, time: str, days: float) -> None:
    assert table(folder / "my.csv", {**TOWN, "time": time}).read(0).time == days


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"time": 1_624_000_000}, "row 1: column 'time': '1624000000' is a mere number"),
        ({"time": datetime(2500, 1, 1)}, "row 1: column 'time': 2500-01-01 is out of the years"),
        ({"label": 3.5}, "row 1: column 'label': '3.5' is no class name; write names as text or as whole numbers"),
        ({"labels": [0, 1]}, "row 1: column 'labels': '(0, 1)' looks like 0/1 vectors; give class names"),
        ({"labels": [True, True]}, "column 'labels': '(True, True)' looks like 0/1 vectors"),
        ({"labels": ["x", "NaN"]}, "row 1: column 'labels': 'NaN' reads like a missing value"),
        ({"label": ["x"]}, "row 1: column 'label': expected text"),
        ({"label": {"name": "x"}}, "column 'label' is struct<name: string>; expected text"),
        ({"label": True}, "row 1: column 'label': expected text, got 'True' (bool)"),
        ({"path": 5}, "row 1: column 'path': expected text"),
        ({"path": None}, "row 1: column 'path': the path is empty"),
        ({"lat": True, "lng": True}, "row 1: column 'lat': 'True' is no number"),
        ({"split": b"train"}, "row 1: column 'split': expected text"),
        ({"labels": ["x", None]}, "row 1: column 'labels': '' is no label"),
        ({"labels": ["x", "x"]}, "row 1: column 'labels': a label stands twice"),
        ({"labels": [["x"]]}, "column 'labels' is list<"),
    ],
)
def test_faulty_parquet_cells(folder: Path, cells: dict[str, Any], message: str) -> None:
    row = {"path": "a.png", **({} if "labels" in cells else {"label": "x"}), **cells}
    with pytest.raises(DataError, match=re.escape(message)) as error:
        table(folder / "my.parquet", row)
    assert "my.parquet: " in str(error.value)


def test_unknown_split(fault: Callable[..., str]) -> None:
    assert "line 2: column 'split': unknown split 'tset'; did you mean 'test'?" in fault(split="tset")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the path is empty"),
        ("a.bmp", "'a.bmp' is no image by its ending; known: .tif"),
        (".", "no image by its ending"),
        ("s3://bucket/a.png", "is no path"),
        ("a\0.png", "is no path"),
        ("a\nb.png", "is no path"),
        ("new\xa0york.png", "new\xa0york.png: no such file"),
        ("gone.png", "gone.png: no such file; replace it, or take out line 2 of my.csv"),
        ("x" * 300 + ".png", "line 2: column 'path': 'xxx"),
    ],
)
def test_faulty_paths(fault: Callable[..., str], path: str, message: str) -> None:
    assert message in fault(path=path)


def test_duplicates(folder: Path) -> None:
    image(folder / "a.tif")
    with pytest.raises(DataError, match=r"my.csv: line 2 and line 4 name the same image 'a.png'"):
        table(folder / "my.csv", TOWN, {**TOWN, "path": "b.png"}, {**TOWN, "path": f"./x/..//{'a.png'}"})
    with pytest.raises(DataError, match=r"line 2 and line 3 name the same image 'a.png'"):
        table(folder / "my.csv", TOWN, {**TOWN, "path": f"{folder}/a.png"})
    with pytest.raises(DataError, match=r"line 2 and line 3 have the same path but for its ending, 'a'; add a column"):
        table(folder / "my.csv", TOWN, {**TOWN, "path": "a.tif"})
    with pytest.raises(DataError, match=r"row 1 and row 2 have the same id '1'"):
        table(folder / "my.parquet", {**TOWN, "id": "1"}, {"path": "b.png", "label": "x", "id": " 1"})
    with pytest.raises(DataError, match=r"line 2: column 'id': the id is empty"):
        table(folder / "my.csv", {**TOWN, "id": " "})


def test_paths_out_of_the_folder(folder: Path) -> None:
    (folder / "tables").mkdir()
    rows = [{**TOWN, "path": "../a.png"}, {**TOWN, "path": f"{folder}/b.png"}]
    source = table(folder / "tables" / "my.csv", *rows)
    assert source.ids == ["../a", f"{folder}/b"]
    assert [s.image.shape for s in samples(source)] == [(3, 8, 8)] * 2
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=rf"^{re.escape(str(folder))}/b.png: the file is empty"):
        source.read(1)


def test_headings(folder: Path) -> None:
    def refused(heading: str, match: str, **settings: Any) -> None:
        (folder / "my.csv").write_text(f"{heading}\na.png,x,1,2\n")
        with pytest.raises(DataError, match=match):
            open_(folder / "my.csv", **settings)

    refused("pth,label,lat,lng", r"my.csv: the column 'path' is missing; did you mean 'pth'\?")
    refused("Filename,label,lat,lng", r"no column 'path', but 'Filename'; .*columns.path=Filename'`$")
    refused("path,Label,lat,lng", r"no column 'label', but 'Label'; .*columns.label=Label'`, or .*columns.label=null")
    refused("path,label,lat,lon", r"no column 'lng', but 'lon'")
    refused("path,label,lat,acquisition_date", r"no column 'time', but 'acquisition_date'")
    refused("path,label,lat,x", "has a column 'lat' but no 'lng'")
    refused("path,label,lat,lat", "has a column 'lat' but no 'lng'")
    refused("path,path,lat,lng", "the heading 'path' is used twice")
    refused("path,label,lat,lng", "no heading 'lng2' for the column lng; did you mean 'lng'", columns={"lng": "lng2"})
    refused("path,label,lat,lng", "the heading 'lat' is used twice", columns={"lng": "lat"})
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        said = f"my.csv: {name} between the headings; separate the columns with commas"
        refused(mark.join(["path", "label", "lat", "lng"]) + f"\na.png{mark}x{mark}1{mark}2", said)
        refused(f'"path"{mark}"label"', said)
    (folder / "my.csv").write_text("image , class, Latitude ,lon,date,note\na.png,x,1,2,2021-02-29,\n")
    names = {"path": "image", "label": "class", "lat": "Latitude", "lng": "lon", "time": None}
    assert open_(folder / "my.csv", columns=names).read(0)[2:] == (("x",), 1.0, 2.0, None, None)
    with pytest.raises(DataError, match=r"column 'date': '2021-02-29' does not exist"):
        open_(folder / "my.csv", columns={**names, "time": "date"})
    with pytest.raises(ConfigError, match=r"columns.latt: unknown choice 'latt'; did you mean 'lat'\?"):
        open_(folder / "my.csv", columns={"latt": "Latitude"})


def test_csv_lines_are_those_of_the_file(folder: Path) -> None:
    good = '\ufeffpath,label,note\r\n\r\na.png,x,"two\r\nlines, and ""quotes"""\r\n\r\nb.png,y,'
    (folder / "my.csv").write_bytes(good.encode())
    assert [s.labels for s in samples(open_(folder / "my.csv"))] == [("x",), ("y",)]
    for line, message in {
        "c.png,z": r"line 7: 2 cells under 3 headings",
        'c.png,"z"x,': r"line 7: no valid CSV",
        'c.png,"z,': r"line 7: no valid CSV",
        "c.bmp,z,": r"line 7: column 'path'",
        "c.png,\udcff,": r"line 7: not UTF-8",
    }.items():
        (folder / "my.csv").write_bytes(f"{good}\r\n{line}\r\n".encode(errors="surrogateescape"))
        with pytest.raises(DataError, match=rf"my.csv: {message}"):
            open_(folder / "my.csv")


def test_missing_empty_and_foreign_tables(folder: Path) -> None:
    (folder / "zero.csv").touch()
    (folder / "heads.csv").write_text("path,label\n")
    (folder / "text.parquet").write_text("path,label\na.png,x\n")
    for name, message in {
        "zero.csv": "the file is empty",
        "heads.csv": "holds no rows",
        "text.parquet": "damaged or no Parquet table",
        "gone.csv": "no such file",
        "gone": "is no folder with table.csv, table.parquet or metadata.csv",
        "a.png": "name the table itself",
    }.items():
        with pytest.raises(DataError, match=rf"{name}: .*{message}"):
            open_(folder / name)
    table(folder / "metadata.csv", TOWN)
    assert len(open_(folder)) == len(open_(f"file://{folder}")) == len(open_(f"file://{folder}/metadata.csv")) == 1
    table(folder / "table.csv", TOWN)
    with pytest.raises(DataError, match=r"holds table.csv and metadata.csv; name the table itself"):
        open_(folder)


@pytest.mark.parametrize("bands", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16", "uint32", "int32", "float32", "float64"])
def test_every_depth(tmp_path: Path, dtype: str, bands: int) -> None:
    pixels = image(tmp_path / "a.tif", bands, dtype=dtype, shift=-128 if dtype.startswith(("i", "f")) else 0)
    read = table(tmp_path / "my.csv", {**TOWN, "path": "a.tif"}).read(0).image
    assert read.dtype == (dtype if dtype in ("uint8", "uint16") else "float32")
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("complex64", 1, "pixels are complex64"),
        ("int32", -(2**24) - 1, "integers beyond 2^24"),
        ("uint32", 2**32 - 1, "integers beyond 2^24"),
        ("float32", np.nan, "192 values are NaN, infinite or beyond 32 bits"),
        ("float64", 1e39, "beyond 32 bits"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, dtype: str, value: float, message: str) -> None:
    image(tmp_path / "a.tif", dtype=dtype, scale=0, shift=value)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        table(tmp_path / "my.csv", {**TOWN, "path": "a.tif"}).read(0)
    assert "a.tif: " in str(error.value) and "line 2 of my.csv" in str(error.value)


def test_palette_and_pages(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    with rasterio.open(tmp_path / "a.png") as grey:
        profile, pixels = grey.profile, grey.read(1)
    with rasterio.open(tmp_path / "a.tif", "w", **{**profile, "driver": "GTiff"}) as file:
        file.write_colormap(1, {0: (255, 0, 0)})
        file.write(pixels, 1)
    with pytest.raises(DataError, match=r"a.tif: its pixels are numbers of a palette; save it as RGB"):
        table(tmp_path / "my.csv", {**TOWN, "path": "a.tif"})
    image(tmp_path / "b.tif", 1)
    image(tmp_path / "b.tif", 1, APPEND_SUBDATASET="YES")
    with pytest.raises(DataError, match=r"b.tif: holds several images"):
        table(tmp_path / "my.csv", {**TOWN, "path": "b.tif"})


def test_band_names(tmp_path: Path) -> None:
    image(tmp_path / "rgb.jpg")
    image(tmp_path / "rgba.png", 4)
    image(tmp_path / "deep.png", dtype="uint16")
    image(tmp_path / "plain.tif")
    image(tmp_path / "named.tif", names=("B04", "B03", "B02"))
    image(tmp_path / "twice.tif", names=("B04", "B03", "B03"))

    def names(file: str, **settings: Any) -> tuple[str, ...]:
        return table(tmp_path / "my.csv", {**TOWN, "path": file}, **settings).bands

    numbered = ("band1", "band2", "band3")
    assert names("rgb.jpg") == ("R", "G", "B") and names("rgba.png") == (*numbered, "band4")
    assert names("deep.png") == names("plain.tif") == names("twice.tif") == numbered
    assert names("named.tif") == ("B04", "B03", "B02") and names("named.tif", bands=["r", "g", "b"]) == ("r", "g", "b")
    with pytest.raises(DataError, match=r"plain.tif: has 3 bands, and `bands` names 2: r, g"):
        names("plain.tif", bands=["r", "g"])
    with pytest.raises(ConfigError, match=r"bands: expected at least one name, each once"):
        names("plain.tif", bands=["r", "r", "b"])


def test_images_that_do_not_agree(tmp_path: Path) -> None:
    image(tmp_path / "a.tif", names=("r", "g", "b"))
    image(tmp_path / "bands.tif", bands=4)
    image(tmp_path / "depth.tif", dtype="uint16")
    image(tmp_path / "order.tif", names=("b", "g", "r"))
    image(tmp_path / "size.tif", size=9)
    source = table(tmp_path / "my.csv", *({**TOWN, "path": path.name} for path in sorted(tmp_path.glob("*.tif"))))
    assert source.ids == ["a", "bands", "depth", "order", "size"]
    for index, message in enumerate(
        [
            r"bands.tif: has 4 bands of 8 x 8 pixels, uint8; expected 3 bands, uint8, as .*a.tif; replace it, or take out",
            r"depth.tif: has 3 bands of 8 x 8 pixels, uint16; expected 3 bands, uint8, as",
            r"order.tif: its bands are b, g, r; expected r, g, b, as .*a.tif",
            r"size.tif: has 3 bands of 9 x 9 pixels, uint8; .*a.tif has 3 bands of 8 x 8 pixels.*`--set size=",
        ],
        start=1,
    ):
        with pytest.raises(DataError, match=message):
            source.read(index)
    assert open_(tmp_path / "my.csv", bands=["x", "y", "z"]).read(3).image.shape == (3, 8, 8)
    assert open_(tmp_path / "my.csv", size=4).read(4).image.shape == (3, 4, 4)


def test_resampling(tmp_path: Path) -> None:
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=1, height=8, width=4, dtype="uint16") as file:
        file.write(np.full((1, 8, 4), 700, np.uint16))
    pixels = image(tmp_path / "b.tif", 1, 6, "uint16")
    source = table(tmp_path / "my.csv", {**TOWN, "path": "a.tif"}, {**TOWN, "path": "b.tif"}, size=6)
    assert source.read(0).image.tolist() == np.full((1, 6, 6), 700).tolist()
    assert np.array_equal(source.read(1).image, pixels)


def test_place_and_time_of_the_image(tmp_path: Path) -> None:
    stamp = {"TIFFTAG_DATETIME": "2020:02:29 12:00:00"}
    image(tmp_path / "a.tif", **UTM, tags=stamp)
    image(tmp_path / "b.tif", **UTM, tags={**stamp, "Acquisition_Date": "2021-06-30", "EXIF_DateTimeOriginal": "x"})
    zeros = {"TIFFTAG_DATETIME": "0000:00:00 00:00:00", "ACQUISITION_TIME": "10:15:00"}
    image(tmp_path / "c.tif", tags={"datetime": "    :  :     :  :  ", **zeros})
    image(tmp_path / "d.tif", tags={"TIFFTAG_DATETIME": "2021:02:29 00:00:00"})
    rows = [{**TOWN, "path": f"{name}.tif"} for name in "abcd"]
    source = table(tmp_path / "my.csv", *rows)
    a, b, c = (source.read(index) for index in range(3))
    # By the length of the meridian: 5300 km / 0.9996 = 111132.9526 lat - 16038.509 sin 2 lat + 16.833 sin 4 lat
    assert (a.lat, a.lng) == pytest.approx((47.85334, 9), abs=1e-5) and (a.time, b.time) == (18321.5, 18808.0)
    assert (c.lat, c.lng, c.time) == (None, None, None)
    with pytest.raises(DataError, match=r"d.tif: tag TIFFTAG_DATETIME '2021:02:29.*does not exist.*column 'time'"):
        source.read(3)
    told = table(tmp_path / "my.csv", *({**row, "lat": "", "lng": "", "time": ""} for row in rows))
    none = table(tmp_path / "my.csv", *rows, columns={"lat": None, "lng": None, "time": None})
    for silent in (told, none):  # a column is there, or there is none by the user's word: the image is not asked
        assert [s[3:6] for s in samples(silent)] == [(None, None, None)] * 4
    assert none.stamp(0) != source.stamp(0)


def test_place_of_a_rotated_image(tmp_path: Path) -> None:
    cos, sin, step = 0.8, 0.6, 1000  # its centre is that of UTM; its corner, seen without the turn, is kilometres off
    x, y = 500_000 - 4 * step * (cos + sin), 5_300_000 - 4 * step * (sin - cos)
    turned = Affine(step * cos, step * sin, x, step * sin, -step * cos, y)
    image(tmp_path / "a.tif", crs=UTM["crs"], transform=turned)
    a = table(tmp_path / "my.csv", {**TOWN, "path": "a.tif"}).read(0)
    assert (a.lat, a.lng) == pytest.approx((47.85334, 9), abs=1e-5)


def test_table_and_georeference_differ(tmp_path: Path) -> None:
    image(tmp_path / "a.tif", **UTM)
    image(tmp_path / "b.tif", crs='LOCAL_CS["nowhere",UNIT["metre",1]]', transform=UTM["transform"])

    def source(lat: float, lng: float, name: str = "a.tif") -> Table:
        return table(tmp_path / "my.csv", {**TOWN, "path": name, "lat": lat, "lng": lng})

    assert source(47.1, 9.9).read(0).lat == 47.1 and source(1, 2, "b.tif").read(0).lng == 2
    with pytest.raises(
        DataError, match=r"a.tif: my.csv and georeference differ: latitude 9, longitude 47.8 but"
    ) as error:
        source(9, 47.8).read(0)
    assert "latitude 47.85" in str(error.value) and ": the two look swapped; mend the table" in str(error.value)
    with pytest.raises(DataError, match=r"a.tif: .*latitude 49, longitude 9 but latitude 47.85\d+, longitude 9; mend"):
        source(49, 9).read(0)


def test_time_of_a_camera(tmp_path: Path) -> None:
    exif = Image.Exif()
    for written, days in (("2021:06:30 18:00:00", 18808.75), ("0000:00:00 00:00:00", None), (" " * 19, None)):
        exif.get_ifd(0x8769)[0x9003] = written  # DateTimeOriginal
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
        assert table(tmp_path / "my.csv", {**TOWN, "path": "a.jpg"}).read(0).time == days


def test_georeference_to_nowhere(tmp_path: Path) -> None:
    image(tmp_path / "a.tif", **{**UTM, "transform": from_origin(1e9, 1e9, 10, 10)})
    image(tmp_path / "b.tif", crs='LOCAL_CS["nowhere",UNIT["metre",1]]', transform=UTM["transform"])
    source = table(tmp_path / "my.csv", {**TOWN, "path": "a.tif"}, {**TOWN, "path": "b.tif"})
    for index, name in enumerate("ab"):
        with pytest.raises(DataError, match=rf"{name}.tif: .*line {index + 2} of my.csv"):
            source.read(index)


def test_the_real_patches(tmp_path: Path) -> None:
    root = ROOT / "data" / "eurosat_ms_103"
    told = open_(root, columns={"time": None})
    rows = [{"path": root / f"{name}.tif", "label": name.split("/")[1], "date": ""} for name in told.ids]
    asked = table(tmp_path / "my.csv", *rows, columns={"time": "date"})  # without lat and lng
    assert len(told) == 103 and len(told.bands) == 13 and len(told.classes) == 10
    for index in range(0, 103, 17):
        one, other = told.read(index), asked.read(index)
        assert (one.lat, one.lng) == pytest.approx((other.lat, other.lng), abs=2e-6)
        assert one.labels == other.labels == (one.id.split("/")[1],) and one.time is other.time is None
        assert np.array_equal(one.image, other.image) and one.image.dtype == np.uint16


def test_stamps_follow_image_and_row(folder: Path) -> None:
    rows = [
        {**TOWN, "lat": 1, "lng": 2, "time": "2021-01-01", "split": ""},
        {**TOWN, "path": "b.png", "lat": "", "lng": ""},
    ]
    seen = set()
    for change in ({}, {"label": "x"}, {"lat": 3}, {"lng": 3}, {"time": "2021-01-02"}, {"split": "test"}):
        source = table(folder / "my.csv", {**rows[0], **change}, {"time": "", "split": "", **rows[1]})
        seen.add(source.stamp(0))
        other = source.stamp(1)
        assert other == open_(folder / "my.csv").stamp(1)
        assert list(source.files(1)) == ["b.png"]
    assert len(seen) == 6
    table(folder / "my.csv", {**TOWN, "path": "a.png"}, {**TOWN, "path": "b.png"})
    assert open_(folder / "my.csv").stamp(1) != other  # places now come from the images: another thing than unknown
    before = open_(folder / "my.csv").stamp(0)
    image(folder / "a.png", size=9)
    assert open_(folder / "my.csv").stamp(0) != before


def test_a_source_can_be_pickled(folder: Path) -> None:
    source = table(folder / "my.csv", {**TOWN, "labels": "x;y", "lat": 1, "lng": 2}, task="multi")
    other = pickle.loads(pickle.dumps(source))
    assert other.stamp(0) == source.stamp(0) and other.head() == source.head()
    assert other.read(0)[2:] == (("x", "y"), 1.0, 2.0, None, None)


def test_damaged_first_images_do_not_hide_the_form(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"")
    source = table(folder / "my.csv", TOWN, {**TOWN, "path": "b.png"})
    assert source.bands == ("R", "G", "B") and source.read(1).image.shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"a.png: the file is empty; replace it, or take out line 2 of my.csv"):
        source.read(0)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts files into a bucket of an S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="patches")
    yield lambda name, data: client.put_object(Bucket="patches", Key=name, Body=data)
    server.stop()


def test_in_a_bucket(folder: Path, bucket: Callable[[str, bytes], Any]) -> None:
    bucket("x/images/a.png", (folder / "a.png").read_bytes())
    bucket("x/table.csv", b"path,label\nimages/a.png,town\nimages/gone.png,\n")
    bucket("my table.csv", b"path,label\nx/images/a.png,town\n")
    for root in ("s3://patches/x", "s3://patches/x/table.csv", "s3://patches/x/table.csv?region=us-east-1"):
        source = pickle.loads(pickle.dumps(open_(root)))
        assert source.read(0).labels == ("town",) and source.bands == ("R", "G", "B")
        with pytest.raises(DataError, match=r"^s3://patches/x/images/gone.png: no such file.*line 3 of table.csv"):
            source.read(1)
    assert open_("s3://patches/my%20table.csv").ids == ["x/images/a"]
    for root in ("s3://patches/gone.csv", "s3://patches/y", "s3://elsewhere/x.csv"):
        with pytest.raises(DataError, match=root):
            open_(root)
    for path in ("../a.png", "/a.png", "x/../../a.png"):
        bucket("x/up.csv", f"path,label\n{path},x\n".encode())
        with pytest.raises(DataError, match=r"line 2: .* leads out of the table's folder"):
            open_("s3://patches/x/up.csv")


def check(source: Table) -> None:
    """Every sample is as `Sample` promises."""
    content = Content(source.task, source.classes, source.bands, "table")
    assert source.ids == sorted(set(source.ids))
    for index in range(len(source)):
        source.stamp(index)
        content.check(source.read(index))


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
PLAUSIBLE = {
    "path": ["a.png", "b.png", "c.png", "./a.png", "a.PNG"],
    "label": ["x", "y", ""],
    "labels": ["x;y", "-", ""],
    "lat": ["1", "-90", "", "nan"],
    "lng": ["1", "180", "", "nan"],
    "time": ["2021-06-30", "2021-06-30T10:00Z", ""],
    "split": ["train", "VAL", ""],
    "id": ["1", "2", "3"],
}


@st.composite
def cells(draw: st.DrawFn) -> list[list[str]]:
    names = draw(st.lists(st.sampled_from(list(PLAUSIBLE)), min_size=1, unique=True))
    rows = draw(st.integers(1, 3))
    cell = {name: st.sampled_from(PLAUSIBLE[name]) | st.text(max_size=6) for name in names}
    return [names, *([draw(cell[name]) for name in names] for _ in range(rows))]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    for seed, name in enumerate("abc"):
        image(folder / f"{name}.png", seed=seed)
    return folder


@FUZZ
@given(cells=cells(), odd=st.none() | st.text(max_size=30))
def test_any_cells(three: Path, cells: list[list[str]], odd: str | None) -> None:
    with (three / "my.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(cells)
        file.write(odd or "")
    try:
        check(open_(three / "my.csv"))
    except DataError as error:
        assert str(three) in str(error) and "\n" not in str(error)


@FUZZ
@given(data=st.binary(max_size=40), ending=st.sampled_from(["csv", "parquet"]))
def test_any_bytes(three: Path, data: bytes, ending: str) -> None:
    (three / f"my.{ending}").write_bytes(data)
    with pytest.raises(DataError, match=rf"my.{ending}: "):
        open_(three / f"my.{ending}")


def damages(data: bytes, count: int, seed: int) -> list[bytes]:
    """Cut and bit-flipped versions of a file, every other of each."""
    draw, found = random.Random(seed), []
    for number in range(count):
        damaged = bytearray(data)
        if number % 2:
            del damaged[draw.randrange(len(data)) :]
        else:
            for _ in range(draw.choice([1, 4, 16])):
                damaged[draw.randrange(draw.choice([min(400, len(data)), len(data)]))] ^= 1 << draw.randrange(8)
        found.append(bytes(damaged))
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.tif", {**UTM, "bands": 2, "dtype": "uint16", "tags": {"TIFFTAG_DATETIME": "2020:02:29 12:00:00"}}),
        ("x.tif", {**UTM, "bands": 4, "dtype": "float32", "compress": "deflate"}),
        ("x.png", {}),
        ("x.png", {"bands": 1, "dtype": "uint16"}),
        ("x.jpg", {}),
    ],
)
@pytest.mark.parametrize("size", [None, 5])
def test_damaged_images(tmp_path: Path, name: str, options: dict[str, Any], size: int | None) -> None:
    pixels = image(tmp_path / name, **options)
    image(tmp_path / f"good{Path(name).suffix}", **options)
    rows = [{"path": f"good{Path(name).suffix}", "label": "x"}, {"path": name, "label": "x"}]
    whole = (tmp_path / name).read_bytes()
    source = table(tmp_path / "my.csv", *rows, size=size)
    expected, refused = source.read(1).image, 0
    assert size or name == "x.jpg" or np.array_equal(expected, pixels)
    for number, data in enumerate(damages(whole, 60, seed=len(whole))):
        (tmp_path / name).write_bytes(data)
        try:
            sample = source.read(1)
            Content(source.task, source.classes, source.bands, "table").check(sample)
            # What is cut off is never made up: no image is shorter than its file and whole.
            assert number % 2 == 0 or np.array_equal(sample.image, expected), (
                f"cut to {len(data)} of {len(whole)} bytes"
            )
        except DataError as error:
            refused += 1
            assert f"/{name}: " in str(error) and "\n" not in str(error)
    assert refused >= 25


def test_damaged_parquet(three: Path) -> None:
    rows = [
        {"path": f"{name}.png", "labels": ["x"], "lat": 1.5, "lng": 2.5, "time": date(2021, 1, 1)} for name in "abc"
    ]
    check(table(three / "t.parquet", *rows))
    for data in damages((three / "t.parquet").read_bytes(), 120, seed=0):
        (three / "t.parquet").write_bytes(data)
        try:
            check(open_(three / "t.parquet"))
        except DataError as error:
            assert str(three) in str(error) and "\n" not in str(error)
