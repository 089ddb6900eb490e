"""Files are whole or absent, have the mode that the umask gives, and names that stay where they belong."""

import os
from pathlib import Path

import pytest

from stssl.errors import StsslError
from stssl.files import atomic_path, check_identifier, check_name, new_file, write_text


def test_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "f.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "half" and os.listdir(path.parent) == ["f.txt"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    write_text(path, "old ü")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_path(path) as temporary:
            temporary.write_text("new")
            raise error
    assert path.read_bytes() == "old ü".encode() and os.listdir(tmp_path) == ["f.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_synced_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "f.txt", []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append("sync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (seen.append("replace"), replace(old, new)))
    write_text(path, "x")
    assert seen == ["sync", "replace"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "f.txt", "x")
    assert os.listdir(tmp_path) == []


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    with atomic_path(path) as one, atomic_path(path) as two:
        one.write_text("one" * 1000)
        two.write_text("two")
    assert path.read_text() == "one" * 1000 and os.listdir(tmp_path) == ["f.txt"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(tmp_path: Path, mask: int) -> None:
    """Also where the writer makes its file anew, private, as safetensors does."""
    before = os.umask(mask)
    try:
        write_text(tmp_path / "plain", "x")
        with atomic_path(tmp_path / "private") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        new_file(tmp_path, ".new-")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}
    assert len(list(tmp_path.iterdir())) == 3


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("ü" * 127), "x")
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "../a",
        "a\\b",
        "a\0",
        "a\nb",
        "\x1b[2J",
        "x" * 256,
        "ü" * 128,
        "\udcff",
        None,
        3,
        ["a"],
        {"a": 1},
        True,
    ],
)
def test_no_names(name: object) -> None:
    with pytest.raises(StsslError, match=r"^shard .* is not a valid name: ") as error:
        check_name(name, "shard")
    assert len(str(error.value)) < 250
    with pytest.raises(StsslError, match=r"^trial .* is not a valid name: "):
        check_identifier(name, "trial")


def test_names() -> None:
    for name in ("part-00000-1a2b3c4d.parquet", "a b", ".hidden", "ü", "x" * 255, "t0001-r3"):
        assert check_name(name, "shard") == name
    for name in ("t0001", "t0001-r3", "a.b_c", "_", "x" * 100):
        assert check_identifier(name, "trial") == name
    for name in ("t 1", "-rf", ".t", "é", "x" * 101, "t0001\n", "t0001;rm"):
        with pytest.raises(StsslError, match=r"^trial .* is not a valid name: expected at most 100 letters"):
            check_identifier(name, "trial")
