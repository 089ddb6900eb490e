"""The folder of a search: made once all checks have passed, found again by every later command.

search.yaml     the resolved search; its presence makes the folder a run
manifest.json   versions, commit, data fingerprint
ledger.jsonl    the truth
trials/         checkpoints; trials.parquet, report.html, best/ come at the end
"""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from stssl import __version__
from stssl import config as cfg
from stssl.data import shards
from stssl.data.schema import Card
from stssl.errors import ConfigError, DataError, RunError
from stssl.files import write_text
from stssl.search.config import SearchConfig
from stssl.training.recipe import Recipe

CONFIG, MANIFEST = "search.yaml", "manifest.json"
STOP = "stop"  # a file by which `stop` reaches the driver, wherever that runs
VERIFY_BYTES = 2 << 30  # up to this size a resumed search reads its shards again to see that they are the same


def check_free(folder: Path) -> None:
    """Refuse a folder for a new search that holds something already.

    Raises:
        RunError: Says what is there, and what to do instead.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another --out")
    if folder.exists() and any(folder.iterdir()):
        known = (folder / CONFIG).exists()
        hint = f"resume it with: python launch.py resume {folder}" if known else "choose another --out"
        raise RunError(f"{folder}: exists and is not empty; {hint}")


def create(folder: Path, config: SearchConfig, card: Card) -> None:
    """Make a run folder.

    Raises:
        RunError: The folder is in use or cannot be written.
    """
    check_free(folder)
    manifest = {
        "stssl": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("torch", "timm", "ray", "optuna", "numpy", "pyarrow")},
        "commit": _commit(),
        "search": config.dump(),
        "data": {"name": card.name, "fingerprint": card.fingerprint, "shards": [s.model_dump() for s in card.shards]},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        write_text(folder / CONFIG, cfg.dump_yaml(config.dump()))
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error}; choose another --out") from None


def _commit() -> str | None:
    """The commit of this source tree, marked if it has changes; None outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        here = Path(__file__).parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def load(folder: Path) -> tuple[SearchConfig, dict[str, Any]]:
    """Configuration and manifest of a run folder.

    Raises:
        RunError: Not the folder of a search.
    """
    if not (folder / CONFIG).is_file():
        raise RunError(
            f"{folder}: not the folder of a search (no {CONFIG} in it); start one with: python launch.py search"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _ = (manifest["data"]["fingerprint"], manifest["data"]["name"], dict(manifest["packages"]))
        _ = (manifest["search"], manifest["stssl"], manifest["created"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{folder / MANIFEST}: cannot be read: {error!r}; start the search anew") from None
    return SearchConfig.read(folder / CONFIG), manifest


def differences(before: dict[str, Any], config: SearchConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted key to the values of two searches, where they differ."""
    began = cfg.validate(SearchConfig, before, f"{MANIFEST}: search")  # an older one lacks newer keys
    was, now = cfg.flatten(began.dump()), cfg.flatten(config.dump())
    return {key: (was.get(key), now.get(key)) for key in {**was, **now} if was.get(key) != now.get(key)}


NEVER_MATTERS = ("resources.", "note", "recipe.data.shards", "recipe.data.residency")
_MAY_BE_EXTENDED = ("trials", "budget_hours", "points", "space.", "constraints", "sampler.", "replicates.")


def check_extension(changes: dict[str, tuple[Any, Any]], source: str) -> None:
    """Refuse to go on with a search whose results would not be comparable.

    Raises:
        ConfigError: Names the key.
    """
    for key, (was, now) in changes.items():
        if not key.startswith((*NEVER_MATTERS, *_MAY_BE_EXTENDED)):
            raise ConfigError(
                f"{source}: {key} is {was!r} in the search so far and {now!r} here, which would mix results that cannot be "
                "compared; put it back, or start a new search, with this one in its warm_start where that fits"
            )


def extend(folder: Path, config: SearchConfig, manifest: dict[str, Any], changes: dict[str, tuple[Any, Any]]) -> None:
    """Write another search into a run folder.

    Args:
        folder: The run folder.
        config: The search from now on.
        manifest: That of the folder; it keeps what the search was before.
        changes: From `differences`.
    """
    entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "changes": {k: list(v) for k, v in changes.items()}}
    manifest = {**manifest, "search": config.dump(), "extended": [*manifest.get("extended", []), entry]}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    write_text(folder / CONFIG, cfg.dump_yaml(config.dump()))


def check_unchanged(config: SearchConfig, manifest: dict[str, Any]) -> None:
    """Refuse to go on with another search, or with shards other than those that this one began with.

    Raises:
        RunError: search.yaml was edited; names the key.
        DataError: The shards differ; names them.
    """
    folder = cfg.validate(Recipe, config.recipe, f"{CONFIG}: recipe").data.shards
    for key, (was, now) in differences(manifest["search"], config).items():
        if not key.startswith(NEVER_MATTERS):
            raise RunError(
                f"{CONFIG}: {key} was {was!r} when the search began and is {now!r} now, which would mix results; put it "
                "back, and say what is to change with: python launch.py extend"
            )
    card = shards.read_card(folder)
    then, now = manifest["data"]["fingerprint"], card.fingerprint
    if then != now:
        raise DataError(
            f"{folder}: these shards have changed since the search began (fingerprint {then[:12]} then, {now[:12]} now); "
            "put the old ones back, or start a new search"
        )
    if sum(shard.bytes for shard in card.shards) <= VERIFY_BYTES:
        shards.verify(folder)
