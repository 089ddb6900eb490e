"""The store: one copy a node, built once, repaired when damaged, exact."""

import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from stssl.data.schema import Card
from stssl.data.shards import prepare
from stssl.data.sources.eurosat import EuroSAT
from stssl.data.store import ImageStore
from stssl.errors import DataError


def test_open(store: ImageStore, eurosat: EuroSAT) -> None:
    assert len(store) == 103 and store.place.dtype == torch.float32 and store.time.dtype == torch.float64
    for i, sample in enumerate(eurosat.samples()):
        np.testing.assert_array_equal(store.images[i], sample.image)
        assert sample.labels == (store.card.classes[store.labels[i]],) and store.ids[i] == sample.id
    assert torch.isnan(store.time).all() and torch.isfinite(store.place).all()
    assert not store.images.flags.writeable


def test_gather_is_exact(store: ImageStore) -> None:
    rows = torch.tensor([5, 3, 5, 102])
    taken = store.gather(rows)
    assert taken.dtype == torch.uint16
    np.testing.assert_array_equal(taken.numpy(), store.images[rows.numpy()])
    some = store.gather(rows.numpy(), [12, 0])
    assert some.shape == (4, 2, 64, 64)
    np.testing.assert_array_equal(some.numpy(), store.images[rows.numpy()][:, [12, 0]])
    extremes = np.array([0, 1, 32767, 32768, 65535], np.uint16).reshape(1, 1, 1, 5)
    exact = ImageStore.from_arrays(extremes, np.zeros(1), None, None, ["a"], "single").gather(torch.tensor([0]))
    assert exact.to(torch.float32).flatten().tolist() == [0, 1, 32767, 32768, 65535]


def test_several_processes_build_once(prepared: tuple[Path, Card], tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from stssl.data import cache\n"
        "from stssl.data.store import ImageStore\n"
        "build = cache._build\n"
        "def slow(*args): print('built', flush=True); time.sleep(0.5); build(*args)\n"
        "cache._build = slow\n"
        "here = Path(sys.argv[2]); (here / f'ready{sys.argv[3]}').touch()\n"
        "while not (here / 'go').exists(): time.sleep(0.01)\n"
        "print(int(ImageStore.open(sys.argv[1]).images.sum(dtype='u8')))\n"
    )
    env = {**os.environ, "STSSL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(prepared[0]), str(tmp_path)]
    children = [
        subprocess.Popen([*command, str(i)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    while len(list(tmp_path.glob("ready*"))) < 3:
        assert all(child.poll() is None for child in children)
        time.sleep(0.02)
    (tmp_path / "go").touch()
    said = [child.communicate(timeout=60) for child in children]
    assert [err for _, err in said] == [""] * 3
    words = [word for out, _ in said for word in out.split()]
    assert words.count("built") == 1 and len({word for word in words if word != "built"}) == 1


def test_cache_home(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, _ = prepare(small(), tmp_path / "shards")
    monkeypatch.delenv("STSSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    ImageStore.open(tmp_path / "shards")
    assert (tmp_path / "xdg" / "stssl" / card.fingerprint).is_dir()
    monkeypatch.setenv("STSSL_CACHE", str(tmp_path / "own"))
    ImageStore.open(tmp_path / "shards")
    assert (tmp_path / "own" / card.fingerprint).is_dir()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "images.bin"),
        lambda folder: (folder / "images.bin").write_bytes(b""),
        lambda folder: (folder / "rows.parquet").unlink(),
        lambda folder: flip(folder / "rows.parquet"),
        lambda folder: (folder / "seal.json").write_text("{"),
        lambda folder: folder.rename(folder.with_name(folder.name + ".partial")),  # as a killed run leaves it
    ],
)
def test_damage_is_repaired(small, tmp_path: Path, damage) -> None:
    card, _ = prepare(small(), tmp_path / "shards")
    images = np.array(ImageStore.open(tmp_path / "shards", tmp_path / "cache").images)
    damage(tmp_path / "cache" / card.fingerprint)
    again = ImageStore.open(tmp_path / "shards", tmp_path / "cache")
    np.testing.assert_array_equal(again.images, images)
    assert sorted(entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()) == [card.fingerprint]


def test_touched_or_found_by_fingerprint_is_not_rebuilt(small, tmp_path: Path) -> None:
    card, _ = prepare(small(), tmp_path / "shards", rows_per_shard=3)
    ImageStore.open(tmp_path / "shards", tmp_path / "cache")
    path = tmp_path / "cache" / card.fingerprint / "images.bin"
    path.touch()
    before = path.stat()
    prepare(small(mark="2"), tmp_path / "moved", rows_per_shard=5)
    ImageStore.open(tmp_path / "moved", tmp_path / "cache")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_room(prepared: tuple[Path, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(DataError, match=r"needs 0.03 GiB for 'eurosat', and 0.00 GiB are free; .*STSSL_CACHE"):
        ImageStore.open(prepared[0], tmp_path)


def test_cache_is_a_file(prepared: tuple[Path, Card], tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match=r"cache cannot be written.*STSSL_CACHE"):
        ImageStore.open(prepared[0], tmp_path / "cache")


def test_missing_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; make it with `python launch.py prepare"):
        ImageStore.open(tmp_path / "none", tmp_path)


def test_from_arrays() -> None:
    images = np.random.default_rng(0).normal(5, 3, (6, 2, 4, 4)).astype(np.float32)
    labels = torch.tensor([[1, 0], [0, 1], [-1, -1], [1, -1], [0, 0], [1, 1]])
    place = torch.tensor([[1.0, 2.0]] * 5 + [[float("nan")] * 2])
    store = ImageStore.from_arrays(torch.from_numpy(images), labels, place, np.arange(6), ["x", "y"], "multi")
    np.testing.assert_allclose(store.card.mean, images.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(store.card.std, images.std((0, 2, 3)), rtol=1e-5)
    assert (
        store.labels.dtype == torch.float32
        and store.time.dtype == torch.float64
        and store.card.bands == ("band1", "band2")
    )
    same = ImageStore.from_arrays(images, labels, place, np.arange(6), ["x", "y"], "multi")
    other = ImageStore.from_arrays(images, labels.clamp(min=0), place, np.arange(6), ["x", "y"], "multi")
    assert same.card == store.card and other.card.fingerprint != store.card.fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": np.zeros((4, 2))}, "arrays do not fit"),
        ({"labels": np.array([0, 1, 2, 0])}, "labels lie in 0 to 2"),
        ({"place": np.zeros((4, 3))}, "arrays do not fit"),
        ({"place": np.full((4, 2), 200)}, "lat is 200"),
        ({"ids": ["a"] * 4}, "1 different ids"),
        ({"bands": ["B1", "B1"]}, "each name once"),
        ({"images": np.full((4, 2, 3, 3), np.nan, np.float32)}, "NaN"),
        ({"images": np.zeros((4, 2, 3, 3))}, "float64"),
    ],
)
def test_from_arrays_refuses(change: dict, said: str) -> None:
    fine = {"images": np.zeros((4, 2, 3, 3), np.uint8), "labels": np.array([0, 1, 1, -1]), "place": None, "time": None}
    ImageStore.from_arrays(**fine, classes=["x", "y"], task="single")
    with pytest.raises(DataError, match=said):
        ImageStore.from_arrays(**{**fine, **change}, classes=["x", "y"], task="single")
