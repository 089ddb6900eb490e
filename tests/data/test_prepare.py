"""Preparing: whole or absent, the same bytes for the same input, goes on where it was, spares what is not ours."""

import contextlib
import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

from stssl.data.jobs import Skipped, in_turn
from stssl.data.prepare import prepare
from stssl.data.schema import Card, Sample
from stssl.data.shards import MANIFEST, PROGRESS, read_card, read_columns, verify
from stssl.data.sources.eurosat import EuroSAT
from stssl.data.store import ImageStore
from stssl.errors import DataError
from stssl.storage import Folder


def visible(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def test_same_input_same_bytes(eurosat: EuroSAT, prepared: tuple[Path, Card], tmp_path: Path) -> None:
    again, written, _ = prepare(eurosat, tmp_path / "again", rows_per_shard=40)
    assert written and again == prepared[1]  # the SHA-256 of every shard included
    other, *_ = prepare(eurosat, tmp_path / "other", rows_per_shard=7)
    assert other.fingerprint == again.fingerprint and len(other.shards) == 15
    assert (other.mean, other.std) == (again.mean, again.std)


def test_done_already(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    card, written, _ = prepare(small(), out)
    before = shards(out)[0].stat().st_mtime_ns
    assert written and prepare(small(), out) == (card, False, ())
    assert shards(out)[0].stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"out: holds .* changed files; use --overwrite or another --out"):
        prepare(small(mark="2"), out)
    card, written, _ = prepare(small(n=4, mark="2"), out, overwrite=True)
    assert written and card.count == 4 and verify(out) == card and visible(tmp_path) == ["out"]
    assert visible(out) == sorted([MANIFEST, *(shard.file for shard in card.shards)])


def test_incomplete_is_not_done(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(small(), out, rows_per_shard=4)
    shards(out)[1].unlink()
    with pytest.raises(DataError, match=r"part-00001-\w+.parquet: .*missing.*use --overwrite or another --out"):
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
    (out / "part-00000.parquet").write_text("of another tool")
    card, written, _ = prepare(small(mark="2"), out, overwrite=True)
    assert written and (out / "notes.txt").read_text() == "dear"
    assert visible(out) == sorted([MANIFEST, "notes.txt", "part-00000.parquet", *(shard.file for shard in card.shards)])


def test_failed_overwrite_keeps_the_old(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    card, *_ = prepare(small(), out, rows_per_shard=3)
    broken = small(mark="2")
    whole, broken.all[-1] = broken.all[-1], broken.all[-1]._replace(labels=("d",))
    with pytest.raises(DataError, match=r"sample 's009': unknown class 'd'"):
        prepare(broken, out, rows_per_shard=3, overwrite=True)
    assert verify(out) == card
    assert prepare(small(), out, rows_per_shard=3) == (card, False, ())  # and what the failed run left is swept
    assert visible(out) == sorted([MANIFEST, *(shard.file for shard in card.shards)])
    broken.all[-1] = whole
    assert prepare(broken, out, rows_per_shard=3, overwrite=True)[1] and visible(tmp_path) == ["out"]


def test_empty_folder_and_symlink_are_fine(small, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for mark in ("1", "2"):
        assert prepare(small(mark=mark), tmp_path / "link", overwrite=True)[1]
    assert (tmp_path / "link").is_symlink() and verify(tmp_path / "disk").count == 10


SLOW = (
    "import sys, time; from pathlib import Path\n"
    "from stssl.data import jobs; from stssl.data.prepare import prepare\n"
    "from stssl.data.sources.eurosat import EuroSAT, EuroSATConfig\n"
    "def slow(what, done, total):\n"
    "    print(what, done, flush=True)\n"
    "    if what == 'preparing' and done == 30: time.sleep(60)\n"
    "prepare(EuroSAT(EuroSATConfig(root=sys.argv[1])), Path(sys.argv[2]), 8, on_progress=slow)\n"
)


def test_killed_in_the_middle_goes_on(patches: Path, prepared: tuple[Path, Card], tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = EuroSAT(EuroSAT.Config(root=str(patches)))
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(patches), str(out)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "preparing 30\n":
                with pytest.raises(DataError, match="another process is preparing"):
                    prepare(source, out, 8)
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert (
        PROGRESS in visible(out) and len(shards(out)) == 3 and any(name.startswith(".shard") for name in visible(out))
    )
    with pytest.raises(DataError, match=r"was interrupted; run the same .*prepare.* again, it goes on where it was"):
        read_card(out)
    first = [path.stat().st_ino for path in shards(out)]
    seen: list[int] = []
    card, written, _ = prepare(source, out, 8, on_progress=lambda what, done, _: seen.append(done))
    assert written and verify(out) == card and seen.count(24) == 1 and 25 in seen and 23 not in seen
    assert [path.stat().st_ino for path in shards(out)[:3]] == first
    assert visible(out) == sorted([MANIFEST, *(shard.file for shard in card.shards)])
    assert card.fingerprint == prepared[1].fingerprint


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_killed_at_any_moment(small, tmp_path: Path, on_error: str) -> None:
    """Whatever is on the disk at any moment of a run is a state from which the next run gets to the same end."""
    source = small(20)
    if on_error == "skip":
        source.all[7] = source.all[7]._replace(image="damaged")
    whole, *_ = prepare(source, tmp_path / "whole", rows_per_shard=3, on_error=on_error)
    moments, left = np.random.default_rng(0).permutation(np.linspace(100, 7800, 24).astype(int)), set()
    for number, moment in enumerate(moments):
        out = tmp_path / f"out{number}"
        for steps in (moment, moment // 3):  # killed, and killed again on the way on
            child = os.fork()
            if child == 0:  # a copy of this process, killed without a chance to tidy up
                count = iter(range(steps))

                def trace(frame, event, argument, count=count):
                    if "/stssl/" in frame.f_code.co_filename and next(count, None) is None:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return trace

                sys.settrace(trace)
                prepare(source, out, rows_per_shard=3, on_error=on_error)
                os._exit(0)
            os.waitpid(child, 0)
            left |= {re.sub(r"[-.][0-9a-z_]{8}\b", "*", name) for name in visible(out)} if out.exists() else set()
        card, *_ = prepare(source, out, rows_per_shard=3, on_error=on_error)
        assert card == whole and verify(out) == card
        lists = ["skipped.csv"] if on_error == "skip" else []
        assert visible(out) == sorted([MANIFEST, *lists, *(shard.file for shard in card.shards)])
        ids = [name for at, name in enumerate(source.ids) if on_error == "raise" or at != 7]
        assert read_columns(out, ["id"])["id"].to_pylist() == ids
    assert PROGRESS in left and MANIFEST in left and len(left) > 8  # it was killed early, late and in between


@pytest.mark.parametrize("leftover", ["skipped.csv", ".dataset.json.ab12_x.partial", ".skipped.csv.ab12_x.partial"])
def test_what_a_kill_near_the_end_leaves(small, tmp_path: Path, leftover: str) -> None:
    def killed(task, jobs, on_rows):
        yield from in_turn(task, jobs[:2], on_rows)
        (tmp_path / "out" / leftover).write_text("torn")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(small(), tmp_path / "out", rows_per_shard=3, spread=killed)
    card, *_ = prepare(small(), tmp_path / "out", rows_per_shard=3)
    assert verify(tmp_path / "out") == card and leftover not in visible(tmp_path / "out")


def test_shards_are_kept_when_a_damaged_image_is_to_be_skipped(small, tmp_path: Path) -> None:
    source, out = small(20), tmp_path / "out"
    source.all[17] = source.all[17]._replace(image="damaged")
    with pytest.raises(DataError, match=r"s017.tif"):
        prepare(source, out, rows_per_shard=3)
    there = {path.name: path.stat().st_ino for path in shards(out)}
    card, *_ = prepare(source, out, rows_per_shard=3, on_error="skip")
    assert len(there) == 5 and {path.name: path.stat().st_ino for path in shards(out)}.items() >= there.items()
    with pytest.raises(DataError, match=r"is up to date, but without 1 damaged image\(s\), which skipped.csv lists"):
        prepare(source, out, rows_per_shard=3)
    assert verify(out) == card


def test_damaged_manifest_is_overwritten_among_our_own_shards_only(small, tmp_path: Path) -> None:
    card, *_ = prepare(small(), tmp_path / "out", rows_per_shard=3)
    (tmp_path / "out" / MANIFEST).write_text("{")
    with pytest.raises(DataError, match=r"damaged: .*--overwrite"):
        prepare(small(), tmp_path / "out", rows_per_shard=3)
    assert prepare(small(), tmp_path / "out", rows_per_shard=3, overwrite=True).card == card
    (tmp_path / "out" / MANIFEST).write_text("{")
    (tmp_path / "out" / "holiday.jpg").write_text("dear")
    with pytest.raises(DataError, match="no stssl data set"):
        prepare(small(), tmp_path / "out", rows_per_shard=3, overwrite=True)


def test_odd_targets(small, tmp_path: Path) -> None:
    for target, said in (("/", "no folder to write to"), ("~nobody-here/x", "no path on this machine"),
                         (f"{tmp_path}/a\0b", "no path on this machine"), ("file://out", "three slashes")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            prepare(small(), target)


def test_names_that_are_no_text(list_source, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"n\xff")).mkdir()
    assert [entry.name for entry in Folder(tmp_path).entries(recursive=True)] == ["n\udcff"]
    sample = Sample("n\udcff", np.zeros((1, 2, 2), np.uint8), None, None, None, None, None)
    with pytest.raises(DataError, match=r"the name 'n\\udcff' is no UTF-8; rename"):
        prepare(list_source([sample]), tmp_path / "out")


def test_only_the_shard_of_a_mended_file_is_written_again(patches: Path, tmp_path: Path) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    shutil.copytree(patches, tree)
    whole = (tree / "River" / "River_458.tif").read_bytes()
    (tree / "River" / "River_458.tif").write_bytes(whole[:-9000])
    with pytest.raises(DataError, match=r"River_458.tif: damaged"):
        prepare(EuroSAT(EuroSAT.Config(root=str(tree))), out, 10)
    there = {path.name: path.stat().st_ino for path in shards(out)}
    assert len(there) == 8
    (tree / "River" / "River_458.tif").write_bytes(whole)
    card, *_ = prepare(EuroSAT(EuroSAT.Config(root=str(tree))), out, 10)
    assert {path.name: path.stat().st_ino for path in shards(out)}.items() >= there.items() and len(card.shards) == 11


def test_skip_lists_every_file_and_reason(small, tmp_path: Path) -> None:
    source, out = small(12), tmp_path / "out"
    source.all[0] = source.all[0]._replace(image="damaged")
    source.all[7] = source.all[7]._replace(lat=123.0)
    with pytest.raises(DataError, match=r"s000.tif: damaged"):
        prepare(source, out)
    card, written, skipped = prepare(source, out, rows_per_shard=5, on_error="skip")
    assert written and card.count == 10 and card.skipped == 2 and [entry.id for entry in skipped] == ["s000", "s007"]
    assert "s000.tif: damaged" in skipped[0].reason and "lat is 123.0" in skipped[1].reason
    with (out / "skipped.csv").open() as file:
        assert list(csv.reader(file)) == [["id", "reason"], *map(list, skipped)]
    assert prepare(source, out, rows_per_shard=5, on_error="skip") == (card, False, skipped)
    assert read_columns(out, ["id"])["id"].to_pylist() == [f"s{i:03d}" for i in range(12) if i not in (0, 7)]
    prepare(small(12, mark="2"), out, overwrite=True)
    assert "skipped.csv" not in visible(out)


def test_too_much_to_skip(small, tmp_path: Path) -> None:
    source = small(12)
    for index in range(5):
        source.all[index] = source.all[index]._replace(image="damaged")
    prepare(source, tmp_path / "a", rows_per_shard=2, on_error="skip")  # the first two shards stay empty
    assert len(shards(tmp_path / "a")) == 4
    for index in range(5, 7):
        source.all[index] = source.all[index]._replace(image="damaged")
    with pytest.raises(DataError, match=r"7 of 12 samples cannot be read, .* too many .*s000.tif: damaged"):
        prepare(source, tmp_path / "b", on_error="skip")
    for index in range(12):
        source.all[index] = source.all[index]._replace(image="damaged")
    with pytest.raises(DataError, match=r"none of the first 12 samples can be read; the first one: s000.tif"):
        prepare(source, tmp_path / "b", on_error="skip")


def test_disk_full_loses_nothing(list_source, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: writing fails in the middle of the third shard."""
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 1, 64, 64)).astype(np.uint16)
    sizes = [4, 4, 32]
    samples = [Sample(f"s{i:02d}", pixels[i], ("a",), None, None, None, None) for i in range(40)]
    source, out = list_source(samples), tmp_path / "out"

    def short_first(task, jobs, on_rows):  # the third shard is the large one
        assert len(jobs) == 10
        return in_turn(task, [*jobs[:2], jobs[2]._replace(stop=40)], on_rows)

    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        try:
            prepare(source, out, rows_per_shard=sizes[0], spread=short_first)
        except DataError as error:
            said = "cannot be written" in str(error) and "make room" in str(error) and "File too large" in str(error)
            os._exit(7 if said else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(shards(out)) == 2 and not any(name.startswith(".shard") for name in visible(out))
    there = [path.stat().st_ino for path in shards(out)]
    card, *_ = prepare(source, out, rows_per_shard=sizes[0])
    assert card.count == 40 and [path.stat().st_ino for path in shards(out)[:2]] == there


def test_locked(small, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".out.lock"), pytest.raises(DataError, match="another process"):
        prepare(small(), tmp_path / "out")


def test_a_refused_process_leaves_the_others_empty_folder(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one made it between the refused one's first look and its attempt to lock."""

    @contextlib.contextmanager
    def taken(target: Any) -> Iterator[None]:
        target.path.mkdir()
        raise Timeout("lock")
        yield

    monkeypatch.setattr("stssl.data.prepare.place.locked", taken)
    with pytest.raises(DataError, match="another process"):
        prepare(small(), tmp_path / "out")
    assert (tmp_path / "out").is_dir()


def test_unwritable(small, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written.*another --out"):
        prepare(small(), tmp_path / "file" / "out")


def test_progress_and_shard_sizes(small, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    card, *_ = prepare(small(9), tmp_path / "out", rows_per_shard=3, on_progress=lambda *now: seen.append(now))
    assert seen == [("looking at files", 9, 9), *(("preparing", i, 9) for i in range(10))]
    assert [shard.rows for shard in card.shards] == [3, 3, 3]
    with pytest.raises(DataError, match="at least 1"):
        prepare(small(), tmp_path / "none", rows_per_shard=0)


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
        ({"time": -719162.0}, "expected days since 1970"),  # the year 1, which some write for "unknown"
        ({"id": "s004"}, "unique and sorted"),
        ({"id": "a"}, "unique and sorted"),
    ],
)
def test_bad_samples(small, tmp_path: Path, change: dict, said: str) -> None:
    source = small()
    source.all[5] = source.all[5]._replace(**change)
    with pytest.raises(DataError, match=said) as error:
        prepare(type(source)(source.all), tmp_path / "out")
    assert change.get("id", "s005") in str(error.value) and not (tmp_path / "out" / MANIFEST).exists()


def test_nan_pixels_and_no_images(list_source, tmp_path: Path) -> None:
    image = np.full((1, 2, 2), np.nan, np.float32)
    with pytest.raises(DataError, match=r"sample 'x': has pixels that are NaN"):
        prepare(list_source([Sample("x", image, None, None, None, None, None)]), tmp_path / "out")
    with pytest.raises(DataError, match="no images"):
        prepare(list_source([]), tmp_path / "out")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_decides_who_may_read(small, tmp_path: Path, mask: int) -> None:
    """Shards, card, list of what was left out, and the unpacked copy."""
    source = small(12)
    source.all[3] = source.all[3]._replace(image="damaged")
    before = os.umask(mask)
    try:
        prepare(source, tmp_path / "out", rows_per_shard=4, on_error="skip")
        ImageStore.open(tmp_path / "out", tmp_path / "cache")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10 and {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}, [
        (path.name, oct(path.stat().st_mode)) for path in files
    ]


def test_a_note_of_another_file_is_not_believed(small, tmp_path: Path) -> None:
    """What is in `_progress` may come from anyone; a name in it is no path either."""
    source, out = small(8), tmp_path / "out"
    prepare(source, tmp_path / "whole", rows_per_shard=4)
    names = [shard.file for shard in read_card(tmp_path / "whole").shards]
    for name in names:
        (out / PROGRESS).mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"xx")
        shard = {"file": f"../victim/{name}", "rows": 4, "bytes": 2, "sha256": "0" * 64}
        note = {"job": name, "shard": shard, "content": {}, "skipped": []}
        (out / PROGRESS / f"{name}.json").write_text(json.dumps(note))
    card, *_ = prepare(source, out, rows_per_shard=4)
    assert card == read_card(tmp_path / "whole") == verify(out)


@pytest.mark.parametrize("name", ["=1+1", "@sum", "-2+3", "+1", "\t=1", "'=1", "''-1", " =1", "'quoted'", "plain"])
def test_no_cell_of_a_list_is_a_formula(small, tmp_path: Path, name: str) -> None:
    source = small(6)
    source.all[0] = source.all[0]._replace(id=name, image="damaged")
    source.all.sort(key=lambda sample: sample.id)
    source.ids = [sample.id for sample in source.all]
    _, _, skipped = prepare(source, tmp_path / "out", on_error="skip")
    assert skipped == (Skipped(name, f"{name}.tif: damaged"),)
    with (tmp_path / "out" / "skipped.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.lstrip(" \n").startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells), cells
    assert prepare(source, tmp_path / "out", on_error="skip") == (read_card(tmp_path / "out"), False, skipped)
