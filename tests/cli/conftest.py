"""Commands as a user types them; everything that starts Ray does so in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stssl.cli.app import main

ROOT = Path(__file__).parents[2]
PATCHES = ROOT / "data" / "eurosat_ms_103"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("STSSL_CACHE")
    os.environ["STSSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["STSSL_CACHE"]
    if before is not None:
        os.environ["STSSL_CACHE"] = before


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 103 bundled patches, prepared once."""
    folder = tmp_path_factory.mktemp("data") / "eurosat-103"
    assert main(["prepare", "eurosat", str(PATCHES), "--out", str(folder)]) == 0
    return folder


def recipe_of(shards: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that trains in about a second."""
    return {
        "data": {
            "shards": str(shards),
            "bands": ["B04", "B03", "B02"],
            "split": {"validation": 0.3, "test": 0.2},
            "labeled": {"per_class": 2},
        },
        "encoding": {"location": "scaled", "time": "none"},
        "model": {"name": "tiny", "image_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "optimizer": {"lr": 1e-3},
        "training": {"steps": 9, "eval_interval": 1, "batch_labeled": 4, "batch_unlabeled": 4, "ema_decay": 0.9},
        **changes,
    }


def search_of(shards: Path, **changes: Any) -> dict[str, Any]:
    """A search of six trials over three rungs, and two recipes twice."""
    return {
        "name": "mini",
        "trials": 6,
        "recipe": recipe_of(shards),
        "space": {
            "framework": {"choice": ["plain", "metadata_input", "teacher_student"]},
            "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
            "distillation.weight": {"loguniform": [0.01, 10.0], "when": {"framework": "teacher_student"}},
        },
        "scheduler": {"grace_steps": 1, "reduction_factor": 3},
        "replicates": {"top": 2, "seeds": 2},
        **changes,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write YAML to a file of that name."""

    def write_yaml(data: Any, name: str = "file.yaml") -> Path:
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
        return path

    return write_yaml


def launch(*arguments: str | Path, wait: bool = True, inject: Path | None = None) -> Any:
    """Start `launch.py`; waits for it and returns the completed process, or returns the running one.

    `inject`: a folder from `inject`, whose code every process of the search runs.
    """
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    path = [str(inject) if inject else None, os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    more: Any = {"text": True, "stdin": subprocess.DEVNULL, "env": environment}
    if wait:
        return subprocess.run(command, capture_output=True, timeout=240, **more)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0, **more)


def inject(folder: Path, module: str, code: str) -> Path:
    """Make a folder for `launch` with a fault: code that every process runs at the end of an `stssl` module's own."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"""
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module
        def execute_both(module):
            execute(module)
            exec({code!r}, module.__dict__)
        spec.loader.exec_module = execute_both
        return spec

sys.meta_path.insert(0, Finder())
""")
    return folder


def trials_of(run: Path) -> dict[str, list[dict[str, Any]]]:
    """All that is to be equal in two runs of the same search: recipes, results, decisions."""
    return without_clock(events(run))


def without_clock(log: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By trial, what a log says of recipes, results, decisions, but for times and where the shards lie."""
    table: dict[str, list[dict[str, Any]]] = {}
    for event in log:
        if event["event"] in ("created", "result", "failed"):
            kept = {k: v for k, v in event.items() if k not in ("time", "seconds")}
            if "recipe" in kept:
                kept["recipe"] = kept["recipe"] | {"data": kept["recipe"]["data"] | {"shards": ""}}
            table.setdefault(event["trial"], []).append(kept)
    return table


def processes(driver: int) -> dict[int, str]:
    """The living descendants of a process and their commands."""
    table = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 3) for line in table.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _, _ in rows}
    found = {}
    for pid, _, state, name in rows:
        above = parents[int(pid)]
        while above in parents and above != driver:
            above = parents[above]
        if above == driver and not state.startswith("Z"):
            found[int(pid)] = name
    return found


def gone(pids: Iterable[int], seconds: float = 30) -> bool:
    """Whether these processes have ended, or do within so many seconds."""

    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    end = time.monotonic() + seconds
    while any(lives(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def events(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a ledger, which may be in the writing."""
    try:
        text = (run / "ledger.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def wait_for(run: Path, condition: Callable[[list[dict[str, Any]]], bool], process: Any, seconds: float = 120) -> None:
    """Wait until the ledger meets a condition."""
    end = time.monotonic() + seconds
    while not condition(events(run)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"waited {seconds} s: {events(run)[-3:]}"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search that ran to its end undisturbed, one trial at a time, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    space = folder / "mini.yaml"
    space.write_text(yaml.safe_dump(search_of(shards), sort_keys=False))
    done = launch("search", space, "--out", folder / "run", "--cpus", "1")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout + done.stderr


def exposed(pids: Iterable[int]) -> list[str]:
    """Addresses beyond loopback at which processes listen, as `PID ADDRESS:PORT`."""
    listening = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening[f"socket:[{fields[9]}]"] = fields[1]
    # as the kernel writes them: 127.x.x.x, ::1, and 127.x.x.x in IPv6
    loopback = re.compile(r"[0-9A-F]{6}7F:|0{24}01000000:|0{16}FFFF0000[0-9A-F]{6}7F:")
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for handle in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    address = listening.get(os.readlink(handle.path))
                    if address and not loopback.match(address):
                        found.append(f"{pid} {address}")
    return found
