"""Shards in a bucket, against a real S3 server on loopback: also when it refuses, fails or goes away."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stssl.cli.app import main
from stssl.data.prepare import prepare
from stssl.data.shards import MANIFEST, PROGRESS, read_card, verify
from stssl.data.sources.eurosat import EuroSAT
from stssl.data.store import ImageStore
from stssl.errors import DataError
from stssl.storage import Folder, is_uri

BUCKET = "s3://patches"
ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("no_faults")


def test_folder(faults: Any, tmp_path: Path) -> None:
    for folder in (Folder(f"{BUCKET}/folder"), Folder(tmp_path / "folder"), Folder(f"file://{tmp_path}/other")):
        assert not folder.exists() and folder.names() == folder.entries() == [] and folder.size("a/b") is None
        folder.write("a/b.txt", b"dear")
        (folder / "a").write("c d", b"")
        local = tmp_path / "local"
        local.write_bytes(b"moved")
        pickle.loads(pickle.dumps(folder)).put(local, "z")
        assert not local.exists() and folder.read("z") == b"moved"
        assert folder.exists() and (folder / "a").read("b.txt") == b"dear" and folder.size("a/b.txt") == 4
        assert folder.names() == ["a", "z"]
        found = [(entry.name, entry.is_folder, entry.bytes) for entry in folder.entries(recursive=True)]
        assert found == [("a", True, 0), ("a/b.txt", False, 4), ("a/c d", False, 0), ("z", False, 5)]
        with folder.open("z") as file:
            assert file.read_at(2, 3) == b"ed"
        folder.delete("z")
        folder.delete("z")
        folder.delete_folder("a")
        folder.delete_folder("a")
        assert folder.names() == []
        with pytest.raises(FileNotFoundError):
            folder.read("z")


def test_uris(faults: Any) -> None:
    assert is_uri("s3://b/x") and is_uri(Folder(f"{BUCKET}/x").show("y")) and not is_uri("/b/x") and not is_uri("b:x")
    shown = f"{Folder('s3://key:word@patches/x?scheme=http&endpoint_override=127.0.0.1:1') / 'y'}"
    assert shown == "s3://patches/x/y"
    Folder(f"{BUCKET}/with space/ü").write("x", b"dear")
    assert Folder(f"{BUCKET}/with%20space/%C3%BC").read("x") == b"dear"
    for bad in ("ftp://host/x", "s3://", "nonsense://x", "s3://key:word@patches/x?what=1"):
        with pytest.raises(DataError, match="no folder that can be opened") as error:
            Folder(bad)
        assert "word" not in str(error.value)


def test_same_bytes_as_on_a_disk(faults: Any, small, tmp_path: Path) -> None:
    there, written, _ = prepare(small(), f"{BUCKET}/same", rows_per_shard=4)
    here, *_ = prepare(small(), tmp_path / "same", rows_per_shard=4)
    assert written and there == here == verify(f"{BUCKET}/same")
    assert prepare(small(), f"{BUCKET}/same", rows_per_shard=4) == (there, False, ())
    store = ImageStore.open(f"{BUCKET}/same", tmp_path / "cache")
    np.testing.assert_array_equal(store.images, ImageStore.open(tmp_path / "same", tmp_path / "cache2").images)
    with pytest.raises(DataError, match=r"s3://patches/same: holds .* changed files; use --overwrite"):
        prepare(small(mark="2"), f"{BUCKET}/same")
    Folder(f"{BUCKET}/same").write("notes.txt", b"dear")
    again, *_ = prepare(small(mark="2"), f"{BUCKET}/same", overwrite=True)
    names = Folder(f"{BUCKET}/same").names()
    assert names == sorted([MANIFEST, "notes.txt", *(shard.file for shard in again.shards)])


def test_source_in_a_bucket(faults: Any, patches: Path, prepared, tmp_path: Path) -> None:
    tree = Folder(f"{BUCKET}/EuroSAT_MS")
    for path in sorted(patches.glob("R*/*.tif")):
        tree.write(f"{path.parent.name}/{path.name}", path.read_bytes())
    card, *_ = prepare(EuroSAT(EuroSAT.Config(root=f"{BUCKET}/EuroSAT_MS")), f"{BUCKET}/shards")
    assert card.count == 20 and card.shape == prepared[1].shape
    tree.write("River/River_458.tif", (patches / "River" / "River_458.tif").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"s3://patches/EuroSAT_MS/River/River_458.tif: damaged"):
        prepare(EuroSAT(EuroSAT.Config(root=f"{BUCKET}/EuroSAT_MS")), tmp_path / "shards")


def test_commands(faults: Any, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"{BUCKET}/eurosat-103"
    assert main(["prepare", "eurosat", str(patches), "--out", uri]) == 0
    assert f"103 images, 13 bands, 10 classes; 1 shard(s) written to {uri}" in capsys.readouterr().out
    assert main(["inspect", uri, "--verify", "--out", str(tmp_path)]) == 0
    assert "all checksums match" in capsys.readouterr().out and (tmp_path / "samples.png").stat().st_size > 10_000
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{shards: {uri}, split: {{validation: 0.3}}}}\nencoding: {{time: none}}\n"
        "model: {name: tiny, image_size: 16, patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}\n"
        "training: {steps: 2, eval_interval: 1, batch_labeled: 4, batch_unlabeled: 4}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STSSL_CACHE", str(tmp_path / "cache"))
        assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
        assert main(["evaluate", str(tmp_path / "run" / "best"), "--split", "test"]) == 0
    capsys.readouterr()
    assert main(["inspect", f"{BUCKET}/nothing"]) == 2
    assert "s3://patches/nothing: no such folder" in capsys.readouterr().err


def test_damaged_and_missing(faults: Any, small, tmp_path: Path) -> None:
    uri = f"{BUCKET}/damaged"
    card, *_ = prepare(small(), uri, rows_per_shard=4)
    folder, name = Folder(uri), card.shards[1].file
    data = bytearray(folder.read(name))
    data[len(data) // 2] ^= 1
    for change, said in ((bytes(data), "SHA-256"), (bytes(data[:-7]), r"\d+ bytes, expected"), (None, "missing")):
        folder.delete(name) if change is None else folder.write(name, change)
        for read in (verify, lambda place: ImageStore.open(place, tmp_path / "cache")):
            with pytest.raises(DataError, match=rf"s3://patches/damaged/{name}: .*{said}"):
                read(uri)


def test_refused(faults: Any, small, tmp_path: Path) -> None:
    card, *_ = prepare(small(), f"{BUCKET}/refused", rows_per_shard=4)
    faults.answer = lambda environ: 403
    for act in (read_card, lambda place: prepare(small(), place), lambda place: prepare(small(), f"{place}2")):
        with pytest.raises(DataError, match=r"s3://patches/refused.* cannot be .*ACCESS_DENIED") as error:
            act(f"{BUCKET}/refused")
        assert "hush-hush" not in str(error.value) and "\n" not in str(error.value)
    # it turns away everything that is written, after the first shard
    faults.answer = lambda environ: (
        403 if environ["REQUEST_METHOD"] != "GET" and "part-00001" in environ["PATH_INFO"] else None
    )
    with pytest.raises(DataError, match=r"s3://patches/later: cannot be written: .*run the same again"):
        prepare(small(), f"{BUCKET}/later", rows_per_shard=4)
    names = Folder(f"{BUCKET}/later").names()
    assert MANIFEST not in names and PROGRESS in names
    faults.answer = None
    seen: list[int] = []
    again, *_ = prepare(small(), f"{BUCKET}/later", rows_per_shard=4, on_progress=lambda *now: seen.append(now[1]))
    assert again == card and seen[1] == 4  # the first shard was kept


def test_an_interrupt_never_publishes_half_a_file(faults: Any, small) -> None:
    """A real Ctrl-C while the manifest of an overwrite is on its way: the old data set or the new one is there, whole."""
    uri = f"{BUCKET}/interrupted"
    old, *_ = prepare(small(), uri)

    def interrupt(environ: dict) -> None:
        if environ["REQUEST_METHOD"] in ("PUT", "POST") and environ["PATH_INFO"].endswith(MANIFEST):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the main thread has heard of it, the upload is not done

    faults.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        prepare(small(seed=1), uri, overwrite=True)
    faults.answer = None
    card = read_card(uri)
    assert card.fingerprint != old.fingerprint and verify(uri) == card


def test_a_busy_server_is_asked_again(faults: Any, small, tmp_path: Path) -> None:
    """Every third request fails, and every request takes a while."""
    turn = iter(range(10**6))

    def slow(environ: dict) -> int | None:
        time.sleep(0.02)
        return 503 if next(turn) % 3 == 0 else None

    faults.answer = slow
    card, *_ = prepare(small(), f"{BUCKET}/busy", rows_per_shard=4)
    assert ImageStore.open(f"{BUCKET}/busy", tmp_path / "cache").card == card
    assert next(turn) > 15


PREPARE = """
import sys, numpy as np
from stssl.data.prepare import prepare
from stssl.data.schema import Sample
from stssl.data.sources.base import Source
class Numbers(Source):
    name, task, classes, bands, licence, attribution = "numbers", "single", ("a",), ("x",), "", ""
    def __init__(self):
        self.ids = [f"s{i:03d}" for i in range(10)]
    def read(self, index):
        image = np.full((1, 8, 8), index, np.uint8)
        return Sample(self.ids[index], image, ("a",), float(index), 0.0, None, None)
print(prepare(Numbers(), sys.argv[1], rows_per_shard=3).card.fingerprint)
"""


def test_killed_at_any_moment(faults: Any) -> None:
    """Killed without warning at its n-th request, at ever later ones, until a run gets to its end."""
    kills = 0
    for least in range(4, 200, 6):
        seen, reached = iter(range(least)), threading.Event()

        def count(environ: dict, seen=seen, reached=reached) -> None:
            if next(seen, None) is None:
                reached.set()

        faults.answer = count
        command = [sys.executable, "-c", PREPARE, f"{BUCKET}/killed"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            while not reached.wait(0.005) and child.poll() is None:
                pass
            child.kill()
            said = child.communicate()[0]
        if said:
            break
        kills += 1
        assert child.returncode == -signal.SIGKILL
    card = verify(f"{BUCKET}/killed")
    assert kills >= 3 and card.fingerprint == said.strip() and card.count == 10
    assert Folder(f"{BUCKET}/killed").names() == sorted([MANIFEST, *(shard.file for shard in card.shards)])
