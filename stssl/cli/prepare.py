"""`prepare`: raw images to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stssl.cli.common import DryRun, Set, out, progress


def prepare(
    source: Annotated[str, typer.Argument(help="What the data set looks like on disk: eurosat.")],
    root: Annotated[Path, typer.Argument(help="Its folder.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for the shards.")],
    set_: Set = [],  # noqa: B006
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards that are there already.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Turn raw images into Parquet shards, once; every later command reads those.

    Shards that are up to date are left alone. An interrupted run leaves nothing behind.

    Example: `python launch.py prepare eurosat data/eurosat_ms_103 --out runs/data/eurosat-103`
    """
    from stssl import config, plugins
    from stssl.data import shards
    from stssl.data.sources.base import Source
    from stssl.errors import ConfigError, did_you_mean

    known = plugins.find("stssl.data.sources", Source)
    if source not in known:
        raise ConfigError(f"source '{source}' is unknown; {did_you_mean(source, known)}")
    plugin = known[source]
    settings = {"name": source, "root": str(root), **config.parse_set(set_)}
    reader = plugin(config.validate(plugin.Config, settings, f"prepare {source}"))
    total = len(reader)
    if dry_run:
        out.print(f"{total} images of {reader.name} in {root} -> {target}")
        return
    with progress("preparing", total) as advance:
        card, written = shards.prepare(reader, target, overwrite=overwrite, on_progress=lambda done, _: advance(done))
    state = "written to" if written else "up to date in"
    out.print(
        f"{card.name}: {card.count} images, {len(card.bands)} bands, {len(card.classes)} classes; "
        f"{len(card.shards)} shard(s) {state} {target} (fingerprint {card.fingerprint[:12]})"
    )
