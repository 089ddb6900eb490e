"""Shards: what is in them, and that damage is found and named."""

import json
import shutil
from pathlib import Path

import duckdb
import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stssl.data.prepare import prepare
from stssl.data.schema import Card, Sample
from stssl.data.shards import MANIFEST, read_card, read_columns, verify
from stssl.data.sources.eurosat import EuroSAT
from stssl.data.store import ImageStore
from stssl.errors import DataError
from stssl.storage import Folder


def test_card_of_the_real_patches(prepared: tuple[Path, Card], eurosat: EuroSAT) -> None:
    folder, card = prepared
    assert card == read_card(folder) == verify(folder)
    assert (card.count, card.shape, card.dtype, card.task) == (103, (13, 64, 64), "uint16", "single")
    assert [shard.rows for shard in card.shards] == [40, 40, 23]
    pixels = np.stack([eurosat.read(index).image for index in range(103)]).astype(np.float64)
    np.testing.assert_allclose(card.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(card.std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_geoparquet(prepared: tuple[Path, Card], store: ImageStore) -> None:
    file = pq.ParquetFile(next(prepared[0].glob("part-00000-*.parquet")))
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


def test_opens_in_geopandas_and_duckdb(prepared: tuple[Path, Card], store: ImageStore) -> None:
    folder, card = prepared
    frame = geopandas.read_parquet(next(folder.glob("part-00000-*.parquet")))
    assert frame.crs.to_epsg() in (4326, None) and frame.crs.name.startswith("WGS 84") and len(frame) == 40
    np.testing.assert_allclose(frame.geometry.x, store.place[:40, 1], rtol=1e-6)
    np.testing.assert_allclose(frame.geometry.y, store.place[:40, 0], rtol=1e-6)
    query = "select labels[1], count(*), min(lat), max(octet_length(image)) from read_parquet($files) group by 1"
    rows = duckdb.execute(query, {"files": [str(path) for path in folder.glob("*.parquet")]}).fetchall()
    assert {name: count for name, count, *_ in rows} == {name: 11 if name in ELEVEN else 10 for name in card.classes}
    assert {size for *_, size in rows} == {13 * 64 * 64 * 2} and all(30 < lat < 70 for _, _, lat, _ in rows)


ELEVEN = ("AnnualCrop", "Pasture", "SeaLake")


def test_a_shard_tells_its_own_story(prepared: tuple[Path, Card], store: ImageStore) -> None:
    path = next(prepared[0].glob("part-00002-*.parquet"))
    about = {key.decode(): value.decode() for key, value in pq.read_metadata(path).metadata.items()}
    pixels = store.images[80:].numpy().astype(np.float64)
    statistics = json.loads(about["statistics"])
    np.testing.assert_allclose(statistics["mean"], pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(statistics["std"], pixels.std((0, 2, 3)), rtol=1e-12)
    assert about["dataset"] == "eurosat" and about["task"] == "single" and len(about["fingerprint"]) == 64


def test_fingerprint_follows_content(small, list_source, tmp_path: Path) -> None:
    source = small()
    base = prepare(source, tmp_path / "base").card.fingerprint
    assert prepare(small(mark="2"), tmp_path / "dates").card.fingerprint == base
    first = source.all[0]
    image = first.image.copy()
    image[1, 2, 3] ^= 1
    changes = {"image": image, "labels": ("b",), "lat": 1.5, "time": 3.0, "split": "val", "id": "s000a"}
    found = {base}
    for name, value in changes.items():
        changed = list_source([first._replace(**{name: value}), *source.all[1:]])
        found.add(prepare(changed, tmp_path / name).card.fingerprint)
    assert len(found) == 1 + len(changes)


def test_verify_names_the_shard(prepared: tuple[Path, Card], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared[0], folder)
    path = next(folder.glob("part-00001-*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for read in (
        verify,
        lambda where: ImageStore.open(where, tmp_path / "cache"),
    ):
        with pytest.raises(DataError, match=r"part-00001-.*.parquet: damaged: its SHA-256.*launch.py prepare"):
            read(folder)
    assert not any(entry.is_dir() for entry in (tmp_path / "cache").iterdir())
    path.write_bytes(data[:-5])
    with pytest.raises(
        DataError, match=r"part-00001-.*.parquet: damaged: \d+ bytes, expected \d+; .*launch.py prepare"
    ):
        verify(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"part-00001-.*.parquet: this shard is missing; .*launch.py prepare"):
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
        ({"fingerprint": "../precious"}, "fingerprint"),  # it names a folder of the cache, which may be cleared
        ({"fingerprint": ""}, "fingerprint"),
        ({"shards": []}, "it lists no shard"),
        ({"count": 12}, "count is 12, but the shards have 10 rows"),
        ({"mean": [1.0]}, "2 bands do not fit"),
        ({"shape": [2, 0, 4]}, "do not fit shape"),
    ],
)
def test_cards_that_contradict_themselves(small, tmp_path: Path, change: dict, said: str) -> None:
    prepare(small(), tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (tmp_path / "precious").mkdir()
    for read in (read_card, lambda where: ImageStore.open(where, tmp_path / "cache")):
        with pytest.raises(DataError, match=said):
            read(tmp_path / "out")
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/b.parquet", ".hidden", "", "..", "a\\b", "a\0b", "x" * 300]
)
def test_a_card_names_files_of_its_folder_only(small, tmp_path: Path, name: str) -> None:
    prepare(small(), tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    data = json.loads(path.read_text())
    data["shards"][0]["file"] = name
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"shards.0.file"):
        verify(tmp_path / "out")


@pytest.mark.parametrize("name", ["../../victim", "/victim", "a\0", "a\nb", "x" * 300, "", ".."])
def test_a_data_sets_name_is_no_path(small, tmp_path: Path, name: str) -> None:
    """`inspect` makes a folder of that name."""
    prepare(small(), tmp_path / "out")
    data = json.loads((tmp_path / "out" / MANIFEST).read_text())
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({**data, "name": name}))
    with pytest.raises(DataError, match=r"dataset.json: name: data set .* is not a valid name"):
        verify(tmp_path / "out")


def test_deep_json(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 200_000)
    with pytest.raises(DataError, match="damaged"):
        read_card(tmp_path)


def test_swapped_and_foreign_shards_are_noticed_without_checksums(small, tmp_path: Path) -> None:
    card, *_ = prepare(small(), tmp_path / "out", rows_per_shard=4)
    other, *_ = prepare(small(seed=3), tmp_path / "other", rows_per_shard=5)
    folder, (first, last) = Folder(tmp_path / "out"), (card.shards[0].file, card.shards[2].file)
    whole = folder.read(first)
    for data in (folder.read(last), Folder(tmp_path / "other").read(other.shards[0].file), b"", b"PAR1" * 9):
        folder.write(first, data)
        with pytest.raises(DataError, match=rf"{first}: (damaged|missing or damaged)"):
            read_columns(tmp_path / "out", ["labels"])
    folder.write(first, whole)
    assert read_columns(tmp_path / "out", ["labels"]).num_rows == 10


def test_damaged_manifests_never_break_the_reader(small, tmp_path: Path) -> None:
    prepare(small(), tmp_path / "out")
    text = (tmp_path / "out" / MANIFEST).read_text()
    random = np.random.default_rng(0)
    fine = 0
    for _ in range(300):
        data = bytearray(text.encode())
        for _ in range(random.integers(1, 4)):
            at = random.integers(len(data))
            data[at : at + random.integers(0, 3)] = random.bytes(int(random.integers(0, 3)))
        (tmp_path / "out" / MANIFEST).write_bytes(bytes(data))
        try:
            read_card(tmp_path / "out")
            fine += 1
        except DataError as error:
            assert "dataset.json" in str(error)
    assert fine < 200


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
    card, *_ = prepare(list_source(given_, task="multi"), tmp_path / "out", rows_per_shard=per)
    store = ImageStore.open(tmp_path / "out", tmp_path / "cache")
    assert card.dtype == np.dtype(dtype).name and store.ids.to_pylist() == [sample.id for sample in given_]
    for i, sample in enumerate(given_):
        np.testing.assert_array_equal(store.images[i], sample.image)
        hot = [-1.0] * 3 if sample.labels is None else [float(name in sample.labels) for name in "abc"]
        assert store.labels[i].tolist() == hot and store.splits[i].as_py() == sample.split
        place = [np.float32(np.nan if value is None else value) for value in (sample.lat, sample.lng)]
        np.testing.assert_array_equal(store.place[i].numpy(), place)
        np.testing.assert_allclose(
            store.time[i].item(), np.nan if sample.time is None else sample.time, atol=1e-11, rtol=0
        )
    pixels = np.stack([sample.image for sample in given_]).astype(np.float64)
    np.testing.assert_allclose(card.mean, pixels.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(card.std, pixels.std((0, 2, 3)), rtol=1e-9, atol=1e-9)
