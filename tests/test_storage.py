"""Folders: a name is never a path, and no symbolic link is written or deleted through."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stssl.errors import DataError
from stssl.storage import Folder

# Names that lead no further than to the folder of the test even where nothing refuses them; VICTIM is its absolute path.
OUTWARD = [
    "../victim/keep",
    "a/../../victim/keep",
    "",
    ".",
    "..",
    "a//b",
    "VICTIM",
    "a\0b",
    "x" * 256,
    "a/" + "ü" * 128,
]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file beside the folder `run`."""
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").mkdir()
    keep = tmp_path / "victim" / "keep"
    keep.write_text("years of work")
    return keep


def ways(folder: Folder, local: Path) -> dict[str, Callable[[str], object]]:
    """All that can be done with a name in a folder."""

    def copy(name: str) -> None:
        with folder.local(name):
            pass

    def put(name: str) -> None:
        local.write_text("new")
        folder.put(local, name)

    return {
        "read": folder.read, "open": folder.open, "size": folder.size, "local": copy, "below": lambda name: folder / name,
        "inside": folder.inside, "write": lambda name: folder.write(name, b"new"), "put": put, "delete": folder.delete,
        "delete_folder": folder.delete_folder,
    }  # fmt: skip


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_name_is_not_a_path(victim: Path, tmp_path: Path, place: str, name: str) -> None:
    name = str(victim) if name == "VICTIM" else name
    folder = Folder(tmp_path / "run" if place == "disk" else "s3://nowhere/run?endpoint_override=127.0.0.1:1")
    for way, call in ways(folder, tmp_path / "local").items():
        with pytest.raises(
            DataError, match=r"is not the name of a file in this folder|is longer than the 255 bytes"
        ) as error:
            call(name)
        assert len(str(error.value)) < 400 and "\0" not in str(error.value), way
    assert victim.read_text() == "years of work" and not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("way", ["write", "put", "delete", "delete_folder", "inside"])
def test_no_link_leads_a_write_or_a_deletion_out(victim: Path, tmp_path: Path, way: str) -> None:
    run = tmp_path / "run"
    (run / "trials").symlink_to(victim.parent.parent)
    call = ways(Folder(run) / "trials", tmp_path / "local")[way]
    with pytest.raises(
        DataError, match=r"trials(/victim)?: leads out of .*/run through a symbolic link \(to .*; replace the link"
    ):
        call("victim")
    assert victim.read_text() == "years of work"


def test_of_a_link_the_link_alone_goes(victim: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("folder", "file", "replaced", "gone"):
        (run / name).symlink_to({"folder": victim.parent, "gone": tmp_path / "nothing"}.get(name, victim))
    folder = Folder(run)
    folder.delete_folder("folder")
    folder.delete("file")
    folder.delete("gone")
    folder.write("replaced", b"new")
    assert folder.names() == ["replaced"] and folder.read("replaced") == b"new"
    assert victim.read_text() == "years of work"
    (run / "tree").mkdir()
    (run / "tree" / "link").symlink_to(victim.parent)
    folder.delete_folder("tree")
    assert folder.names() == ["replaced"] and victim.exists()


def test_links_that_are_fine(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path / "run")
    folder = Folder(tmp_path / "linked")  # what is opened may be a link itself
    folder.write("a/b", b"1")
    (tmp_path / "run" / "within").symlink_to(tmp_path / "run" / "a")
    (folder / "within").write("c", b"2")
    assert folder.read("a/c") == b"2"
    (tmp_path / "run" / "elsewhere").symlink_to(victim.parent)  # data sets are put together from links
    assert (folder / "elsewhere").read("keep") == b"years of work" and folder.size("elsewhere/keep") == 13


def test_what_users_name_may_lie_elsewhere_on_a_disk(victim: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    for path in ("../victim/keep", str(victim), "x/../../victim/keep"):
        where, name = folder.locate(path)
        assert where.read(name) == b"years of work"
    (tmp_path / "run" / "images").mkdir()
    where, name = folder.locate("./images/1.tif")
    assert (str(where), name) == (str(tmp_path / "run" / "images"), "1.tif")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "run")
    assert str(Folder(tmp_path / "link").locate("../a.tif")[0]) == str(
        tmp_path / "far"
    )  # as the system reads such a path
    for path in ("..", ".", ""):
        with pytest.raises(DataError, match="is not the name of a file"):
            where, name = folder.locate(path)
            where.read(name)
    with pytest.raises(DataError, match="is not the name of a file"):
        Folder("s3://nowhere/run?endpoint_override=127.0.0.1:1").locate("../secret")


def test_a_name_is_no_part_of_a_uri() -> None:
    uri = "s3://bucket/run?endpoint_override=127.0.0.1:1&scheme=http"
    child = Folder(uri) / "what?endpoint_override=evil:1" / "50%#1"
    assert str(child) == "s3://bucket/run/what?endpoint_override=evil:1/50%#1"
    assert child.place == "s3://bucket/run/what%3Fendpoint_override%3Devil%3A1/50%25%231?" + uri.partition("?")[2]
    assert str(Folder(child.place)) == str(child)
