"""Files are whole or absent."""

import os
from pathlib import Path

import pytest

from stssl.files import atomic_path, write_text


def test_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "f.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "half" and os.listdir(path.parent) == ["f.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


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
