"""`prepare`: raw images to shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stssl.cli.common import DryRun, Set, errors, fault, out, progress

if TYPE_CHECKING:
    from stssl.data.jobs import Job, Note, Spread, Task

_FEW = 4096  # images that one process has read before a cluster of workers has started
_SHOWN = 5  # samples left out that are named on the screen; all are in skipped.csv


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="What the data set looks like: eurosat, bigearthnet_v1, bigearthnet_v2, table or simulated."
        ),
    ],
    root: Annotated[
        str | None, typer.Argument(help="Its folder or file: a path, or a URI such as s3://BUCKET/FOLDER.")
    ] = None,
    target: Annotated[str, typer.Option("--out", help="Folder for the shards: a path or a URI.")] = ...,  # type: ignore[assignment]
    set_: Set = [],  # noqa: B006
    on_error: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="At a damaged image: stop, or leave it out and list it in skipped.csv."),
    ] = "raise",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read and write. [default: all CPUs]")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster whose nodes do the work.")] = None,
    rows_per_shard: Annotated[
        int | None, typer.Option(min=1, help="Readers hold a shard in memory. [default: 64 MiB of pixels]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards that are there already.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Turn raw images into Parquet shards, once; every later command reads those.

    Shards that are up to date are left alone. After an interruption the same command goes on where it was. Settings of the
    source are given by `--set`; `--dry-run` shows them all. Whether an image changed is told by its size and date, in a bucket
    by its name alone: use --overwrite after mending one there.

    Examples: `python launch.py prepare eurosat data/eurosat_ms_103 --out runs/data/eurosat-103`,
    `python launch.py prepare bigearthnet_v1 /data/BigEarthNet-v1.0 --out s3://BUCKET/ben --set classes=19`
    """
    from stssl import config, plugins
    from stssl.data.prepare import prepare as write
    from stssl.data.sources.base import Source
    from stssl.errors import ConfigError, did_you_mean
    from stssl.storage import Folder

    known = plugins.find("stssl.data.sources", Source)
    if source not in known:
        raise ConfigError(f"source '{source}' is unknown; {did_you_mean(source, known)}")
    plugin = known[source]
    settings = config.with_overrides(
        {"name": source, **({} if root is None else {"root": root})}, config.parse_set(set_)
    )
    reader = plugin(config.validate(plugin.Config, settings, f"prepare {source}"))
    total, folder = len(reader), Folder(target)
    for note in reader.notes:
        errors.print(f"note: {note}", markup=False)
    if dry_run:
        shown = {} if root is None else {"root": str(Folder(root))}  # without the credentials that a URI may hold
        out.print(config.dump_yaml({**reader.config.model_dump(mode="json"), **shown}), end="", markup=False)
        out.print(
            f"\n# {total} images, bands {', '.join(reader.bands)}, {len(reader.classes)} classes -> {folder}",
            markup=False,
        )
        return
    with progress("looking at files", total) as advance:
        try:
            card, written, skipped = write(
                reader, folder, rows_per_shard, overwrite, on_error, _spread(workers, address, total), advance
            )
        except KeyboardInterrupt:
            errors.print("\ninterrupted; nothing is lost, the same command goes on where it was")
            raise typer.Exit(130) from None
    state = "written to" if written else "up to date in"
    out.print(
        f"{card.name}: {card.count} images, {len(card.bands)} bands, {len(card.classes)} classes; "
        f"{len(card.shards)} shard(s) {state} {folder} (fingerprint {card.fingerprint[:12]})",
        markup=False,
    )
    for sample, reason in skipped[:_SHOWN]:
        errors.print(f"left out: {sample}: {reason}", markup=False)
    if skipped:
        errors.print(f"left out: {len(skipped)} image(s), all listed in skipped.csv beside the shards")


def _spread(workers: int | None, address: str | None, total: int) -> Spread | None:
    """Where shards are written: on a Ray cluster, or in this process where that costs more than it brings."""
    alone = workers == 1 or os.cpu_count() == 1 or (workers is None and total < _FEW)
    if address is None and alone:
        return None

    def on_cluster(task: Task, jobs: list[Job], on_rows: Callable[[int], None]) -> Iterator[Note]:
        from stssl.search import ray_environment

        ray_environment.prepare(address)  # before Ray is imported

        from stssl.data.parallel import on_ray
        from stssl.search import cluster

        def lost(reason: str) -> None:
            fault(f"{reason}; nothing is lost, the same command goes on where it was")

        with cluster.connected(address, workers, lost):  # only now, that there is something to write
            yield from on_ray(task, jobs, on_rows)

    return on_cluster
