"""The folder of a search: made once all checks have passed, found again by every later command.

search.yaml     the resolved search; its presence makes the folder a run
manifest.json   versions, commit, data fingerprint
ledger.jsonl    the truth
trials/         checkpoints; trials.parquet, report.html, best/ come at the end
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stssl import __version__
from stssl import config as cfg
from stssl.errors import ConfigError, DataError, RunError, short_repr
from stssl.search.config import SearchConfig
from stssl.search.objectives import more_is_better
from stssl.storage import Folder

if TYPE_CHECKING:
    from stssl.data.schema import Card

CONFIG, MANIFEST = "search.yaml", "manifest.json"
STOP = "stop"  # a file by which `stop` reaches the driver, wherever that runs
VERIFY_BYTES = 2 << 30  # up to this size a resumed search reads its shards again to see that they are the same


def check_free(folder: Folder | Path) -> None:
    """Refuse a folder for a new search that holds something already.

    Raises:
        RunError: Says what is there, and what to do instead.
    """
    folder = Folder(folder)
    if folder.path is not None and folder.path.exists() and not folder.path.is_dir():
        raise RunError(f"{folder}: is a file; choose another --out")
    # what a driver leaves that died before it had made the search is in nobody's way
    if any(name != MANIFEST and not name.startswith(".") for name in folder.names()):
        known = exists(folder)
        hint = f"resume it with: python launch.py resume {folder}" if known else "choose another --out"
        raise RunError(f"{folder}: exists and is not empty; {hint}")


def exists(folder: Folder | Path) -> bool:
    """Whether there is a search in a folder."""
    return Folder(folder).size(CONFIG) is not None


def create(folder: Folder | Path, config: SearchConfig, card: Card) -> None:
    """Make a run folder.

    Raises:
        RunError: The folder is in use or cannot be written.
    """
    folder = Folder(folder)
    check_free(folder)
    manifest = {
        "stssl": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("torch", "timm", "ray", "optuna", "numpy", "pyarrow")},
        "commit": commit(),
        "search": config.dump(),
        "data": {"name": card.name, "fingerprint": card.fingerprint, "shards": [s.model_dump() for s in card.shards]},
    }
    try:
        _write(folder, config, manifest)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error}; choose another --out") from None


def commit() -> str | None:
    """The commit of this source tree, marked if it has changes; None outside a checkout."""
    if "STSSL_COMMIT" in os.environ:  # on a cluster, whereto the tree has travelled without its history
        return os.environ["STSSL_COMMIT"] or None

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else it is the repository of who has installed this
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _write(folder: Folder, config: SearchConfig, manifest: dict[str, Any]) -> None:
    folder.write(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    folder.write(CONFIG, cfg.dump_yaml(config.dump()).encode())


def load(folder: Folder | Path) -> tuple[SearchConfig, dict[str, Any]]:
    """Configuration and manifest of a run folder.

    Raises:
        RunError: Not the folder of a search.
    """
    folder = Folder(folder)
    if not exists(folder):
        raise RunError(
            f"{folder}: not the folder of a search (no {CONFIG} in it); start one with: python launch.py search"
        )
    try:
        manifest = json.loads(folder.read(MANIFEST))
        _ = (manifest["data"]["fingerprint"][:12], manifest["data"]["name"], manifest["packages"].items())
        _ = (manifest["search"], manifest["stssl"], manifest["created"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise RunError(
            f"{folder.show(MANIFEST)}: cannot be read: {reason}; put a copy back, or start the search anew"
        ) from None
    with folder.local(CONFIG) as path:
        try:
            return SearchConfig.read(path), manifest
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), folder.show(CONFIG))) from None


def glance(folder: Folder | Path) -> SearchConfig:
    """The configuration of a run folder, for who only shows it: quick, since of the recipe no more is checked than is shown.

    Raises:
        RunError: Not the folder of a search.
        ConfigError: search.yaml was damaged.
    """
    folder = Folder(folder)
    if exists(folder):
        with folder.local(CONFIG) as path, suppress(ConfigError):
            return _shown(cfg.validate(SearchConfig, cfg.read_yaml(path), CONFIG))
    config, _ = load(folder)  # which says what is wrong
    try:
        return _shown(config)
    except ConfigError as error:
        raise ConfigError(f"{folder.show(CONFIG)}: {error}") from None


def _shown(config: SearchConfig) -> SearchConfig:
    """Check what is shown of a configuration."""
    _ = config.ladder, [more_is_better(metric) for metric in (config.metric, config.second_metric) if metric]
    return config


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
                f"{source}: {key} is {short_repr(was)} in the search so far and {short_repr(now)} here, which would mix results "
                "that cannot be compared; put it back, or start a new search, with this one in its warm_start where that fits"
            )


def extend(
    folder: Folder | Path, config: SearchConfig, manifest: dict[str, Any], changes: dict[str, tuple[Any, Any]]
) -> None:
    """Write another search into a run folder.

    Args:
        folder: The run folder.
        config: The search from now on.
        manifest: That of the folder; it keeps what the search was before.
        changes: From `differences`.
    """
    entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "changes": {k: list(v) for k, v in changes.items()}}
    manifest = {**manifest, "search": config.dump(), "extended": [*manifest.get("extended", []), entry]}
    _write(Folder(folder), config, manifest)


def update(folder: Folder, config: SearchConfig, manifest: dict[str, Any]) -> None:
    """Take over what may differ between two starts of the same search: resources, note, and where the shards lie.

    Raises:
        RunError: Something else differs; names the key.
        DataError: The shards differ; names them.
    """
    check_unchanged(config, manifest)
    if differences(manifest["search"], config):
        _write(folder, config, {**manifest, "search": config.dump()})


@contextmanager
def workplace(folder: Folder) -> Iterator[Path]:
    """Where to write what the run folder is to hold: the folder itself, or one on this machine that goes into the bucket."""
    if folder.path is not None:
        yield folder.path
        return
    with tempfile.TemporaryDirectory() as local:
        yield Path(local)
        for path in sorted(Path(local).rglob("*")):
            if path.is_file():
                folder.put(path, path.relative_to(local).as_posix())


def check_unchanged(config: SearchConfig, manifest: dict[str, Any]) -> None:
    """Refuse to go on with another search, or with shards other than those that this one began with.

    Raises:
        RunError: search.yaml was edited; names the key.
        DataError: The shards differ; names them.
    """
    from stssl.data import shards
    from stssl.training.recipe import Recipe

    folder = cfg.validate(Recipe, config.recipe, f"{CONFIG}: recipe").data.shards
    for key, (was, now) in differences(manifest["search"], config).items():
        if not key.startswith(NEVER_MATTERS):
            raise RunError(
                f"{CONFIG}: {key} was {short_repr(was)} when the search began and is {short_repr(now)} now, which would mix "
                "results; put it back, and say what is to change with: python launch.py extend"
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
