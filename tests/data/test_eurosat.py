"""The EuroSAT reader against the real patches, and against everything that can be wrong with a folder."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from stssl.data.shards import prepare
from stssl.data.sources.eurosat import BANDS, CLASSES, EuroSAT, EuroSATConfig
from stssl.data.store import ImageStore
from stssl.errors import DataError

# A part of eurosat_ms_103_metadata.csv, which was made without this code.
PLACES = {
    "AnnualCrop_1": (44.03522, 28.559055),
    "AnnualCrop_1175": (48.951615, 4.682432),
    "AnnualCrop_1700": (46.075443, 17.955649),
    "Forest_1010": (54.337444, 19.078266),
    "Forest_321": (42.459552, 23.973955),
    "HerbaceousVegetation_1023": (55.334014, -3.673853),
    "HerbaceousVegetation_957": (55.468587, -3.932282),
    "Highway_1219": (49.047329, 4.308372),
    "Highway_841": (39.606648, -0.348452),
    "Industrial_156": (53.354647, -2.657132),
    "Industrial_967": (41.954753, -0.704332),
    "Pasture_1662": (52.270969, -1.670462),
    "PermanentCrop_2096": (48.781721, 9.414496),
    "Residential_1742": (54.348222, 18.358151),
    "River_2160": (53.162795, 8.824988),
    "SeaLake_2126": (54.64342, 17.096219),
}


def open_(root: Path) -> EuroSAT:
    return EuroSAT(EuroSATConfig(root=root))


def read(root: Path) -> list:
    return list(open_(root).samples())


@pytest.fixture
def tree(patches: Path, tmp_path: Path) -> Path:
    """A small tree of its own: two Forest patches and a River."""
    for name, take in (("Forest", 2), ("River", 1)):
        (tmp_path / name).mkdir()
        for path in sorted((patches / name).glob("*.tif"))[:take]:
            shutil.copy(path, tmp_path / name)
    return tmp_path


def test_reads_all_patches(eurosat: EuroSAT) -> None:
    samples = list(eurosat.samples())
    assert len(samples) == len(eurosat) == 103
    assert [s.id for s in samples] == sorted(s.id for s in samples)
    assert {s.image.shape for s in samples} == {(13, 64, 64)} and {s.image.dtype.name for s in samples} == {"uint16"}
    assert {s.labels for s in samples} == {(name,) for name in CLASSES}
    assert all(s.labels == (s.id.rpartition("_")[0],) for s in samples)
    assert all(s.time is None and s.split is None for s in samples)  # EuroSAT has no dates: none may be invented


def test_places_are_those_of_the_table(store: ImageStore) -> None:
    for name, place in PLACES.items():
        assert store.place[store.ids.index(name)].tolist() == pytest.approx(place, abs=1e-4)


def test_band_order(store: ImageStore) -> None:
    pixels = store.images.astype(np.float64)
    mean = dict(zip(BANDS, pixels.mean((0, 2, 3)), strict=True))
    rough = dict(zip(BANDS, np.abs(np.diff(pixels, axis=3)).mean((0, 2, 3)) / pixels.std((0, 2, 3)), strict=True))
    assert mean["B10"] == min(mean.values()) < 20  # cirrus: nothing comes back from the ground
    ten_metres = {"B02", "B03", "B04", "B08"}
    assert min(rough[b] for b in ten_metres) > 2 * max(rough[b] for b in BANDS if b not in ten_metres)
    assert max(rough["B01"], rough["B09"], rough["B10"]) < 0.7 * min(rough["B8A"], rough["B05"], rough["B11"])  # 60 m
    narrow, b07 = (pixels[:, BANDS.index(band)].ravel() for band in ("B8A", "B07"))
    assert np.corrcoef(narrow, b07)[0, 1] > 0.99


@pytest.mark.parametrize("below", ["EuroSAT_MS", "2750", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"])
def test_finds_the_tree_below(tree: Path, tmp_path_factory: pytest.TempPathFactory, below: str) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / below).parent.mkdir(parents=True, exist_ok=True)
    (root / "EuroSAT_RGB" / "Forest").mkdir(parents=True)
    (root / "EuroSAT_RGB" / "Forest" / "Forest_1.jpg").touch()
    shutil.copytree(tree, root / below)
    assert len(open_(root)) == 3


def test_signature_follows_the_files(tree: Path) -> None:
    before = open_(tree).signature()
    assert before == open_(tree).signature()
    path = next((tree / "River").iterdir())
    path.touch()
    touched = open_(tree).signature()
    path.unlink()
    assert len({before, touched, open_(tree).signature()}) == 3


def test_missing_or_foreign_folder(tmp_path: Path) -> None:
    cases = {
        "gone": "no such folder",
        "empty": "found nothing",
        "foreign": "found notes.txt, pictures/",
        "file": "a file",
    }
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign" / "pictures").mkdir(parents=True)
    (tmp_path / "foreign" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for name, found in cases.items():
        with pytest.raises(DataError) as error:
            open_(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and found in str(error.value)
        assert "expected <Class>/<Class>_<number>.tif" in str(error.value)


def test_jpeg_tree(tmp_path: Path) -> None:
    (tmp_path / "2750" / "Forest").mkdir(parents=True)
    (tmp_path / "2750" / "Forest" / "Forest_1.jpg").touch()
    with pytest.raises(DataError, match="only GeoTIFF is read, not JPEG"):
        open_(tmp_path)


def test_unknown_class_folder(tree: Path) -> None:
    (tree / "Rivr").mkdir()
    (tree / ".cache").mkdir()
    with pytest.raises(DataError, match=r"Rivr: no class of EuroSAT; did you mean 'River'\?.*rename or remove"):
        open_(tree)


def test_two_trees(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(tree, root / "2750")
    shutil.copytree(tree, root / "EuroSAT_MS")
    with pytest.raises(DataError, match="name one of them"):
        open_(root)


def test_misplaced_and_duplicate_files(tree: Path) -> None:
    path = next((tree / "Forest").iterdir())
    shutil.copy(path, tree / "River" / path.name)
    with pytest.raises(DataError, match=rf"{path.name}: named like class Forest.*move or remove"):
        open_(tree)
    (tree / "River" / path.name).unlink()
    shutil.copy(path, path.with_suffix(".TIFF"))
    with pytest.raises(DataError, match=rf"{path.stem}.*same name as.*remove one"):
        open_(tree)


@pytest.mark.parametrize("keep", [0, 5, 200, 1000, 50_000, -1])
def test_truncated_file(tree: Path, keep: int) -> None:
    path = next((tree / "River").iterdir())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{path.name}: (damaged|the file is empty).*unpack this file again"):
        read(tree)


def test_overwritten_file(tree: Path) -> None:
    path = next((tree / "River").iterdir())
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=rf"{path.name}: damaged or no GeoTIFF.*unpack this file again"):
        read(tree)


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((3, 64, 64), "uint16", "3 bands of 64 x 64 pixels; expected 13 of 64 x 64"),
        ((13, 32, 64), "uint16", "13 bands of 32 x 64 pixels; expected 13 of 64 x 64"),
        ((13, 64, 64), "uint8", "pixels are uint8; expected uint16"),
    ],
)
def test_wrong_kind_of_tiff(tree: Path, shape: tuple[int, int, int], dtype: str, said: str) -> None:
    write_tiff(tree / "River" / "River_9.tif", np.zeros(shape, dtype))
    with pytest.raises(DataError, match=rf"River_9.tif: {said}.*unpack this file again"):
        read(tree)


def test_without_georeference(tree: Path) -> None:
    write_tiff(tree / "River" / "River_9.tif", np.zeros((13, 64, 64), "uint16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = read(tree)[-1]
    assert (sample.id, sample.lat, sample.lng) == ("River_9", None, None)


def test_impossible_georeference(tree: Path) -> None:
    where = {"crs": "EPSG:4326", "transform": from_origin(10, 95, 0.0001, 0.0001)}
    write_tiff(tree / "River" / "River_9.tif", np.zeros((13, 64, 64), "uint16"), **where)
    with pytest.raises(DataError, match=r"River_9.tif: its georeference leads to latitude 94.*unpack this file again"):
        read(tree)


def test_gdal_is_silent(tree: Path) -> None:
    """In a process of its own, where no test runner catches logs and warnings."""
    path = next((tree / "River").iterdir())
    path.write_bytes(path.read_bytes()[:30_000])
    write_tiff(tree / "Forest" / "Forest_0.tif", np.zeros((13, 64, 64), "uint16"))
    code = (
        "import sys; from stssl.data.sources.eurosat import *\n"
        "try: list(EuroSAT(EuroSATConfig(root=sys.argv[1])).samples())\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tree)], capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and path.name in done.stdout


def test_prepare_stops_at_a_bad_patch(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = next((tree / "River").iterdir())
    path.write_bytes(path.read_bytes()[:30_000])
    out = tmp_path_factory.mktemp("out") / "shards"
    with pytest.raises(DataError, match=path.name):
        prepare(open_(tree), out)
    assert [entry.name for entry in out.parent.iterdir() if not entry.name.endswith(".lock")] == []


def write_tiff(path: Path, pixels: np.ndarray, **where: object) -> None:
    shape = {"count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", dtype=pixels.dtype, **shape, **where) as file:
            file.write(pixels)
