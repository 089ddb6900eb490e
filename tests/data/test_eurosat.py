"""The EuroSAT reader against real images, the files of the reference project, and all that can be wrong with a folder."""

import csv
import json
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
import numpy as np
import pytest
import rasterio
import yaml
from moto.server import ThreadedMotoServer
from rasterio.transform import from_origin

from stssl.config import validate
from stssl.data import tables
from stssl.data.prepare import prepare
from stssl.data.schema import Sample
from stssl.data.sources._eurosat_files import read_indices, read_places
from stssl.data.sources._eurosat_splits import AllFiles
from stssl.data.sources.eurosat import BANDS, CLASSES, EuroSAT, EuroSATConfig
from stssl.errors import ConfigError, DataError
from stssl.storage import Folder

ROOT = Path(__file__).parents[2]
RGB = ROOT / "tests" / "fixtures" / "eurosat_rgb"
CSV = ROOT / "data" / "eurosat_ms_103" / "metadata.csv"  # places that were found without this code

STEMS = ("AnnualCrop_1", "Pasture_300", "SeaLake_3000")


def open_(root: Path | str, **settings: str) -> EuroSAT:
    return EuroSAT(EuroSATConfig(root=str(root), **settings))


def read(source: EuroSAT) -> list[Sample]:
    return [source.read(index) for index in range(len(source))]


def sample(source: EuroSAT, name: str) -> Sample:
    return source.read(source.ids.index(name))


def refused(root: Path, said: str, **settings: str) -> None:
    """Neither opens nor reads; one line says why."""
    with pytest.raises(DataError, match=said) as error:
        read(open_(root, **settings))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def samples(patches: Path) -> list[Sample]:
    return read(open_(patches))


@pytest.fixture
def tree(patches: Path, tmp_path: Path) -> Path:
    """A small GeoTIFF tree of its own: two Forest patches and a River."""
    for name, take in (("Forest", 2), ("River", 1)):
        (tmp_path / "tif" / name).mkdir(parents=True)
        for path in sorted((patches / name).glob("*.tif"))[:take]:
            shutil.copy(path, tmp_path / "tif" / name)
    return tmp_path / "tif"


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    """The three JPEGs, to be changed."""
    return Path(shutil.copytree(RGB, tmp_path / "jpg"))


@pytest.fixture(scope="module")
def names() -> dict[str, list[str]]:
    """Class to the stems of all its files, in order."""
    stems = [path.split("/")[-1][:-4] for path in tables.read("eurosat_27000")["path"].to_pylist()]
    return {name: sorted(stem for stem in stems if stem.startswith(name)) for name in CLASSES}


@pytest.fixture(scope="module")
def whole(names: dict[str, list[str]]) -> Iterator[Path]:
    """All 27,000 names of the JPEG tree, without any pixels but those of the fixture; not to be changed."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # so many files take long on a busy disk
    with TemporaryDirectory(dir=memory) as folder:
        yield fill(Path(folder), names)


def fill(root: Path, names: dict[str, list[str]]) -> Path:
    for name, stems in names.items():
        (root / name).mkdir()
        for stem in stems:
            open(f"{root}/{name}/{stem}.jpg", "x").close()
    shutil.copytree(RGB, root, dirs_exist_ok=True)
    return root


# --- images, places, classes ---


def test_reads_all_patches(samples: list[Sample]) -> None:
    assert len(samples) == 103
    assert [s.id for s in samples] == sorted({s.id for s in samples})
    assert {s.image.shape for s in samples} == {(13, 64, 64)} and {s.image.dtype.name for s in samples} == {"uint16"}
    assert {s.labels for s in samples} == {(name,) for name in CLASSES}
    assert all(s.labels == (s.id.rpartition("_")[0],) for s in samples)
    assert all(s.time is None for s in samples)  # EuroSAT has no dates: none may be invented


def test_places_are_those_of_the_table(samples: list[Sample]) -> None:
    with CSV.open(encoding="utf-8") as file:
        places = {Path(row["path"]).stem: (float(row["lat"]), float(row["lng"])) for row in csv.DictReader(file)}
    for s in samples:
        assert (s.lat, s.lng) == pytest.approx(places[s.id], abs=1e-5)


def test_band_order(samples: list[Sample]) -> None:
    pixels = np.stack([s.image for s in samples]).astype(np.float64)
    mean = dict(zip(BANDS, pixels.mean((0, 2, 3)), strict=True))
    rough = dict(zip(BANDS, np.abs(np.diff(pixels, axis=3)).mean((0, 2, 3)) / pixels.std((0, 2, 3)), strict=True))
    assert mean["B10"] == min(mean.values()) < 20  # cirrus: nothing comes back from the ground
    ten_metres = {"B02", "B03", "B04", "B08"}
    assert min(rough[b] for b in ten_metres) > 2 * max(rough[b] for b in BANDS if b not in ten_metres)
    assert max(rough["B01"], rough["B09"], rough["B10"]) < 0.7 * min(rough["B8A"], rough["B05"], rough["B11"])  # 60 m
    narrow, b07 = (pixels[:, BANDS.index(band)].ravel() for band in ("B8A", "B07"))
    assert np.corrcoef(narrow, b07)[0, 1] > 0.99
    value = {band: pixels[:, number] for number, band in enumerate(BANDS)}
    index = (value["B08"] - value["B04"]) / (value["B08"] + value["B04"])
    rising = [("B04", "B05"), ("B05", "B06"), ("B06", "B07"), ("B07", "B8A"), ("B12", "B11")]  # red edge, leaves' water
    assert all((value[low] < value[high])[index > 0.5].mean() > 0.999 for low, high in rising)
    assert all((value[low] < value["B05"])[index < -0.1].mean() > 0.99 for low in ("B11", "B12"))  # dark over water


def test_jpegs_show_what_the_geotiffs_do(samples: list[Sample]) -> None:
    tif = {s.id: s for s in samples}
    source = open_(RGB)
    assert source.bands == ("R", "G", "B") and tuple(source.ids) == STEMS
    for s in read(source):
        assert s.image.shape == (3, 64, 64) and s.image.dtype == np.uint8
        same = np.stack([tif[s.id].image[BANDS.index(band)] for band in ("B04", "B03", "B02")])
        assert np.abs(s.image - np.clip(same / 2750 * 255, 0, 255)).mean() < 2.5  # what JPEG loses
        assert s.labels == tif[s.id].labels and s.time is None and s.split == tif[s.id].split
        metres = (111_320 * np.cos(np.radians(s.lat)) * (s.lng - tif[s.id].lng), 111_320 * (s.lat - tif[s.id].lat))
        assert np.hypot(*metres) < 8  # as far as the table of all files is off


def test_a_source_travels_and_reads_in_any_order(patches: Path, samples: list[Sample]) -> None:
    source = pickle.loads(pickle.dumps(open_(patches)))
    for index in (50, 3, 102):
        np.testing.assert_array_equal(source.read(index).image, samples[index].image)
        assert source.read(index)[2:] == samples[index][2:] and source.ids[index] == samples[index].id
        assert [(patches / name).stem for name in source.files(index)] == [source.ids[index]]


@pytest.mark.parametrize(
    "below", ["EuroSAT_MS", "2750", "eurosat", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"]
)
def test_finds_the_tree_below(tree: Path, tmp_path: Path, below: str) -> None:
    root = tmp_path / "root"
    shutil.copytree(tree, root / below)
    (root / "eurosat_meta.yaml").write_text("nonsense", encoding="utf-8")  # taken only if `metadata` says so
    (root / "splits").mkdir()
    assert len(open_(root)) == 3


@pytest.mark.parametrize("below", ["EuroSAT_RGB", "2750"])
def test_finds_the_jpegs_below(tmp_path: Path, below: str) -> None:
    shutil.copytree(RGB, tmp_path / below)
    (tmp_path / below / "Pasture" / "Pasture_300.jpg").rename(tmp_path / below / "Pasture" / "Pasture_300.JPEG")
    assert len(read(open_(tmp_path))) == 3


def test_stamps_follow_the_files(tree: Path, tmp_path: Path) -> None:
    def stamps(root: Path = tree) -> list[str]:
        source = open_(root)
        return [source.head(), *map(source.stamp, range(len(source)))]

    before = stamps()
    shutil.copytree(tree, tmp_path / "moved")
    assert before == stamps() == stamps(tmp_path / "moved")
    path = next((tree / "River").iterdir())
    path.touch()
    assert [a == b for a, b in zip(before, stamps(), strict=True)] == [True, True, True, False]


# --- folders that are not as they should be ---


def test_missing_or_foreign_folder(tmp_path: Path) -> None:
    cases = {
        "gone": "no such folder",
        "empty": "found nothing",
        "foreign": "found notes.txt, pictures/",
        "file": "a file",
    }
    (tmp_path / "empty" / "Forest").mkdir(parents=True)
    (tmp_path / "empty" / "Forest").rmdir()
    (tmp_path / "foreign" / "pictures").mkdir(parents=True)
    (tmp_path / "foreign" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for name, found in cases.items():
        refused(tmp_path / name, rf"{tmp_path / name}: .*{found}")
        refused(tmp_path / name, r"expected <Class>/<Class>_<number>.tif \(13 bands\) or .jpg")


def test_unknown_class_folder(tree: Path) -> None:
    (tree / "Rivr").mkdir()
    (tree / ".cache").mkdir()
    (tree / "__MACOSX").mkdir()
    refused(tree, r"Rivr: no class of EuroSAT; did you mean 'River'\?.*rename or remove")


def test_two_trees(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "two"
    shutil.copytree(tree, root / "EuroSAT_MS")
    shutil.copytree(RGB, root / "EuroSAT_RGB")
    refused(root, f"holds several EuroSAT trees; name one: {root}/EuroSAT_MS, {root}/EuroSAT_RGB")
    assert len(open_(root / "EuroSAT_RGB").bands) == 3 and len(open_(root / "EuroSAT_MS").bands) == 13


def test_both_kinds_in_one_tree(tree: Path) -> None:
    (tree / "Pasture").mkdir()
    shutil.copy(RGB / "Pasture" / "Pasture_300.jpg", tree / "Pasture")
    refused(tree, r"holds both GeoTIFF and JPEG \(Forest/.*tif and Pasture/Pasture_300.jpg\)")


def test_misplaced_and_duplicate_files(tree: Path) -> None:
    path = next((tree / "Forest").iterdir())
    shutil.copy(path, tree / "River" / path.name)
    refused(tree, rf"River/{path.name}: named like class Forest.*move or remove")
    (tree / "River" / path.name).unlink()
    shutil.copy(path, tree / "Forest" / f".{path.name}")
    assert len(open_(tree)) == 3
    shutil.copy(path, path.with_suffix(".TIFF"))
    refused(tree, rf"{path.stem}.*same name as.*remove one")


# --- images that are not as they should be ---


@pytest.mark.parametrize("keep", [0, 5, 200, 1000, 50_000, -1])
def test_truncated_tiff(tree: Path, keep: int) -> None:
    path = next((tree / "River").iterdir())
    path.write_bytes(path.read_bytes()[:keep])
    refused(tree, rf"{path.name}: (damaged|the file is empty).*unpack this file again from EuroSAT_MS.zip")


@pytest.mark.parametrize("keep", [0, 5, 200, 600, 1000, 1400])
def test_truncated_jpeg(jpegs: Path, keep: int) -> None:
    path = jpegs / "SeaLake" / "SeaLake_3000.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    refused(jpegs, rf"{path.name}: (damaged|the file is empty).*unpack this file again from EuroSAT_RGB.zip")


def test_something_else_in_a_file(tree: Path, jpegs: Path) -> None:
    for root, path in ((tree, next((tree / "River").iterdir())), (jpegs, jpegs / "Pasture" / "Pasture_300.jpg")):
        path.write_bytes(b"<html>404</html>")
        refused(root, rf"{path.name}: damaged or no \w+ image.*unpack this file again")
        path.unlink()
        path.mkdir()
        refused(root, rf"{path.name}: .*unpack this file again")


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((3, 64, 64), "uint16", "3 bands of 64 x 64 pixels; expected 13 of 64 x 64"),
        ((13, 32, 64), "uint16", "13 bands of 32 x 64 pixels; expected 13 of 64 x 64"),
        ((13, 64, 64), "uint8", "pixels are uint8; expected uint16"),
    ],
)
def test_wrong_kind_of_tiff(tree: Path, shape: tuple[int, int, int], dtype: str, said: str) -> None:
    write(tree / "River" / "River_9.tif", np.zeros(shape, dtype))
    refused(tree, rf"River_9.tif: {said}.*unpack this file again")


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 65)])
def test_wrong_kind_of_jpeg(jpegs: Path, shape: tuple[int, int, int]) -> None:
    write(jpegs / "SeaLake" / "SeaLake_1.jpg", np.zeros(shape, np.uint8))
    refused(jpegs, r"SeaLake_1.jpg: \d bands of 64 x 6\d pixels; expected 3 of 64 x 64; .*EuroSAT_RGB.zip")


def test_a_file_that_goes_away(tree: Path) -> None:
    source = open_(tree)
    (tree / source.files(0)[0]).unlink()
    with pytest.raises(DataError, match=rf"{source.ids[0]}.tif: no such file"):
        source.read(0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["tif", "jpg"])
def test_damaged_bytes_never_surprise(kind: str, tree: Path, jpegs: Path) -> None:
    root, path = (
        (tree, next((tree / "River").iterdir())) if kind == "tif" else (jpegs, jpegs / "Pasture" / "Pasture_300.jpg")
    )
    whole, dice = path.read_bytes(), random.Random(0)
    source = open_(root)
    index, shape, dtype = source.ids.index(path.stem), (len(source.bands), 64, 64), source.read(0).image.dtype
    read_or_not: Counter[bool] = Counter()
    for trial in range(150):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 1, 4))):  # most of them where the structure is
            data[dice.choice((dice.randrange(len(data)), dice.randrange(600), -1 - dice.randrange(600)))] = (
                dice.randrange(256)
            )
        path.write_bytes(data[: dice.randrange(len(data))] if trial % 5 == 0 else data)
        try:
            s = source.read(index)
        except DataError as error:
            assert path.name in str(error) and "\n" not in str(error)
            read_or_not[False] += 1
        else:
            assert s.image.shape == shape and s.image.dtype == dtype and (s.lat is None) == (s.lng is None)
            assert s.lat is None or (-90 <= s.lat <= 90 and -180 <= s.lng <= 180)
            read_or_not[True] += 1
    assert min(read_or_not[True], read_or_not[False]) > 10


def test_gdal_is_silent(tree: Path, jpegs: Path) -> None:
    """In a process of its own, where no test runner catches logs and warnings."""
    tif, jpg = next((tree / "River").iterdir()), jpegs / "Pasture" / "Pasture_300.jpg"
    tif.write_bytes(tif.read_bytes()[:30_000])
    jpg.write_bytes(jpg.read_bytes()[:1_000])
    write(tree / "Forest" / "Forest_0.tif", np.zeros((13, 64, 64), "uint16"))
    code = (
        "import sys; from stssl.data.sources.eurosat import *\n"
        "for root in sys.argv[1:]:\n"
        "  source = EuroSAT(EuroSATConfig(root=root))\n"
        "  try: [source.read(i) for i in range(len(source))]\n"
        "  except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tree), str(jpegs)], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.stderr == "" and tif.name in done.stdout and jpg.name in done.stdout


def test_prepare_stops_at_a_bad_patch(tree: Path, tmp_path: Path) -> None:
    path = next((tree / "River").iterdir())
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(DataError, match=path.name):
        prepare(open_(tree), tmp_path / "shards")
    card = prepare(open_(RGB), tmp_path / "rgb").card
    assert (card.count, card.shape, card.dtype, card.bands) == (3, (3, 64, 64), "uint8", ("R", "G", "B"))


# --- places ---


def test_without_georeference_or_entry(tree: Path, jpegs: Path) -> None:
    for name in ("River_9", "River_99999"):
        write(tree / "River" / f"{name}.tif", np.zeros((13, 64, 64), "uint16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known, unknown = sample(open_(tree), "River_9"), sample(open_(tree), "River_99999")
    table = {row["path"]: row for row in tables.read("eurosat_27000").to_pylist()}
    row = table["EuroSAT_RGB/River/River_9.jpg"]
    assert (known.lat, known.lng) == (row["lat"], row["lng"])
    assert (unknown.lat, unknown.lng, unknown.split, unknown.labels) == (None, None, None, ("River",))
    shutil.copy(RGB / "Pasture" / "Pasture_300.jpg", jpegs / "Pasture" / "mine.jpg")
    mine = sample(open_(jpegs), "mine")
    assert (mine.lat, mine.lng, mine.split, mine.labels) == (None, None, None, ("Pasture",))


def test_impossible_georeference(tree: Path) -> None:
    where = {"crs": "EPSG:4326", "transform": from_origin(10, 95, 0.0001, 0.0001)}
    write(tree / "River" / "River_9.tif", np.zeros((13, 64, 64), "uint16"), **where)
    refused(tree, r"River_9.tif: its georeference leads to latitude 94.*unpack this file again")


@pytest.mark.parametrize("style", [None, False])
def test_metadata_goes_before_all_else(tree: Path, tmp_path: Path, style: bool | None) -> None:
    stems = open_(tree).ids
    at = {s.id: (s.lat - 0.5, s.lng + 0.5) for s in read(open_(tree))}
    places = {stem: [lng, lat, "2018-13-45"] for stem, (lat, lng) in at.items()} | {"another_1": [1e-5, 90.0]}
    path = tmp_path / "eurosat_meta.yaml"
    path.write_text(yaml.safe_dump(places, default_flow_style=style), encoding="utf-8")
    source = open_(tree, metadata=str(path))
    assert [(s.lat, s.lng, s.time) for s in read(source)] == [(*at[stem], None) for stem in stems]
    changed = [at[stems[1]][1], at[stems[1]][0] + 0.1]
    path.write_text(yaml.safe_dump(places | {stems[1]: changed}), encoding="utf-8")
    again = open_(tree, metadata=str(path))
    assert [source.stamp(i) == again.stamp(i) for i in range(3)] == [True, False, True]


def test_metadata_that_is_elsewhere(tmp_path: Path) -> None:
    path, at = tmp_path / "m.yaml", {s.id: (s.lat, s.lng) for s in read(open_(RGB))}
    lat, lng = at["SeaLake_3000"]
    for entry, said in (([lat, lng], ": the two look swapped; expected <name"), ([lng, lat + 1.1], "; expected <name")):
        places = {stem: [lng, lat] for stem, (lat, lng) in at.items()} | {"SeaLake_3000": entry}
        path.write_text(yaml.safe_dump(places), encoding="utf-8")
        told = f"latitude {entry[1]:.10g}, longitude {entry[0]:.10g} but latitude {lat:.10g}, longitude {lng:.10g}"
        refused(RGB, f"{path}: 'SeaLake_3000' is not where EuroSAT has it: {told}{said}", metadata=str(path))


def test_metadata_is_looked_for_at_the_root_first(jpegs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_places(tmp_path / "places.yaml", tenths=1)
    assert tenths(read(open_(jpegs, metadata="places.yaml"))) == [1] * 3
    write_places(jpegs / "places.yaml", tenths=2)
    assert tenths(read(open_(jpegs, metadata="places.yaml"))) == [2] * 3
    assert tenths(read(open_(jpegs, metadata="../places.yaml"))) == [1] * 3
    assert tenths(read(open_(jpegs, metadata=(tmp_path / "places.yaml").as_uri()))) == [1] * 3
    refused(jpegs, rf"metadata: {tmp_path}/place.yaml: no such file", metadata="place.yaml")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("Pasture_300: [10.3]", r"line 1: 'Pasture_300': \[10.3\]: these are not two numbers; expected <name"),
        ("Pasture_300: [a, b]", "line 1: .*not two numbers"),
        ("Pasture_300: ['10.3', '47.9']", "line 1: .*not two numbers"),
        ("Pasture_300: [1_0, 47.9]", "line 1: .*not two numbers"),
        ("Pasture_300: [１０, 47.9]", "line 1: .*not two numbers"),
        ("Pasture_300: [true, 47.9]", "line 1: .*not two numbers"),
        ("Pasture_300: [nan, 47.9]", "line 1: .*not finite"),
        ("Pasture_300: [.inf, 47.9]", "line 1: .*not two numbers"),
        ("Pasture_300: [1e999, 47.9]", "line 1: .*not finite"),
        (
            "\nPasture_300: [47.9, 110.3]",
            r"line 2: 'Pasture_300': \[47.9, 110.3\]: latitude and longitude look swapped",
        ),
        ("Pasture_300: [110.3, 97.9]", "line 1: .*a latitude of 97.9"),
        ("Pasture_300: [190.3, 47.9]", "line 1: .*a longitude of 190.3"),
        ("Pasture_300: [1, 2]\nPasture_300: [1, 2]", "line 2: 'Pasture_300' stands here twice"),
        ("Pasture_300: 10.3", "line 1: expected <name of an image"),
        ("Pasture_300: {lng: 10.3}", "line 1: expected <name of an image"),
        ("Pasture_300: [[10.3, 47.9]]", "line 1: expected <name of an image"),
        ("Pasture_300: &a [1, 2]\nx: *a", "line 2: expected <name of an image"),
        ("[1, 2]: [1, 2]", "line 1: expected <name of an image"),
        ("- [1, 2]", "line 1: expected <name of an image"),
        ("a: [1, 2]\n---\nb: [1, 2]", "line 3: expected <name of an image"),
        ("[" * 10_000, "line 1: expected <name of an image"),
        ("Pasture_300: [10.3, 47.9", "line 2, column 1: not valid YAML: did not find"),
        ("Pasture_300: [10.3, \x00]", "not valid YAML"),
        ("Pasture_300: [10.3, 47.9]", "has no place of 'AnnualCrop_1' and 1 more images; add it, or leave out"),
        ("", "has no place of 'AnnualCrop_1' and 2 more images"),
    ],
)
def test_bad_metadata(tmp_path: Path, entry: str, said: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(entry, encoding="utf-8")
    refused(RGB, f"{path}.*{said}", metadata=str(path))


def test_bad_bytes_in_metadata(tmp_path: Path) -> None:
    path, dice = tmp_path / "m.yaml", random.Random(0)
    whole, outcomes = write_places(path, tenths=3), Counter()
    for _ in range(400):
        path.write_bytes(changed(whole, dice))
        try:
            places = read_places(str(path), Folder(tmp_path), STEMS, np.full((3, 2), np.nan))
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            assert (np.abs(places) <= [90, 180]).all()
            outcomes["read"] += 1
    assert min(outcomes.values()) > 20


# --- splits ---


def test_official_split(whole: Path, names: dict[str, list[str]]) -> None:
    source = open_(whole)
    assert len(source) == 27_000 and list(source.ids) == sorted(source.ids)
    split = dict(zip(source.ids, source._split, strict=True))
    for stems in names.values():
        n = len(stems)
        wanted = [0] * int(0.6 * n) + [1] * (int(0.8 * n) - int(0.6 * n)) + [2] * (n - int(0.8 * n))
        assert [split[stem] for stem in stems] == wanted
    assert Counter(split.values()) == {0: 16_200, 1: 5_400, 2: 5_400}


def test_a_part_is_split_like_the_whole() -> None:
    assert [s.split for s in read(open_(RGB))] == ["train", "validation", "validation"]
    assert [s.split for s in read(open_(RGB, split="reference"))] == ["train", "train", "train"]
    assert [s.split for s in read(open_(RGB, split="none"))] == [None] * 3


def saved_by_the_reference(names: dict[str, list[str]], count: int, seed: int) -> tuple[np.ndarray, set[str]]:
    """What a run with that seed saves, and the images that it means: by the names, without this project's code."""
    train = [stem for stems in names.values() for stem in stems[: int(0.8 * len(stems))]]
    dice = np.random.RandomState(seed)
    shuffled = list(range(len(train)))
    dice.shuffle(shuffled)
    stems = [train[i] for i in shuffled]
    numbers = []
    for name in names:
        of_class = np.array([i for i, stem in enumerate(stems) if stem.startswith(name)])
        dice.shuffle(of_class)
        numbers += list(of_class[: count // 10])
    return np.array(numbers), {stems[i] for i in numbers}


@pytest.mark.parametrize(
    ("name", "count", "seed"), [("lb_labels_20_1_seed3_idx.npy", 20, 3), ("lb_labels80_1.0_seed0_idx.npy", 80, 0)]
)
def test_labeled_of_the_reference(
    whole: Path, names: dict[str, list[str]], tmp_path: Path, name: str, count: int, seed: int
) -> None:
    numbers, stems = saved_by_the_reference(names, count, seed)
    assert len(stems) == count
    np.save(tmp_path / name, numbers)
    source = open_(whole, split="reference", labeled=str(tmp_path / name))
    keep = dict(zip(source.ids, source._labeled, strict=True))
    split = dict(zip(source.ids, source._split, strict=True))
    assert Counter(split.values()) == {0: 21_600, 2: 5_400}
    assert {stem for stem in keep if keep[stem] and split[stem] == 0} == stems
    assert all(keep[stem] for stem in keep if split[stem] == 2)
    for stem in STEMS:
        s = sample(source, stem)
        assert s.split == "train" and s.labels == ((stem.rpartition("_")[0],) if stem in stems else None)


def test_labeled_without_a_shuffle(whole: Path, names: dict[str, list[str]], tmp_path: Path) -> None:
    train = [stem for stems in names.values() for stem in stems[: int(0.8 * len(stems))]]
    chosen = {"SeaLake_3000", *(stems[7] for name, stems in names.items() if name != "SeaLake")}
    np.save(tmp_path / "mine.npy", np.array(sorted(map(train.index, chosen)), np.uint16))
    source = open_(whole, split="reference", labeled=str(tmp_path / "mine.npy"))
    assert {
        i for i, keep, split in zip(source.ids, source._labeled, source._split, strict=True) if keep and split == 0
    } == chosen
    assert sample(source, "SeaLake_3000").labels == ("SeaLake",) and sample(source, "Pasture_300").labels is None


def test_labeled_that_cannot_be_understood(whole: Path, names: dict[str, list[str]], tmp_path: Path) -> None:
    numbers, _ = saved_by_the_reference(names, 20, 3)
    known, path = AllFiles(), tmp_path / "lb_labels20_1_seed4_idx.npy"
    np.save(path, numbers)
    said = f"{path}: .*not the same number of each class, with the training images shuffled by seed 4 or sorted by name"
    refused(whole, said, split="reference", labeled=str(path))
    path = path.rename(tmp_path / "lb_labels20_idx.npy")
    with pytest.raises(DataError, match=r"sorted by name, .*its name has no seed: expected lb_labels<N>_1_seed<S>_idx"):
        known.labeled(read_indices(str(path), Folder(tmp_path), 21_600))


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("ulb_labels20_1_seed3_idx.npy", lambda n: n, "unlabeled images; name the file of the labeled ones"),
        ("lb_labels40_1_seed3_idx.npy", lambda n: n, "holds 20 numbers, its name says 40"),
        ("lb.npy", lambda n: n.astype(float), "expected a list of whole numbers, found float64"),
        ("lb.npy", lambda n: n[None], r"expected a list of whole numbers, found int64 of shape \(1, 20\)"),
        ("lb.npy", lambda n: n[:0], "expected a list of whole numbers"),
        ("lb.npy", lambda n: np.append(n, 21_600), "21600 is no number of a training image; expected 0 to 21599"),
        ("lb.npy", lambda n: np.append(n, -1), "-1 is no number"),
        ("lb.npy", lambda n: np.append(n, n[4]), "4 stands here twice"),
        ("lb.npy", lambda n: np.array([{}], object), "damaged or no .npy file"),
    ],
)
def test_bad_numbers(tmp_path: Path, name: str, make: Callable, said: str) -> None:
    np.save(tmp_path / name, make(np.arange(20)))
    with pytest.raises(DataError, match=f"{tmp_path / name}: .*{said}"):
        read_indices(name, Folder(tmp_path), 21_600)


def test_bad_bytes_in_numbers(tmp_path: Path) -> None:
    path, dice, outcomes = tmp_path / "lb.npy", random.Random(0), Counter()
    np.save(path, np.arange(20))
    good = path.read_bytes()
    cut = [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff", good[:-3], good.replace(b"(20,)", b"(2**9")]
    for content in cut + [changed(good, dice) for _ in range(300)]:
        path.write_bytes(content)
        try:
            assert len(read_indices(str(path), Folder(tmp_path), 21_600).numbers)
            assert content not in cut
            outcomes["read"] += 1
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def changed(data: bytes, dice: random.Random) -> bytes:
    broken = bytearray(data)
    broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
    return bytes(broken)


def test_labeled_needs_all_files_and_its_split(tmp_path: Path) -> None:
    np.save(tmp_path / "lb_seed0.npy", np.arange(10))
    refused(RGB, "labeled: 26997 of EuroSAT's 27000 images are not here", split="reference", labeled="lb_seed0.npy")
    with pytest.raises(
        ConfigError, match="its numbers count the training images of split 'reference'; got split 'none'"
    ):
        validate(EuroSATConfig, {"root": "x", "split": "none", "labeled": "lb_seed0.npy"}, "prepare eurosat")


def test_labels_and_places_shape_the_head(tmp_path: Path) -> None:
    write_places(tmp_path / "m.yaml", tenths=3)
    heads = [open_(RGB, **more).head() for more in ({}, {"split": "none"}, {"metadata": str(tmp_path / "m.yaml")})]
    assert len(set(heads)) == 3 and all(json.loads(head)[0] == "eurosat" for head in heads)


# --- in a bucket ---


def test_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="patches")
        for path in RGB.rglob("*.jpg"):
            client.upload_file(str(path), "patches", f"data/EuroSAT_RGB/{path.relative_to(RGB).as_posix()}")
        write_places(tmp_path / "m.yaml", tenths=3)
        client.upload_file(str(tmp_path / "m.yaml"), "patches", "data/m.yaml")
        source = pickle.loads(pickle.dumps(open_("s3://patches/data")))
        for near, far in zip(read(open_(RGB)), read(source), strict=True):
            np.testing.assert_array_equal(near.image, far.image)
            assert near[2:] == far[2:]
        for place in ("m.yaml", "s3://patches/data/m.yaml", str(tmp_path / "m.yaml")):
            assert tenths(read(open_("s3://patches/data", metadata=place))) == [3] * 3
        refused("s3://patches/data", "metadata: s3://patches/x.yaml: no such file", metadata="s3://patches/x.yaml")
        refused("s3://patches/nothing", "s3://patches/nothing: no such folder; expected <Class>")
        client.put_object(Bucket="patches", Key="data/EuroSAT_RGB/Pasture/Pasture_300.jpg", Body=b"\xff\xd8\xff")
        refused("s3://patches/data", "s3://patches/data/EuroSAT_RGB/Pasture/Pasture_300.jpg: damaged or no JPEG")
    finally:
        server.stop()


def write(path: Path, pixels: np.ndarray, **where: object) -> None:
    shape = {"count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2]}
    driver = "JPEG" if path.suffix == ".jpg" else "GTiff"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver=driver, dtype=pixels.dtype, **shape, **where) as file:
            file.write(pixels)


def write_places(path: Path, tenths: int) -> bytes:
    """Places of the three JPEGs, so many tenths of a degree north of where they are."""
    path.write_text("".join(f"{s.id}: [{s.lng}, {s.lat + tenths / 10}]\n" for s in read(open_(RGB))), encoding="utf-8")
    return path.read_bytes()


def tenths(found: list[Sample]) -> list[int]:
    """How many tenths of a degree samples are north of where they are."""
    return [round(10 * (s.lat - at.lat)) for s, at in zip(found, read(open_(RGB)), strict=True)]
