"""What is handed on as an archive or a wheel builds, installs and tests itself, without git and without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("stssl", "tests", "benchmarks", "cluster", "data", "docs", "search_spaces", ".ci")
FAST = ("test_readme.py", "test_files.py", "test_config.py", "search/test_clusters.py", "search/test_run_folder.py")

pytestmark = pytest.mark.soak


def run(folder: Path, *command: str | Path, path: Path | None = None) -> str:
    """What a program prints, with nothing of this tree in its way."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "STSSL_COMMIT")}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    environment |= {"GIT_CEILING_DIRECTORIES": str(folder.parent), "PIP_NO_INDEX": "1"}
    done = subprocess.run([str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built from a copy of this tree."""
    copy = tmp_path_factory.mktemp("copy") / "stssl"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.name in OURS:
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file() and path.name != ".git":
            shutil.copy(path, copy)
    out = tmp_path_factory.mktemp("dist")
    run(copy, sys.executable, "-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(out)!r})")
    (archive,) = out.iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(out, filter="data")
    archive.unlink()
    (folder,) = out.iterdir()
    return folder


def test_the_archive_holds_what_git_holds(unpacked: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = run(ROOT, "git", "-c", "core.quotePath=off", "ls-files").splitlines()
    assert (
        len(listed) > 200
        and [name for name in listed if (ROOT / name).exists() and not (unpacked / name).exists()] == []
    )
    made = {"PKG-INFO", "setup.cfg"}
    there = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
    others = run(ROOT, "git", "ls-files", "--others", "--exclude-standard").splitlines()
    assert {name for name in there - {*listed, *others} - made if not name.startswith("stssl.egg-info/")} == set()


def test_it_tests_itself(unpacked: Path) -> None:
    said = run(
        unpacked, sys.executable, "-m", "pytest", "-q", "-m", "not soak", "-p", "no:cacheprovider",
        *(f"tests/{name}" for name in FAST),
    )  # fmt: skip
    assert " passed" in said
    where = "from stssl.search.run_folder import commit; import stssl; print(stssl.__file__, commit())"
    assert run(unpacked, sys.executable, "-c", where).split() == [str(unpacked / "stssl" / "__init__.py"), "None"]


def test_the_wheel_is_a_program(unpacked: Path, tmp_path: Path) -> None:
    dist, target, elsewhere = tmp_path / "dist", tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(unpacked, sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", dist)
    (wheel,) = dist.glob("*.whl")
    run(elsewhere, sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel)
    program = target / "bin" / "stssl"
    assert run(elsewhere, program, "--version", path=target) == "stssl 0.1.0\n"
    assert "fixmatch" in run(elsewhere, program, "plugins", path=target)
    patches = unpacked / "data" / "eurosat_ms_103"
    assert "103 images" in run(elsewhere, program, "prepare", "eurosat", patches, "--out", "shards", path=target)
    assert not (target / "tests").exists() and not (target / "search_spaces").exists()
    done = subprocess.run(
        [program, "search", "search_spaces/demo.yaml"], cwd=elsewhere, env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "search_spaces/demo.yaml" in done.stderr and done.stderr.count("\n") == 1
