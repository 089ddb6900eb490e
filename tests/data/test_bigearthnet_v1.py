"""BigEarthNet 1.0 against six real patches, against the table of all patches, and against all that can be wrong."""

import datetime
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import rasterio
from rasterio.transform import from_origin

from stssl.config import validate
from stssl.data import tables
from stssl.data.schema import Sample
from stssl.data.sources import _bigearthnet as ben
from stssl.data.sources.bigearthnet_v1 import BigEarthNetV1, BigEarthNetV1Config, look_up
from stssl.errors import ConfigError, DataError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bigearthnet_v1"
AUSTRIA, ARABLE, PASTURES = (
    "S2A_MSIL2A_20170613T101031_87_48",
    "S2A_MSIL2A_20170617T113321_36_85",
    "S2A_MSIL2A_20170617T113321_4_55",
)
PORTUGAL, FOREST, SNOW = (
    "S2A_MSIL2A_20171221T112501_56_35",
    "S2B_MSIL2A_20170924T93020_69_24",
    "S2B_MSIL2A_20180204T94161_57_38",
)
LAND = "Land principally occupied by agriculture, with significant areas of natural vegetation"
# A part of bigearthnet_s2_6_metadata.csv, which was made without this code; labels sorted.
REAL = {
    AUSTRIA: (48.222307, 13.720948, "2017-06-13 10:10:31", (LAND, "Non-irrigated arable land")),
    ARABLE: (52.308443, -6.890687, "2017-06-17 11:33:21", ("Non-irrigated arable land", "Pastures")),
    PASTURES: (52.640686, -7.442303, "2017-06-17 11:33:21", ("Pastures",)),
    PORTUGAL: (
        39.363761,
        -8.213207,
        "2017-12-21 11:25:01",
        ("Broad-leaved forest", "Complex cultivation patterns", LAND, "Transitional woodland/shrub"),
    ),
    FOREST: (
        62.819622,
        30.59994,
        "2017-09-24 09:30:20",
        ("Coniferous forest", "Mixed forest", "Peatbogs", "Transitional woodland/shrub", "Water bodies"),
    ),
    SNOW: (
        62.67602,
        30.300995,
        "2018-02-04 09:41:56",
        ("Coniferous forest", "Mixed forest", "Non-irrigated arable land"),
    ),
}
ALL = {"drop_seasonal_snow": False}


def open_(root: Path, **settings: Any) -> BigEarthNetV1:
    return BigEarthNetV1(BigEarthNetV1Config(root=str(root), **settings))


def read(root: Path, patch: str = AUSTRIA, **settings: Any) -> Sample:
    source = open_(root, **settings)
    return source.read(source.ids.index(patch))


def at(date: str) -> float:
    since = datetime.datetime.fromisoformat(date) - datetime.datetime(1970, 1, 1)
    return since / datetime.timedelta(days=1)


def write_band(folder: Path, band: str, pixels: np.ndarray) -> None:
    form = {"count": 1, "height": pixels.shape[0], "width": pixels.shape[1], "dtype": pixels.dtype}
    where = {"crs": "EPSG:32633", "transform": from_origin(404400, 5342400, 10, 10)}
    with rasterio.open(folder / f"{folder.name}_{band}.tif", "w", driver="GTiff", **form, **where) as file:
        file.write(pixels, 1)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six patches; not to be changed. Bands that are not in the fixtures are made up."""
    root = tmp_path_factory.mktemp("patches") / "patches"
    shutil.copytree(FIXTURES / "bigearthnet", root)
    random = np.random.default_rng(0)
    for folder in root.iterdir():
        for band in ("B02", "B03", "B04"):
            if not (folder / f"{folder.name}_{band}.tif").exists():
                write_band(folder, band, random.integers(0, 9000, (120, 120)).astype(np.uint16))
    return root


@pytest.fixture
def tree(patches: Path, tmp_path: Path) -> Path:
    """The same, of a test's own."""
    return Path(shutil.copytree(patches, tmp_path / "patches"))


@pytest.fixture
def edit(tree: Path) -> Callable[..., Path]:
    """Changes the JSON of the patch AUSTRIA: a value of None deletes the key."""
    path = tree / AUSTRIA / f"{AUSTRIA}_labels_metadata.json"

    def change(**values: Any) -> Path:
        data = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
        return path

    return change


def test_six_real_patches(tree: Path) -> None:
    source = open_(tree, **ALL)
    assert source.ids == sorted(REAL) and len(source) == 6 and source.task == "multi"
    assert source.notes == ("590,320 of the 590,326 patches of BigEarthNet 1.0 are not there",)
    for index, patch in enumerate(source.ids):
        sample = source.read(index)
        lat, lng, date, labels = REAL[patch]
        assert sample.id == patch and sorted(sample.labels or ()) == sorted(labels)
        assert (sample.lat, sample.lng) == pytest.approx((lat, lng), abs=2e-6)
        assert sample.time == pytest.approx(at(date), abs=1e-6)
        assert sample.image.shape == (3, 120, 120) and sample.image.dtype == np.uint16
        assert sample.split == {AUSTRIA: "test", SNOW: None}.get(patch, "train")
        for band, pixels in zip(("B04", "B03", "B02"), sample.image, strict=True):
            with rasterio.open(tree / patch / f"{patch}_{band}.tif") as file:
                np.testing.assert_array_equal(pixels, file.read(1))


def test_places_and_dates_are_those_of_the_table(tree: Path) -> None:
    table = tables.read("bigearthnet_v1_590326", ["patch_id", "lat", "lng", "date"])
    rows = {row["patch_id"]: row for row in table.filter(pc.is_in(table["patch_id"], pa.array(REAL))).to_pylist()}
    source = open_(tree, **ALL)
    for index, patch in enumerate(source.ids):
        sample = source.read(index)
        assert (sample.lat, sample.lng) == pytest.approx((rows[patch]["lat"], rows[patch]["lng"]), abs=1e-5)
        assert int(sample.time or 0) == at(rows[patch]["date"])


def linear(small: np.ndarray, times: int) -> np.ndarray:
    """Bilinear interpolation between the pixels' centres; beyond the outer ones the image goes on as it is there."""
    wide = np.arange(small.shape[0] * times)
    rows = np.stack([np.interp((wide + 0.5) / times - 0.5, np.arange(small.shape[0]), column) for column in small.T], 1)
    return np.stack([np.interp((wide + 0.5) / times - 0.5, np.arange(small.shape[1]), row) for row in rows], 0)


@pytest.mark.parametrize(("band", "times"), [("B05", 2), ("B01", 6)])
def test_resampling(tree: Path, band: str, times: int) -> None:
    with rasterio.open(tree / AUSTRIA / f"{AUSTRIA}_{band}.tif") as file:
        small = file.read(1)
    assert small.shape == (120 // times, 120 // times)
    found = {how: read(tree, bands=[band], resampling=how).image[0] for how in ("nearest", "bilinear", "cubic")}
    np.testing.assert_array_equal(found["nearest"], small.repeat(times, 0).repeat(times, 1))
    np.testing.assert_allclose(found["bilinear"], linear(small.astype(float), times), atol=1)
    assert np.abs(found["cubic"] - linear(small.astype(float), times)).mean() < 0.1 * small.std()
    assert (found["cubic"] != found["bilinear"]).any()


def test_bands_come_in_the_order_asked_for(tree: Path) -> None:
    several = read(tree, bands=["B01", "B04", "B05", "B02"])
    for band, pixels in zip(("B01", "B04", "B05", "B02"), several.image, strict=True):
        np.testing.assert_array_equal(pixels, read(tree, bands=[band]).image[0])
    source = open_(tree, bands=["B02", "B01"])
    assert source.bands == ("B02", "B01")
    start = f"{AUSTRIA}/{AUSTRIA}"
    assert list(source.files(0)) == [f"{start}_labels_metadata.json", f"{start}_B02.tif", f"{start}_B01.tif"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bands": []}, "bands: expected at least one of B01"),
        ({"bands": ["B02", "B02"]}, "bands: expected at least one of B01.*each once"),
        ({"bands": ["B10"]}, r"bands.0: unknown choice 'B10'; .*known: B01, B02"),
        ({"classes": 20}, "classes"),
        ({"resampling": "bilinaer"}, r"unknown choice 'bilinaer'; did you mean 'bilinear'\?"),
        ({"labeled_fraction": 0.01}, "labeled_fraction needs the folder of split files: set splits"),
    ],
)
def test_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(BigEarthNetV1Config, {"root": "x", **settings}, "p.yaml")


CORINE_TO_19 = {  # in the order of the reference implementation; None = in none of the 19
    "Mixed forest": "Mixed forest",
    "Coniferous forest": "Coniferous forest",
    "Non-irrigated arable land": "Arable land",
    "Transitional woodland/shrub": "Transitional woodland, shrub",
    "Broad-leaved forest": "Broad-leaved forest",
    LAND: LAND,
    "Complex cultivation patterns": "Complex cultivation patterns",
    "Pastures": "Pastures",
    "Water bodies": "Inland waters",
    "Sea and ocean": "Marine waters",
    "Discontinuous urban fabric": "Urban fabric",
    "Agro-forestry areas": "Agro-forestry areas",
    "Peatbogs": "Inland wetlands",
    "Permanently irrigated land": "Arable land",
    "Industrial or commercial units": "Industrial or commercial units",
    "Natural grassland": "Natural grassland and sparsely vegetated areas",
    "Olive groves": "Permanent crops",
    "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
    "Continuous urban fabric": "Urban fabric",
    "Water courses": "Inland waters",
    "Vineyards": "Permanent crops",
    "Annual crops associated with permanent crops": "Permanent crops",
    "Inland marshes": "Inland wetlands",
    "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
    "Sport and leisure facilities": None,
    "Fruit trees and berry plantations": "Permanent crops",
    "Mineral extraction sites": None,
    "Rice fields": "Arable land",
    "Road and rail networks and associated land": None,
    "Bare rock": None,
    "Green urban areas": None,
    "Beaches, dunes, sands": "Beaches, dunes, sands",
    "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
    "Salt marshes": "Coastal wetlands",
    "Coastal lagoons": "Marine waters",
    "Construction sites": None,
    "Estuaries": "Marine waters",
    "Intertidal flats": None,
    "Airports": None,
    "Dump sites": None,
    "Port areas": None,
    "Salines": "Coastal wetlands",
    "Burnt areas": None,
}
NINETEEN = (
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


def test_classes_and_their_order() -> None:
    """Trained weights have their outputs in this order, so it may never change."""
    assert tuple(CORINE_TO_19) == ben.CLASSES_43 and NINETEEN == ben.CLASSES_19
    assert {part: name for part, name in CORINE_TO_19.items() if name} == ben.MERGED


def test_licence() -> None:
    assert BigEarthNetV1.licence == "CDLA-Permissive-1.0; contains modified Copernicus Sentinel data"


def test_sizes_of_bands(tree: Path) -> None:
    sizes = {"B02 B03 B04 B08": 120, "B05 B06 B07 B8A B11 B12": 60, "B01 B09": 20}
    for bands, size in sizes.items():
        for band in bands.split():
            write_band(tree / AUSTRIA, band, np.full((size, size), size, np.uint16))
            assert (read(tree, bands=[band]).image == size).all()


def test_merged_labels(tree: Path, edit: Callable[..., Path]) -> None:
    assert read(tree, FOREST, classes=19).labels == (
        "Mixed forest",
        "Coniferous forest",
        "Transitional woodland, shrub",
        "Inland waters",
        "Inland wetlands",
    )
    edit(labels=["Port areas", "Vineyards", "Rice fields", "Olive groves"])
    assert read(tree, classes=19).labels == ("Arable land", "Permanent crops")
    edit(labels=["Airports", "Bare rock"])
    assert read(tree, classes=19).labels == ()
    assert read(tree).labels == ("Bare rock", "Airports")


def test_the_whole_table() -> None:
    ids = tables.read("bigearthnet_v1_590326", ["patch_id"])["patch_id"].combine_chunks()
    config = BigEarthNetV1Config(root="x", classes=19)
    keep, split = look_up(ids, config)
    assert (len(keep), keep.sum()) == (590_326, 519_284)
    assert np.bincount(split).tolist() == [269_695, 123_723, 125_866]

    def dropped(**settings: bool) -> int:
        off = {"drop_cloud_or_shadow": False, "drop_seasonal_snow": False, "drop_unlabeled_19": False}
        return int((~look_up(ids, BigEarthNetV1Config(root="x", **off | settings))[0]).sum())

    assert dropped() == 0
    assert dropped(drop_cloud_or_shadow=True) == 9_280
    assert dropped(drop_seasonal_snow=True) == 61_707
    assert dropped(drop_unlabeled_19=True) == 57


def test_filters(tmp_path: Path) -> None:
    table = tables.read("bigearthnet_v1_590326")
    names = {
        flag: table["patch_id"].filter(table[flag])[0].as_py()
        for flag in ("cloud_or_shadow", "seasonal_snow", "no_19_class_label")
    }
    other = "S2A_MSIL2A_20300101T101031_1_1"
    for name in (*names.values(), other):
        (tmp_path / name).mkdir()
    cloud, snow, bare = names.values()
    assert open_(tmp_path).ids == sorted([bare, other])
    assert open_(tmp_path, drop_cloud_or_shadow=False).ids == sorted([bare, other, cloud])
    assert open_(tmp_path, drop_seasonal_snow=False).ids == sorted([bare, other, snow])
    assert open_(tmp_path, classes=19).ids == [other]
    assert open_(tmp_path, classes=19, drop_unlabeled_19=False).ids == sorted([bare, other])
    (tmp_path / other).rmdir()
    with pytest.raises(DataError, match=f"{tmp_path}: every patch is left out as cloud, shadow, snow"):
        open_(tmp_path, drop_unlabeled_19=True)


def test_patch_that_no_table_knows(tree: Path) -> None:
    name = "S2A_MSIL2A_20170613T101031_99_99"
    (tree / AUSTRIA).rename(tree / name)
    for path in (tree / name).iterdir():
        path.rename(path.with_name(path.name.replace(AUSTRIA, name)))
    sample = read(tree, name)
    assert sample.split is None and sample.lat == pytest.approx(48.222307, abs=1e-5) and len(sample.labels or ()) == 2
    path = tree / name / f"{name}_labels_metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"coordinates": SWAPPED}))
    assert read(tree, name).lat != pytest.approx(48, abs=5)  # nothing to hold it against


def test_no_split(tree: Path) -> None:
    source = open_(tree, split="none", **ALL)
    assert [source.read(index).split for index in range(6)] == [None] * 6


@pytest.mark.parametrize("below", ["BigEarthNet-v1.0", "bigearthnet", "data/bigearthnet"])
def test_finds_the_tree_below(tree: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "root" / below).parent.mkdir(parents=True)
    tree.rename(tmp_path / "root" / below)
    assert len(open_(tmp_path / "root")) == 5


def test_two_trees(tmp_path: Path) -> None:
    for name in ("BigEarthNet-v1.0", "bigearthnet"):
        (tmp_path / name / AUSTRIA).mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds several BigEarthNet trees; name one of them: .*v1.0, .*bigearthnet"):
        open_(tmp_path)


def test_missing_or_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign" / "pictures").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, said in {
        "gone": "no such folder",
        "empty": "found nothing",
        "foreign": "pictures",
        "file": "a file, not a folder",
    }.items():
        with pytest.raises(DataError, match=rf"{tmp_path / name}: .*{said}") as error:
            open_(tmp_path / name)
        assert "expected folders such as S2A_MSIL2A_20170613T101031_87_48/" in str(error.value)


def test_names_in_the_folder(tree: Path) -> None:
    (tree / "patches_with_snow.csv").touch()
    (tree / ".cache").mkdir()
    (tree / "__MACOSX").mkdir()
    os.mkdir(os.fsencode(tree) + b"/no \xff Unicode")
    assert len(open_(tree, **ALL)) == 6
    (tree / "S2A_MSIL2A_2017613T101031_87_48").mkdir()
    with pytest.raises(DataError, match=r"S2A_MSIL2A_2017613T101031_87_48: no patch by its name.*rename or remove it"):
        open_(tree)


@pytest.mark.parametrize(
    "stamp", ["99991231T235999", "20171332T101031", "20170229T101031", "20170613T241031", "20170613T106031"]
)
def test_impossible_date_in_a_name(tree: Path, stamp: str) -> None:
    (tree / f"S2A_MSIL2A_{stamp}_1_1").mkdir()
    with pytest.raises(DataError, match=f"'S2A_MSIL2A_{stamp}_1_1': '{stamp}' is no date and time"):
        open_(tree)


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("S2B_MSIL2A_20170924T93020_69_24", "2017-09-24 09:30:20"),
        ("S2B_MSIL2A_20180204T94160_57_38", "2018-02-04 09:42:00"),
        ("S2B_MSIL2A_20180204T94161_57_38", "2018-02-04 09:42:01"),
        ("S2A_MSIL2A_20171231T235999_1_1", "2018-01-01 00:00:39"),
    ],
)
def test_date_from_the_name(name: str, date: str) -> None:
    assert ben.days_of(name) == pytest.approx(at(date), abs=1e-9)


def test_date_that_the_json_lacks(tree: Path, edit: Callable[..., Path]) -> None:
    edit(acquisition_date=None)
    assert read(tree).time == pytest.approx(at("2017-06-13 10:10:31"), abs=1e-9)


SWAPPED = {"ulx": 5342400, "uly": 404400, "lrx": 5343600, "lry": 403200}
CORNERS = {"ulx": 404400, "uly": 5342400, "lrx": 405600, "lry": 5341200}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"labels": None}, "'labels' is None; expected a list"),
        ({"labels": []}, r"'labels' is \[\]; expected a list"),
        ({"labels": "Pastures"}, "'labels' is 'Pastures'; expected a list"),
        ({"labels": ["Pastures", "Pastures"]}, "each once"),
        ({"labels": ["Pasture"]}, r"unknown class 'Pasture'; did you mean 'Pastures'\?"),
        ({"labels": [["Pastures"]]}, "unknown class"),
        ({"labels": ["Arable land"]}, "unknown class 'Arable land'"),
        ({"coordinates": None}, "'coordinates'"),
        ({"coordinates": [1, 2, 3, 4]}, "'coordinates'"),
        ({"coordinates": {"ulx": 1}}, "expected numbers for ulx, uly, lrx, lry"),
        ({"coordinates": CORNERS | {"uly": "5342400"}}, "expected numbers"),
        ({"coordinates": CORNERS | {"uly": float("nan")}}, "expected numbers"),
        ({"coordinates": CORNERS | {"ulx": 404410}}, "a patch is 1200 m wide and high"),
        ({"coordinates": CORNERS | {"uly": 5341200, "lry": 5342400}}, "a patch is 1200 m wide and high"),
        ({"projection": rasterio.crs.CRS.from_epsg(4326).to_wkt()}, "'coordinates' lead to latitude"),
        ({"projection": None}, "'projection'"),
        ({"projection": 32633}, "'projection'"),
        ({"projection": "EPSG:none"}, "'projection' is damaged"),
        ({"acquisition_date": "2017-02-30 10:10:31"}, "'acquisition_date' is '2017-02-30 10:10:31', which is no date"),
        ({"acquisition_date": "2017-02-20 25:10:31"}, "'acquisition_date'"),
        ({"acquisition_date": "9999-12-31 23:59:60"}, "'acquisition_date' is '9999-12-31 23:59:60', which is no date"),
        ({"acquisition_date": "13.06.2017"}, "'acquisition_date' is '13.06.2017', which is no date"),
        ({"acquisition_date": ""}, "'acquisition_date' is '', which is no date"),
        ({"acquisition_date": 7}, "'acquisition_date' is 7, which is no date"),
        ({"acquisition_date": "2071-06-13 10:10:31"}, "is '2071-06-13 10:10:31', but the patch's name says 20170613T"),
        ({"acquisition_date": "0001-01-01 00:00:00"}, "is '0001-01-01 00:00:00', but the patch's name says 20170613T"),
        ({"coordinates": CORNERS | {"ulx": 10**400}}, "expected numbers"),
        (
            {"coordinates": SWAPPED},
            r"lead to latitude .*, but the table in stssl has 48.22, 13.72; are x and y swapped",
        ),
        ({"projection": rasterio.crs.CRS.from_epsg(32634).to_wkt()}, "or is the UTM zone wrong"),
    ],
)
def test_faults_in_the_json(tree: Path, edit: Callable[..., Path], values: dict[str, Any], said: str) -> None:
    path = edit(**values)
    with pytest.raises(DataError, match=rf"^{path}: .*{said}.*unpack this patch again"):
        read(tree)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", "[" * 100_000])
def test_no_json(tree: Path, text: str) -> None:
    path = tree / AUSTRIA / f"{AUSTRIA}_labels_metadata.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=rf"^{path}: .*unpack this patch again"):
        read(tree)


@pytest.mark.parametrize("suffix", ["labels_metadata.json", "B03.tif"])
def test_missing_file(tree: Path, suffix: str) -> None:
    path = tree / AUSTRIA / f"{AUSTRIA}_{suffix}"
    path.unlink()
    with pytest.raises(DataError, match=rf"^{path}: no such file; unpack this patch again"):
        read(tree)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((60, 60), np.uint16), r"1 band\(s\) of 60 x 60 pixels, uint16; expected 1 of 120 x 120, uint16"),
        (np.zeros((120, 120), np.uint8), r"1 band\(s\) of 120 x 120 pixels, uint8; expected"),
    ],
)
def test_wrong_kind_of_tiff(tree: Path, pixels: np.ndarray, said: str) -> None:
    write_band(tree / AUSTRIA, "B03", pixels)
    with pytest.raises(DataError, match=rf"{AUSTRIA}_B03.tif: {said}"):
        read(tree)


def test_damaged_files(tree: Path) -> None:
    """Cut off or with a bit turned over: a sample or a DataError that names the file, and nothing on stderr."""
    random, source, faults = np.random.default_rng(0), open_(tree, bands=["B04", "B05"]), 0
    index = source.ids.index(AUSTRIA)
    for name in source.files(index):
        path = tree / name
        data = path.read_bytes()
        for trial in range(60):
            damaged = bytearray(data)
            if trial < 12:
                damaged = damaged[: len(data) * trial // 12]
            else:
                place = random.integers(len(data) if trial % 2 else min(len(data), 700))
                damaged[place] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            try:
                sample = source.read(index)
                assert sample.image.shape == (2, 120, 120) and sample.labels and sample.lat is not None
            except DataError as error:
                faults += 1
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        path.write_bytes(data)
    assert 40 < faults < 180


def test_stamps_follow_the_files(tree: Path) -> None:
    source = open_(tree)
    index = source.ids.index(AUSTRIA)
    before = [source.stamp(i) for i in range(len(source))]
    (tree / AUSTRIA / f"{AUSTRIA}_B05.tif").touch()
    assert [source.stamp(i) for i in range(len(source))] == before  # not read
    (tree / AUSTRIA / f"{AUSTRIA}_B04.tif").touch()
    assert [i for i in range(len(source)) if source.stamp(i) != before[i]] == [index]


def test_pickled_source_reads_the_same(tree: Path) -> None:
    source = open_(tree, splits=str(FIXTURES / "splits" / "pandas_1.2"))
    copy = pickle.loads(pickle.dumps(source))
    for index in range(len(source)):
        np.testing.assert_array_equal(copy.read(index).image, source.read(index).image)
        assert copy.read(index)[2:] == source.read(index)[2:] and copy.stamp(index) == source.stamp(index)


VERSIONS = sorted(path.name for path in (FIXTURES / "splits").iterdir())
TRAIN, VALIDATION, TEST = {SNOW, ARABLE, FOREST}, {AUSTRIA}, {PASTURES, PORTUGAL}


@pytest.fixture
def reference(tree: Path, tmp_path: Path) -> Path:
    """The reference project's `data/`, with split files of today's pandas that a test may write anew."""
    root = tmp_path / "data"
    (root / "splits").mkdir(parents=True)
    tree.rename(root / "bigearthnet")
    shutil.copytree(FIXTURES / "splits" / "pandas_2.2", root / "splits" / "bigearthnet")
    return root


def rows(*patches: str, **change: Any) -> pd.DataFrame:
    """A split file's table."""
    table: dict[str, Any] = {"patch": list(patches), "date": ["2017-06-13 10:10:31"] * len(patches)}
    for classes, known in ((43, ben.CLASSES_43), (19, ben.CLASSES_19)):
        labels = [{ben.MERGED.get(n, n) if classes == 19 else n for n in REAL[patch][3]} for patch in patches]
        table[f"multi_hot_labels{classes}"] = [np.array([float(n in own) for n in known]) for own in labels]
    return pd.DataFrame(table | change)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("classes", [43, 19])
def test_reference_tree(reference: Path, version: str, classes: int) -> None:
    shutil.rmtree(reference / "splits" / "bigearthnet")
    shutil.copytree(FIXTURES / "splits" / version, reference / "splits" / "bigearthnet")
    source = open_(reference, splits="splits/bigearthnet", classes=classes)
    samples = [source.read(index) for index in range(len(source))]
    assert [sample.id for sample in samples] == sorted(REAL)  # snow and all
    for split, patches in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        assert {sample.id for sample in samples if sample.split == split} == patches
    plain = open_(reference, classes=classes, **ALL)
    assert [sample.labels for sample in samples] == [plain.read(index).labels for index in range(6)]


@pytest.mark.parametrize("name", ["train0.01_{}_43.pkl", "train_0.01_{}_43.pkl", "train_.01_{}_43.pkl"])
def test_labeled_fraction(reference: Path, name: str) -> None:
    folder = reference / "splits" / "bigearthnet"
    for kind in ("lb", "ulb"):
        (folder / f"train0.01_{kind}_43.pkl").rename(folder / name.format(kind))
    source = open_(reference, splits="splits/bigearthnet", labeled_fraction=0.01)
    samples = [source.read(index) for index in range(len(source))]
    assert {sample.id for sample in samples if sample.labels is None} == {ARABLE, FOREST}
    assert {sample.id for sample in samples if sample.split == "train"} == TRAIN
    every = open_(reference, splits="splits/bigearthnet")
    changed = {name for i, name in enumerate(source.ids) if source.stamp(i) != every.stamp(i)}
    assert changed == {ARABLE, FOREST}


@pytest.mark.parametrize(("fraction", "classes", "kept"), [(0.01, 43, SNOW), (0.1, 43, ARABLE), (0.01, 19, FOREST)])
def test_fraction_and_classes_choose_the_file(reference: Path, fraction: float, classes: int, kept: str) -> None:
    for name, patch in (("0.01_lb_43", SNOW), ("0.1_lb_43", ARABLE), ("0.01_lb_19", FOREST)):
        rows(patch).to_pickle(reference / "splits" / "bigearthnet" / f"train{name}.pkl")
    source = open_(reference, splits="splits/bigearthnet", labeled_fraction=fraction, classes=classes)
    samples = map(source.read, range(len(source)))
    assert {sample.id for sample in samples if sample.labels is None} == TRAIN - {kept}


def test_where_the_split_files_lie(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = reference / "splits" / "bigearthnet"
    monkeypatch.chdir(reference.parent)
    for root, splits in (
        (reference, str(folder)),
        (reference, "data/splits/bigearthnet"),
        (Path("."), folder.as_uri()),
    ):
        assert len(open_(root, splits=splits)) == 6
    with pytest.raises(
        DataError, match=f"splits: no folder {reference}/nowhere and no folder {reference.parent}/nowhere"
    ):
        open_(reference, splits="nowhere")


def test_exactly_the_rows(reference: Path) -> None:
    folder = reference / "splits" / "bigearthnet"
    rows(FOREST).to_pickle(folder / "train.pkl")
    source = open_(reference, splits="splits/bigearthnet")
    assert source.ids == sorted({FOREST} | VALIDATION | TEST) and source.notes == ()
    shutil.rmtree(reference / "bigearthnet" / PORTUGAL)
    with pytest.raises(DataError, match=rf"test.pkl: '{PORTUGAL}' has no folder in .*\(1 of 4 patches have none\)"):
        open_(reference, splits="splits/bigearthnet")


def wrong(hot: Any, column: str = "multi_hot_labels43") -> pd.DataFrame:
    return rows(SNOW, ARABLE, FOREST, **{column: [*rows(SNOW, ARABLE)[column], hot]})


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found] * 43 if not found else [found]
    return found


def endless() -> list[Any]:
    found: list[Any] = [0] * 42
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("val.pkl", rows(SNOW), f"val.pkl: '{SNOW}' stands in train.pkl too"),
        ("train.pkl", rows(SNOW, SNOW), f"train.pkl: row 1: '{SNOW}': stands here twice"),
        ("train.pkl", rows(SNOW, patch=[None]), "train.pkl: row 0: None: expected the name of a patch"),
        (
            "train.pkl",
            rows(SNOW, patch=pd.Series(["\ud800"], dtype=object)),
            r"train.pkl: row 0: '\\ud800': expected the name of a patch",
        ),
        ("train.pkl", rows(SNOW).drop(columns="patch"), "train.pkl: no column 'patch'"),
        (
            "train.pkl",
            wrong(np.ones(19)),
            rf"train.pkl: row 2 \('{FOREST}'\): multi_hot_labels43 is .*expected 43 zeros",
        ),
        ("train.pkl", wrong(np.full(43, 0.5)), rf"train.pkl: row 2 \('{FOREST}'\): .*expected 43 zeros and ones"),
        ("train.pkl", wrong(np.full(43, np.nan)), rf"train.pkl: row 2 \('{FOREST}'\): .*expected 43 zeros and ones"),
        ("train.pkl", wrong([1, [2, 3], *[0] * 41]), rf"train.pkl: row 2 \('{FOREST}'\): .* is \[1, \[2, 3\], 0"),
        ("train.pkl", wrong(nested(100)), rf"train.pkl: row 2 \('{FOREST}'\): .*expected 43 zeros and ones"),
        ("train.pkl", wrong(endless()), rf"train.pkl: row 2 \('{FOREST}'\): .*expected 43 zeros and ones"),
        ("train.pkl", wrong(["1"] * 43), rf"train.pkl: row 2 \('{FOREST}'\): .*expected 43 zeros and ones"),
        ("train.pkl", wrong([1 << 20_000] * 43), rf"train.pkl: row 2 \('{FOREST}'\): .*expected 43 zeros and ones"),
        ("train.pkl", rows(SNOW, patch=[nested(100)]), r"train.pkl: row 0: \[\[.*: expected the name of a patch"),
        ("train0.01_ulb_43.pkl", rows(AUSTRIA), f"train0.01_ulb_43.pkl: '{AUSTRIA}' is not in train.pkl"),
        ("train0.01_lb_43.pkl", rows(AUSTRIA), f"train0.01_lb_43.pkl: '{AUSTRIA}' is not in train.pkl"),
        ("train0.01_lb_43.pkl", wrong(np.ones(43)), f"'{FOREST}' has other labels than train.pkl"),
        ("train0.01_lb_43.pkl", None, "no file train0.01_lb_43.pkl with a row; found train0.01_ulb_43.pkl"),
        ("test.pkl", None, "test.pkl: no such file"),
        ("test.pkl", b"no pickle", "test.pkl: damaged or no pickled pandas table"),
    ],
)
def test_faults_in_split_files(reference: Path, name: str, table: Any, said: str) -> None:
    path = reference / "splits" / "bigearthnet" / name
    path.unlink()
    if isinstance(table, bytes):
        path.write_bytes(table)
    elif table is not None:
        table.to_pickle(path)
    with pytest.raises(DataError, match=said) as error:
        open_(reference, splits="splits/bigearthnet", labeled_fraction=0.01)
    assert "\n" not in str(error.value)


def test_split_file_against_the_json(reference: Path) -> None:
    wrong(np.eye(43)[7]).to_pickle(reference / "splits" / "bigearthnet" / "train.pkl")
    source = open_(reference, splits="splits/bigearthnet")
    assert source.read(source.ids.index(ARABLE)).labels
    with pytest.raises(
        DataError, match=rf"{FOREST}_labels_metadata.json: 'labels' are .*train.pkl has \['Pastures'\]"
    ) as error:
        source.read(source.ids.index(FOREST))
    for said in ("one of the two is wrong", "unpack this patch again", "copy the split file again"):
        assert said in str(error.value)
