"""The store: one copy a node, built once, repaired when damaged, exact."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from stssl.data import cache
from stssl.data.dataset import DataConfig, Dataset
from stssl.data.prepare import prepare
from stssl.data.schema import Card
from stssl.data.sources.eurosat import EuroSAT
from stssl.data.store import ImageStore, gather
from stssl.errors import ConfigError, DataError


def test_open(store: ImageStore, eurosat: EuroSAT) -> None:
    assert len(store) == 103 and store.place.dtype == torch.float32 and store.time.dtype == torch.float64
    for i in range(103):
        sample = eurosat.read(i)
        np.testing.assert_array_equal(store.images[i], sample.image)
        assert sample.labels == (store.card.classes[store.labels[i]],) and store.ids[i].as_py() == sample.id
    assert torch.isnan(store.time).all() and torch.isfinite(store.place).all()


def test_gather_is_exact(store: ImageStore) -> None:
    rows = torch.tensor([5, 3, 5, 102])
    taken = gather(store.images, rows)
    assert taken.dtype == torch.uint16
    np.testing.assert_array_equal(taken.numpy(), store.images.numpy()[rows])
    some = gather(store.images, rows, [12, 0])
    assert some.shape == (4, 2, 64, 64)
    np.testing.assert_array_equal(some.numpy(), store.images.numpy()[rows][:, [12, 0]])
    extremes = np.array([0, 1, 32767, 32768, 65535], np.uint16).reshape(1, 1, 1, 5)
    exact = ImageStore.from_arrays(extremes, np.zeros(1), None, None, ["a"], "single")
    taken = gather(exact.images, torch.tensor([0]))
    assert taken.to(torch.float32).flatten().tolist() == [0, 1, 32767, 32768, 65535]


def test_several_processes_build_once(prepared: tuple[Path, Card], tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from stssl.data import cache\n"
        "from stssl.data.store import ImageStore\n"
        "build = cache._build\n"
        "def slow(*args): print('built', flush=True); time.sleep(0.5); build(*args)\n"
        "cache._build = slow\n"
        "here = Path(sys.argv[2]); (here / f'ready{sys.argv[3]}').touch()\n"
        "while not (here / 'go').exists(): time.sleep(0.01)\n"
        "print(int(ImageStore.open(sys.argv[1]).images.numpy().sum(dtype='u8')))\n"
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
    card, *_ = prepare(small(), tmp_path / "shards")
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
        lambda folder: (folder / "rows.arrow").unlink(),
        lambda folder: flip(folder / "rows.arrow"),
        lambda folder: flip(folder / "labels.npy"),
        lambda folder: (folder / "place.npy").unlink(),
        lambda folder: (folder / "seal.json").write_text("{"),
        lambda folder: folder.rename(folder.with_name(folder.name + ".partial")),  # as a killed run leaves it
    ],
)
def test_damage_is_repaired(small, tmp_path: Path, damage) -> None:
    card, *_ = prepare(small(), tmp_path / "shards")
    images = np.array(ImageStore.open(tmp_path / "shards", tmp_path / "cache").images)
    damage(tmp_path / "cache" / card.fingerprint)
    again = ImageStore.open(tmp_path / "shards", tmp_path / "cache")
    np.testing.assert_array_equal(again.images, images)
    assert sorted(entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()) == [card.fingerprint]


def test_touched_or_found_by_fingerprint_is_not_rebuilt(small, tmp_path: Path) -> None:
    card, *_ = prepare(small(), tmp_path / "shards", rows_per_shard=3)
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
    with pytest.raises(DataError, match=r"needs 0.011 GB for 'eurosat', and 0.001 GB are free; .*STSSL_CACHE"):
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


def test_limit(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(small(), tmp_path / "one")
    card, *_ = prepare(small(seed=1), tmp_path / "two")
    monkeypatch.setenv("STSSL_CACHE_LIMIT_GB", "0.000005")
    ImageStore.open(tmp_path / "one", tmp_path / "cache")
    with pytest.raises(DataError, match=r"'list' needs 0.000 GB, STSSL_CACHE_LIMIT_GB allows .*raise the limit"):
        ImageStore.open(tmp_path / "two", tmp_path / "cache")
    ImageStore.open(tmp_path / "one", tmp_path / "cache")  # what is there stays
    monkeypatch.setenv("STSSL_CACHE_LIMIT_GB", "1")
    assert ImageStore.open(tmp_path / "two", tmp_path / "cache").card == card
    for limit in ("lots", "nan", "-1"):
        monkeypatch.setenv("STSSL_CACHE_LIMIT_GB", limit)
        with pytest.raises(ConfigError, match=f"STSSL_CACHE_LIMIT_GB: expected a number of gigabytes, got '{limit}'"):
            ImageStore.open(tmp_path / "two", tmp_path / "cache2")


def test_touched_is_looked_into_once(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, *_ = prepare(small(), tmp_path / "shards")
    ImageStore.open(tmp_path / "shards", tmp_path / "cache")
    (tmp_path / "cache" / card.fingerprint / "images.bin").touch()
    hashed: list[str] = []
    sums = cache._sums
    monkeypatch.setattr(cache, "_sums", lambda path, sizes: (hashed.append(path.name), sums(path, sizes))[1])
    for _ in range(3):
        ImageStore.open(tmp_path / "shards", tmp_path / "cache")
    assert hashed == ["images.bin"]


def test_disk_full(small, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: what was begun is cleared away, the message helps."""
    prepare(small(400), tmp_path / "shards")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
        try:
            ImageStore.open(tmp_path / "shards", tmp_path / "cache")
        except DataError as error:
            os._exit(7 if "the cache cannot be written: " in str(error) and "STSSL_CACHE" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert len(ImageStore.open(tmp_path / "shards", tmp_path / "cache")) == 400


def test_a_mapped_store_is_not_changed_by_who_writes_to_it(small, tmp_path: Path) -> None:
    prepare(small(), tmp_path / "shards")
    store = ImageStore.open(tmp_path / "shards", tmp_path / "cache")
    before = store.labels.clone()
    store.labels[:] = 7
    assert torch.equal(ImageStore.open(tmp_path / "shards", tmp_path / "cache").labels, before)


@pytest.mark.parametrize("bands", [None, ("B1", "B0"), ("B1",)])
def test_residency_changes_nothing(small, tmp_path: Path, bands: tuple[str, ...] | None) -> None:
    prepare(small(40), tmp_path / "shards")
    store = ImageStore.open(tmp_path / "shards", tmp_path / "cache")
    batches = []
    for residency in ("mapped", "auto", "device"):
        config = DataConfig(shards="x", bands=bands, residency=residency, split={"block_deg": 1})
        dataset = Dataset(config, store)
        dataset.settle("cpu")
        assert (dataset.buffer(2, pinned=False) is None) == (residency == "device")
        batches.append(dataset.batch(torch.tensor([3, 1, 39, 3])))
    for other in batches[1:]:
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(batches[0], other, strict=True))


def test_residency_that_does_not_fit() -> None:
    """A real refusal by the allocator: 10^15 images of one pixel, none of which is ever touched."""
    store = ImageStore.from_arrays(np.zeros((40, 1, 1, 1), np.uint8), [0] * 40, None, None, "a", "single")
    dataset = Dataset(DataConfig(shards="x", residency="device"), store)
    store.images = torch.zeros(1, dtype=torch.uint8).expand(10**15, 1, 1, 1)
    with pytest.raises(
        ConfigError, match=r"data.residency: the images take 931322.6 GiB, .* set data.residency=mapped"
    ):
        dataset.settle("cpu")
