"""The token that lets into a user's clusters: nobody else reads it, and nobody else's is taken."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stssl.errors import RunError
from stssl.search import auth_token, clusters

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_made_for_its_owner_alone(home: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        auth_token.ensure()
    finally:
        os.umask(before)
    path = home / ".ray" / "auth_token"
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)
    token = path.read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", token)
    auth_token.ensure()
    assert path.read_text() == token


@pytest.mark.parametrize("call", [auth_token.ensure, auth_token.protect])
def test_one_that_is_there_is_protected(home: Path, call: object) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o755)
    path.write_text("secret")
    path.chmod(0o644)
    call()
    assert (mode(path.parent), mode(path)) == (0o700, 0o600) and path.read_text() == "secret"


def test_nothing_is_made_where_it_is_not_needed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth_token.protect()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    auth_token.ensure()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (home / "shared").mkdir(mode=0o755)
    (home / "shared" / "token").write_text("secret")
    (home / "shared" / "token").chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "shared" / "token"))
    auth_token.ensure()
    assert mode(home / "shared") == 0o755 and mode(home / "shared" / "token") == 0o600
    assert not (home / ".ray").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("foreign", [".ray", ".ray/auth_token"])
def test_another_users_is_refused(home: Path, foreign: str) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("planted")
    os.chown(home / foreign, 12345, 12345)
    for call in (auth_token.ensure, auth_token.protect):
        with pytest.raises(RunError, match=rf"{foreign}: belongs to another user \(number 12345\), .*; remove it"):
            call()
    done = subprocess.run(
        [sys.executable, ROOT / "launch.py", "submit", ROOT / "search_spaces" / "demo.yaml", "--address", "http://127.0.0.1:9"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "belongs to another user" in done.stderr and "Traceback" not in done.stderr


def test_the_local_cluster_protects_it_before_ray_starts(home: Path, tmp_path: Path) -> None:
    """The commands of the file find a token that is protected already; by themselves they make one that is."""
    read = clusters.read(ROOT / "cluster" / "local.yaml")
    assert isinstance(read, clusters.Launcher)
    token = read.config["head_start_ray_commands"][0]
    subprocess.run(["bash", "-c", token], env=clusters.environment(), check=True, timeout=120)
    assert (mode(home / ".ray"), mode(home / ".ray" / "auth_token")) == (0o700, 0o600)
