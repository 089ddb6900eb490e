"""Pythons that stssl does not run with are refused in one sentence, wherever it is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from stssl.search import jobs

ROOT = Path(__file__).parents[1]
SAID = "stssl needs Python 3.11 to 3.14, and "

# An interpreter of another version, as far as a program can tell.
OTHER = """
import sys, runpy
sys.version_info = (*{version}, 0, "final", 0)
sys.argv = ["launch.py", "--version"]
sys.path.insert(0, ".")
runpy.run_path("launch.py", run_name="__main__")
"""


def real_ones() -> list[str]:
    """Interpreters of this machine that are too old, as far as any can be found."""
    found = [shutil.which(f"python3.{minor}") for minor in range(6, 11)]
    found += [str(p) for p in (Path.home() / ".pyenv" / "versions").glob("*/bin/python3")]
    older = "import sys; sys.exit(not (3, 6) <= sys.version_info[:2] < (3, 11))"
    return [p for p in found if p and subprocess.run([p, "-c", older], capture_output=True).returncode == 0]


def launched(folder: Path, *command: str) -> tuple[int, str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job gets: another launch.py with the same package."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "launch.py").write_text(jobs._LAUNCH)
    (folder / "stssl").symlink_to(ROOT / "stssl")
    return folder


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 15), (4, 0)])
def test_others_are_refused(version: tuple[int, int], packed: Path) -> None:
    for folder in (ROOT, packed):
        code, out, err = launched(folder, sys.executable, "-c", OTHER.format(version=version))
        assert code == 2 and not out
        assert err.startswith(SAID) and f" is {version[0]}.{version[1]};" in err and err.count("\n") == 1


@pytest.mark.parametrize("version", [(3, 11), (3, 14)])
def test_the_first_and_the_last_are_taken(version: tuple[int, int]) -> None:
    code, _, err = launched(ROOT, sys.executable, "-c", f"import sys; sys.version_info = (*{version}, 0); import stssl")
    assert code == 0, err


def test_real_ones_are_refused(packed: Path) -> None:
    """They can read what says so."""
    older = real_ones()
    if not older:
        pytest.skip("no older Python on this machine")
    for python in older:
        for folder in (ROOT, packed):
            code, out, err = launched(folder, python, "launch.py", "search", "x.yaml")
            assert code == 2 and not out and err.startswith(SAID) and err.count("\n") == 1, err


def python_that_is(folder: Path, name: str, fits: bool) -> None:
    """A program that stands for an interpreter of a version that make takes or not."""
    (folder / name).write_text(f"#!/bin/sh\nexit {0 if fits else 1}\n")
    (folder / name).chmod(0o755)


def test_make_takes_one_that_fits(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    for tool in ("make", "sh", "echo", "test"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    python_that_is(tmp_path / "bin", "python3", False)

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", ".venv/.installed", *arguments], cwd=tmp_path, env={"PATH": str(tmp_path / "bin")},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = make()
    assert done.returncode == 2 and not done.stdout
    said = "stssl needs Python 3.11 to 3.14, which 'python3' is not; name one with 'make PYTHON=python3.11'."
    assert done.stderr.splitlines()[0] == said
    python_that_is(tmp_path / "bin", "python3.12", True)
    assert "python3.12 -m venv .venv" in make("--dry-run").stdout
    python_that_is(tmp_path / "bin", "python3", True)
    assert "python3 -m venv .venv" in make("--dry-run").stdout
    assert "which 'python9' is not" in make("PYTHON=python9").stderr


def test_every_place_says_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    minors = [int(m) for m in re.findall(r":: 3\.(\d+)", " ".join(project["classifiers"]))]
    assert minors == [11, 12, 13, 14]
    assert "with Python 3.11 to 3.14" in (ROOT / "README.md").read_text()
    commands = yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text())["setup_commands"]
    assert subprocess.run(["bash", "-c", commands[0].replace("python3 -c", f"{sys.executable} -c")]).returncode == 0
    done = subprocess.run(["bash", "-c", commands[0].replace("python3 -c", "false -c")], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("stssl needs Python 3.11 to 3.14 as python3 on ")
