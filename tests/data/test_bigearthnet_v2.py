"""BigEarthNet 2.0: small trees in its layout, and all that can be wrong with one."""

import datetime
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin

from stssl.config import validate
from stssl.data.sources._bigearthnet import CLASSES_19
from stssl.data.sources.bigearthnet_v2 import BigEarthNetV2, BigEarthNetV2Config
from stssl.errors import ConfigError, DataError

AUSTRIA = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
NEXT = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_9_57"
FINLAND = "S2B_MSIL2A_20180204T094160_N9999_R036_T35VPK_57_38"
CLOUD = "S2B_MSIL2A_20170906T101020_N9999_R065_T32TMT_1_2"
SNOW = "S2B_MSIL2A_20180204T094160_N9999_R036_T35VPK_5_6"
MORE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
SIZES = {"B04": 120, "B03": 120, "B02": 120, "B05": 60, "B01": 20}

ROWS: list[dict[str, Any]] = [
    {"patch_id": NEXT, "labels": ["Pastures"], "split": "train"},
    {"patch_id": AUSTRIA, "labels": ["Urban fabric", "Arable land"], "split": "test"},
    {"patch_id": FINLAND, "labels": ["Mixed forest", "Inland waters", "Coastal wetlands"], "split": "validation"},
]
MORE_ROWS: list[dict[str, Any]] = [
    {"patch_id": CLOUD, "labels": ["Pastures"], "split": "train", "contains_cloud_or_shadow": True},
    {"patch_id": SNOW, "labels": ["Pastures"], "split": None, "contains_seasonal_snow": True},
]
KINDS = {"labels": pa.list_(pa.string()), "contains_seasonal_snow": pa.bool_(), "contains_cloud_or_shadow": pa.bool_()}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    base = {"country": "Austria", "s1_name": "S1A", "s2v1_name": "S2A"}
    flags = {"contains_seasonal_snow": False, "contains_cloud_or_shadow": False}
    rows = [{**base, **flags, **row} for row in rows]
    pq.write_table(
        pa.table({key: pa.array([r[key] for r in rows], KINDS.get(key, pa.string())) for key in rows[0]}), path
    )


def write_band(path: Path, pixels: np.ndarray, metres: float = 10, crs: str = "EPSG:32633") -> None:
    form = {"count": 1, "height": pixels.shape[0], "width": pixels.shape[1], "dtype": pixels.dtype}
    where = {"crs": crs, "transform": from_origin(404400, 5342400, metres, metres)}
    with rasterio.open(path, "w", driver="GTiff", **form, **where) as file:
        file.write(pixels, 1)


def folder(root: Path, patch: str) -> Path:
    return root / "BigEarthNet-S2" / patch.rsplit("_", 2)[0] / patch


def open_(root: Path, **settings: Any) -> BigEarthNetV2:
    return BigEarthNetV2(BigEarthNetV2Config(root=str(root), **settings))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for patch in (AUSTRIA, NEXT, FINLAND, CLOUD, SNOW):
        folder(tmp_path, patch).mkdir(parents=True)
        for band, size in SIZES.items():
            pixels = random.integers(0, 9000, (size, size)).astype(np.uint16)
            write_band(folder(tmp_path, patch) / f"{patch}_{band}.tif", pixels, 1200 / size)
    write_table(tmp_path / "metadata.parquet", ROWS)
    write_table(tmp_path / MORE, MORE_ROWS)
    return tmp_path


def test_reads_all_patches(tree: Path) -> None:
    source = open_(tree)
    assert source.ids == sorted([AUSTRIA, NEXT, FINLAND]) and source.classes == CLASSES_19 and source.notes == ()
    assert source.licence == "CDLA-Permissive-1.0; contains modified Copernicus Sentinel data"
    samples = {sample.id: sample for sample in map(source.read, range(3))}
    assert samples[AUSTRIA].labels == ("Arable land", "Urban fabric")  # in the order of the classes
    assert samples[FINLAND].labels == ("Mixed forest", "Inland waters", "Coastal wetlands")
    assert [samples[p].split for p in (AUSTRIA, NEXT, FINLAND)] == ["test", "train", "validation"]
    since = datetime.datetime(2017, 6, 13, 10, 10, 31) - datetime.datetime(1970, 1, 1)
    assert samples[NEXT].time == pytest.approx(since / datetime.timedelta(days=1), abs=1e-9)
    for sample in samples.values():
        assert (sample.lat, sample.lng) == pytest.approx((48.222307, 13.720948), abs=2e-6)  # as of the patch of 1.0
        for band, pixels in zip(("B04", "B03", "B02"), sample.image, strict=True):
            with rasterio.open(folder(tree, sample.id) / f"{sample.id}_{band}.tif") as file:
                np.testing.assert_array_equal(pixels, file.read(1))
    assert {open_(tree, split="none").read(i).split for i in range(3)} == {None}


def test_bands(tree: Path) -> None:
    source = open_(tree, bands=["B01", "B05", "B02"], resampling="nearest")
    sample = source.read(0)
    assert sample.image.shape == (3, 120, 120) and source.bands == ("B01", "B05", "B02")
    for band, times, pixels in zip(("B01", "B05", "B02"), (6, 2, 1), sample.image, strict=True):
        with rasterio.open(folder(tree, AUSTRIA) / f"{AUSTRIA}_{band}.tif") as file:
            np.testing.assert_array_equal(pixels, file.read(1).repeat(times, 0).repeat(times, 1))
    assert sample.lat == pytest.approx(48.222307, abs=2e-6)  # the centre is the same at every resolution
    with pytest.raises(ConfigError, match=r"unknown key 'classes'"):
        validate(BigEarthNetV2Config, {"root": "x", "classes": 43}, "p.yaml")


def test_filters(tree: Path) -> None:
    clear = {AUSTRIA, NEXT, FINLAND}
    assert set(open_(tree, drop_cloud_or_shadow=False).ids) == clear | {CLOUD}
    assert set(open_(tree, drop_seasonal_snow=False).ids) == clear | {SNOW}
    every = open_(tree, drop_seasonal_snow=False, drop_cloud_or_shadow=False)
    assert every.ids == sorted(clear | {SNOW, CLOUD})
    assert every.read(every.ids.index(SNOW)).split is None
    (tree / MORE).unlink()
    assert set(open_(tree).ids) == clear
    with pytest.raises(DataError, match=f"{tree}/{MORE}: no such file; or set drop_cloud_or_shadow"):
        open_(tree, drop_seasonal_snow=False)
    write_table(tree / "metadata.parquet", [ROWS[0], ROWS[1] | {"contains_seasonal_snow": True}])
    assert open_(tree).ids == [NEXT]


def test_a_part_of_the_archive(tree: Path) -> None:
    for path in folder(tree, FINLAND).iterdir():
        path.unlink()
    folder(tree, FINLAND).rmdir()
    folder(tree, "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_1_1").mkdir()  # on the disk, but not in the table
    (tree / "BigEarthNet-S2" / ".DS_Store").touch()
    source = open_(tree)
    assert source.ids == [AUSTRIA, NEXT]
    assert source.notes == ("1 of 3 rows of metadata.parquet (after drop_*) have no folder and are left out",)
    every = open_(tree, drop_seasonal_snow=False)
    assert every.notes[0].startswith(f"1 of 4 rows of metadata.parquet and {MORE} ")
    (tree / "BigEarthNet-S2").rename(tree / "S2")
    with pytest.raises(DataError, match=f"{tree}: no patch of metadata.parquet is in BigEarthNet-S2/"):
        open_(tree)


def test_missing_folder_or_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone/metadata.parquet: no such folder; expected metadata.parquet beside"):
        open_(tmp_path / "gone")
    with pytest.raises(DataError, match=r"/metadata.parquet: no such file; expected metadata.parquet beside"):
        open_(tmp_path)
    (tmp_path / "metadata.parquet").mkdir()
    with pytest.raises(DataError, match=r"metadata.parquet: .*directory"):
        open_(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: a file, not a folder; set root to the folder that holds metadata.par"):
        open_(tmp_path / "file")


def test_damaged_table(tree: Path) -> None:
    path = tree / "metadata.parquet"
    data = path.read_bytes()
    for damaged in (b"", b"patch_id,labels\n", data[:-10], data[: len(data) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"^{path}: damaged or no table .*download it again") as error:
            open_(tree)
        assert "\n" not in str(error.value)


def test_other_types_of_columns(tree: Path) -> None:
    table = pq.read_table(tree / "metadata.parquet")
    columns = {
        "patch_id": table["patch_id"].cast(pa.large_string()),
        "labels": table["labels"].cast(pa.large_list(pa.large_string())),
        "split": table["split"].dictionary_encode(),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    pq.write_table(table, tree / "metadata.parquet")
    assert [open_(tree).read(i).split for i in range(3)] == ["test", "train", "validation"]
    where = table.schema.get_field_index("patch_id")
    for wrong in (
        table.set_column(where, "patch_id", pa.array([[1], [2], [3]])),
        table.append_column("split", table["split"]),
    ):
        pq.write_table(wrong, tree / "metadata.parquet")
        with pytest.raises(DataError, match=r"metadata.parquet: damaged or no table"):
            open_(tree)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["Pasture"]}, r"labels: unknown value 'Pasture'; did you mean 'Pastures'\?"),
        ({"labels": ["Pastures", None]}, "labels: unknown value None"),
        ({"labels": []}, f"'{NEXT}' has no labels"),
        ({"labels": None}, f"'{NEXT}' has no labels"),
        ({"split": "val"}, "split: unknown value 'val'; .*known: test, train, validation"),
        ({"patch_id": AUSTRIA}, f"patch_id '{AUSTRIA}' stands there twice; download it again"),
        ({"patch_id": NEXT.replace("20170613T101031", "99991231T235999")}, "'99991231T235999' is no date and time"),
        ({"patch_id": None}, "patch_id: 1 values are missing"),
        ({"patch_id": "S2A_MSIL2A_20170613T101031_87_48"}, "patch_id 'S2A_MSIL2A_20170613T101031_87_48' is no name"),
        ({"patch_id": "../" + AUSTRIA}, "is no name of BigEarthNet 2.0"),
        ({"patch_id": NEXT.replace("0613", "0631")}, "'20170631T101031' is no date and time"),
        ({"contains_seasonal_snow": None}, "contains_seasonal_snow: 1 values are missing"),
    ],
)
def test_faults_in_the_table(tree: Path, change: dict[str, Any], said: str) -> None:
    write_table(tree / "metadata.parquet", [ROWS[0] | change, *ROWS[1:]])
    with pytest.raises(DataError, match=rf"^{tree}/metadata.parquet: .*{said}"):
        open_(tree)


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ("S2A_MSIL2A_20170613T101031_87_48", "patch_id 'S2A_MSIL2A_20170613T101031_87_48' is no name"),
        (CLOUD.replace("0906", "0931"), "'20170931T101020' is no date and time"),
        (SNOW, f"patch_id '{SNOW}' stands there twice"),
        (AUSTRIA, f"patch_id '{AUSTRIA}' stands in metadata.parquet too"),
    ],
)
def test_faults_in_the_other_table(tree: Path, patch: str, said: str) -> None:
    write_table(tree / MORE, [MORE_ROWS[0] | {"patch_id": patch}, MORE_ROWS[1]])
    with pytest.raises(DataError, match=rf"^{tree}/{MORE}: .*{said}"):
        open_(tree, drop_seasonal_snow=False)


def test_lacking_column(tree: Path) -> None:
    pq.write_table(
        pq.read_table(tree / "metadata.parquet").rename_columns({"split": "splits"}), tree / "metadata.parquet"
    )
    with pytest.raises(DataError, match=r"metadata.parquet: no column 'split'; did you mean 'splits'\?"):
        open_(tree)


def test_faults_in_the_images(tree: Path) -> None:
    source, path = open_(tree), folder(tree, AUSTRIA) / f"{AUSTRIA}_B03.tif"
    data = path.read_bytes()
    write_band(path, np.zeros((60, 60), np.uint16))
    with pytest.raises(DataError, match=rf"{path}: 1 band\(s\) of 60 x 60 pixels, uint16; expected 1 of 120 x 120"):
        source.read(0)
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: no such file; unpack this patch again"):
        source.read(0)
    random, faults = np.random.default_rng(0), 0
    for trial in range(60):
        damaged = bytearray(data)
        damaged[random.integers(700)] ^= 1 << random.integers(8)
        path.write_bytes(damaged if trial > 10 else data[: len(data) * trial // 11])
        try:
            assert source.read(0).image.shape == (3, 120, 120)
        except DataError as error:
            faults += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert 11 <= faults < 60


def test_georeference(tree: Path) -> None:
    path = folder(tree, AUSTRIA) / f"{AUSTRIA}_B04.tif"
    write_band(path, np.zeros((120, 120), np.uint16), crs="EPSG:4326")
    with pytest.raises(DataError, match=rf"{path}: its georeference leads to latitude"):
        open_(tree).read(0)
    form = {"count": 1, "height": 120, "width": 120, "dtype": "uint16", "crs": "EPSG:32633"}
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path, "w", driver="GTiff", **form) as file,
    ):
        file.write(np.zeros((1, 120, 120), np.uint16))
    sample = open_(tree).read(0)
    assert (sample.lat, sample.lng) == (None, None)


def test_stamps_follow_files_and_table(tree: Path) -> None:
    source = open_(tree)
    before = [source.stamp(i) for i in range(3)]
    (folder(tree, NEXT) / f"{NEXT}_B04.tif").touch()
    assert [source.stamp(i) == old for i, old in enumerate(before)] == [True, False, True]
    before = [source.stamp(i) for i in range(3)]
    write_table(tree / "metadata.parquet", [ROWS[0], ROWS[1] | {"labels": ["Pastures"]}, ROWS[2] | {"split": "train"}])
    assert [open_(tree).stamp(i) == old for i, old in enumerate(before)] == [False, True, False]


def test_pickled_source_reads_the_same(tree: Path) -> None:
    source = open_(tree)
    copy = pickle.loads(pickle.dumps(source))
    for index in range(3):
        np.testing.assert_array_equal(copy.read(index).image, source.read(index).image)
        assert copy.read(index)[2:] == source.read(index)[2:]
