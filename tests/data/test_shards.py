"""Shards: whole or absent, the same bytes for the same input, and never someone else's folder."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stssl.data.schema import Card, Sample
from stssl.data.shards import MANIFEST, prepare, read_card, read_rows, verify
from stssl.data.sources.eurosat import EuroSAT
from stssl.data.store import ImageStore
from stssl.errors import DataError


def visible(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


def test_card_of_the_real_patches(prepared: tuple[Path, Card], eurosat: EuroSAT) -> None:
    folder, card = prepared
    assert card == read_card(folder) == verify(folder)
    assert (card.count, card.shape, card.dtype, card.task) == (103, (13, 64, 64), "uint16", "single")
    assert [shard.rows for shard in card.shards] == [40, 40, 23]
    pixels = np.stack([sample.image for sample in eurosat.samples()]).astype(np.float64)
    np.testing.assert_allclose(card.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(card.std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_geoparquet(prepared: tuple[Path, Card], store: ImageStore) -> None:
    file = pq.ParquetFile(prepared[0] / "part-00000.parquet")
    names = ["id", "image", "labels", "lat", "lng", "time", "split", "geometry"]
    assert file.schema_arrow.names == names and str(file.schema_arrow.field("time").type) == "timestamp[us, tz=UTC]"
    about = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert (json.loads(about["shape"]), about["dtype"]) == ([13, 64, 64], "uint16")
    assert tuple(json.loads(about["bands"])) == store.card.bands
    assert tuple(json.loads(about["classes"])) == store.card.classes
    geo = json.loads(about["geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Point"])
    row = file.read_row_group(0).slice(0, 1).to_pylist()[0]
    point = row["geometry"]
    assert point[:5] == b"\x01\x01\x00\x00\x00"
    assert np.frombuffer(point[5:], "<f8").tolist() == [row["lng"], row["lat"]]
    west, south, east, north = column["bbox"]
    assert west <= row["lng"] <= east and south <= row["lat"] <= north


def test_same_input_same_bytes(eurosat: EuroSAT, prepared: tuple[Path, Card], tmp_path: Path) -> None:
    again, written = prepare(eurosat, tmp_path / "again", rows_per_shard=40)
    assert written and again == prepared[1]  # the SHA-256 of every shard included
    other, _ = prepare(eurosat, tmp_path / "other", rows_per_shard=7)
    assert other.fingerprint == again.fingerprint and len(other.shards) == 15
    assert (other.mean, other.std) == (again.mean, again.std)


def test_fingerprint_follows_content(small, list_source, tmp_path: Path) -> None:
    source = small()
    base = prepare(source, tmp_path / "base")[0].fingerprint
    assert prepare(small(mark="2"), tmp_path / "dates")[0].fingerprint == base
    first = source._samples[0]
    image = first.image.copy()
    image[1, 2, 3] ^= 1
    changes = {"image": image, "labels": ("b",), "lat": 1.5, "time": 3.0, "split": "val", "id": "s000a"}
    found = {base}
    for name, value in changes.items():
        changed = list_source([first._replace(**{name: value}), *source._samples[1:]])
        found.add(prepare(changed, tmp_path / name)[0].fingerprint)
    assert len(found) == 1 + len(changes)


def test_done_already(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    card, written = prepare(small(), out)
    before = (out / "part-00000.parquet").stat().st_mtime_ns
    assert written and prepare(small(), out) == (card, False)
    assert (out / "part-00000.parquet").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"out: holds .* changed files; use --overwrite or another --out"):
        prepare(small(mark="2"), out)
    card, written = prepare(small(n=4, mark="2"), out, overwrite=True)
    assert written and card.count == 4 and verify(out) == card and visible(tmp_path) == ["out"]


def test_incomplete_is_not_done(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(small(), out, rows_per_shard=4)
    (out / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"part-00001.parquet: .*missing.*use --overwrite or another --out"):
        prepare(small(), out, rows_per_shard=4)
    assert prepare(small(), out, rows_per_shard=4, overwrite=True)[1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_never_replaces_a_foreign_folder(small, tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "holiday.jpg").write_text("dear")
    with pytest.raises(DataError, match=r"photos: no stssl data set.*another --out"):
        prepare(small(), out, overwrite=overwrite)
    (out / MANIFEST).write_text('{"name": "someone else\'s"}')
    with pytest.raises(DataError, match=r"photos: no stssl data set.*another --out"):
        prepare(small(), out, overwrite=overwrite)
    assert (out / "holiday.jpg").read_text() == "dear"
    file = tmp_path / "file"
    file.write_text("dear")
    with pytest.raises(DataError, match="this is a file"):
        prepare(small(), file, overwrite=overwrite)
    assert file.read_text() == "dear"


def test_overwrite_spares_what_was_added(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(small(), out)
    (out / "notes.txt").write_text("dear")
    with pytest.raises(DataError, match=r"also holds notes.txt"):
        prepare(small(mark="2"), out, overwrite=True)
    assert (out / "notes.txt").exists() and prepare(small(), out)[1] is False


def test_failed_overwrite_keeps_the_old(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    card, _ = prepare(small(), out)
    broken = small(mark="2")
    broken._samples[-1] = broken._samples[-1]._replace(labels=("d",))
    with pytest.raises(DataError, match=r"sample 's009': unknown class 'd'"):
        prepare(broken, out, overwrite=True)
    assert verify(out) == card and visible(tmp_path) == ["out"]


def test_empty_folder_and_symlink_are_fine(small, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for mark in ("1", "2"):
        assert prepare(small(mark=mark), tmp_path / "link", overwrite=True)[1]
    assert (tmp_path / "link").is_symlink() and verify(tmp_path / "disk").source_signature == "2"


def test_killed_in_the_middle(patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from stssl.data.shards import prepare; from stssl.data.sources.eurosat import EuroSAT, EuroSATConfig\n"
        "def slow(done, total):\n"
        "    print(done, flush=True)\n"
        "    if done == 30: time.sleep(60)\n"
        "prepare(EuroSAT(EuroSATConfig(root=sys.argv[1])), Path(sys.argv[2]), 8, on_progress=slow)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(patches), str(out)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "30\n":
                with pytest.raises(DataError, match="another process is preparing"):
                    prepare(EuroSAT(EuroSAT.Config(root=patches)), out)
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert not out.exists() and visible(tmp_path) == [".out.partial"]
    card, written = prepare(EuroSAT(EuroSAT.Config(root=patches)), out)
    assert written and verify(out) == card and visible(tmp_path) == ["out"]


def test_killed_between_the_renames(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    card, _ = prepare(small(), out)
    shutil.copytree(out, tmp_path / ".out.partial")
    out.rename(tmp_path / ".out.old")
    assert prepare(small(), out) == (card, False)
    assert verify(out) == card
    shutil.copytree(out, tmp_path / ".out.old")  # killed before the old one was deleted
    assert prepare(small(mark="2"), out, overwrite=True)[1] and visible(tmp_path) == ["out"]


def test_locked(small, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".out.lock"), pytest.raises(DataError, match="another process"):
        prepare(small(), tmp_path / "out")


def test_unwritable(small, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written.*another --out"):
        prepare(small(), tmp_path / "file" / "out")


def test_progress_and_shard_sizes(small, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    card, _ = prepare(
        small(9), tmp_path / "out", rows_per_shard=3, on_progress=lambda done, all_: seen.append((done, all_))
    )
    assert seen == [(i, 9) for i in range(1, 10)] and [shard.rows for shard in card.shards] == [3, 3, 3]
    with pytest.raises(DataError, match="at least 1"):
        prepare(small(), tmp_path / "none", rows_per_shard=0)


def test_verify_names_the_shard(prepared: tuple[Path, Card], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared[0], folder)
    path = folder / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for read in (
        verify,
        lambda where: list(read_rows(where)),
        lambda where: ImageStore.open(where, tmp_path / "cache"),
    ):
        with pytest.raises(DataError, match=r"part-00001.parquet: damaged: its SHA-256.*launch.py prepare"):
            read(folder)
    assert not any(entry.is_dir() for entry in (tmp_path / "cache").iterdir())
    path.write_bytes(data[:-5])
    with pytest.raises(DataError, match=r"part-00001.parquet: damaged: \d+ bytes, expected \d+; .*launch.py prepare"):
        verify(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"part-00001.parquet: this shard is missing; .*launch.py prepare"):
        verify(folder)


def test_bad_cards(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"out: no such folder; make it with `python launch.py prepare"):
        read_card(out)
    out.mkdir()
    with pytest.raises(DataError, match=r"out: no prepared data set .*launch.py prepare"):
        read_card(out)
    prepare(small(), out)
    text = (out / MANIFEST).read_text()
    damaged = [text[:100], "", "[]", text.replace('"count": 10', '"count": "many"'), text.replace('"count": 10,', "")]
    for bad in damaged:
        (out / MANIFEST).write_text(bad)
        with pytest.raises(DataError, match=r"dataset.json.*damaged.*launch.py prepare"):
            read_card(out)
    (out / MANIFEST).write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match=r"format 2 is newer.*update stssl"):
        read_card(out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": np.zeros((2, 4, 5), np.uint16)}, "all images of a data set must agree"),
        ({"image": np.zeros((3, 4, 4), np.uint16)}, r"expected \(2 bands"),
        ({"image": np.zeros((2, 4, 4), np.int64)}, "stores uint8, uint16, float32"),
        ({"labels": ("x",)}, "unknown class 'x'; known: a, b, c"),
        ({"labels": ("a", "b")}, "exactly one label"),
        ({"labels": ()}, "exactly one label"),
        ({"lat": 91.0}, "lat is 91.0; expected degrees from -90 to 90"),
        ({"lng": float("inf")}, "lng is inf"),
        ({"time": 1.6e9}, "expected days since 1970"),
        ({"id": "s004"}, "unique and sorted"),
        ({"id": "a"}, "unique and sorted"),
    ],
)
def test_bad_samples(small, tmp_path: Path, change: dict, said: str) -> None:
    source = small()
    source._samples[5] = source._samples[5]._replace(**change)
    with pytest.raises(DataError, match=said) as error:
        prepare(source, tmp_path / "out")
    assert change.get("id", "s005") in str(error.value) and visible(tmp_path) == []


def test_nan_pixels_and_no_images(list_source, tmp_path: Path) -> None:
    image = np.full((1, 2, 2), np.nan, np.float32)
    with pytest.raises(DataError, match=r"sample 'x': has pixels that are NaN"):
        prepare(list_source([Sample("x", image, None, None, None, None, None)]), tmp_path / "out")
    with pytest.raises(DataError, match="no images"):
        prepare(list_source([]), tmp_path / "out")


maybe = st.one_of
samples = st.builds(
    lambda labels, lat, lng, time, split, seed: (labels, lat, lng, time, split, seed),
    maybe(st.none(), st.lists(st.sampled_from("abc"), unique=True).map(tuple)),
    maybe(st.none(), st.just(float("nan")), st.floats(-90, 90)),
    maybe(st.none(), st.floats(-180, 180)),
    maybe(st.none(), st.floats(-20000, 40000)),
    maybe(st.none(), st.sampled_from(["train", "tést"])),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(samples, min_size=1, max_size=9),
    dtype=st.sampled_from(["uint8", ">u2", "float32"]),
    per=st.integers(1, 4),
)
def test_round_trip(list_source, tmp_path_factory, rows: list, dtype: str, per: int) -> None:
    """What goes in comes out, through shards and store: pixels exactly, in any byte order."""
    tmp_path = tmp_path_factory.mktemp("trip")
    given_ = []
    for i, (labels, lat, lng, time, split, seed) in enumerate(rows):
        image = (np.random.default_rng(seed).normal(100, 60, (3, 5, 2)) ** 2).astype(dtype)
        given_.append(Sample(f"é{i}", image, labels, lat, lng, time, split))
    card, _ = prepare(list_source(given_, task="multi"), tmp_path / "out", rows_per_shard=per)
    store = ImageStore.open(tmp_path / "out", tmp_path / "cache")
    assert card.dtype == np.dtype(dtype).name and store.ids == [sample.id for sample in given_]
    for i, sample in enumerate(given_):
        np.testing.assert_array_equal(store.images[i], sample.image)
        hot = [-1.0] * 3 if sample.labels is None else [float(name in sample.labels) for name in "abc"]
        assert store.labels[i].tolist() == hot and store.splits[i] == sample.split
        place = [np.float32(np.nan if value is None else value) for value in (sample.lat, sample.lng)]
        np.testing.assert_array_equal(store.place[i].numpy(), place)
        np.testing.assert_allclose(
            store.time[i].item(), np.nan if sample.time is None else sample.time, atol=1e-11, rtol=0
        )
    pixels = np.stack([sample.image for sample in given_]).astype(np.float64)
    np.testing.assert_allclose(card.mean, pixels.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(card.std, pixels.std((0, 2, 3)), rtol=1e-9, atol=1e-9)
