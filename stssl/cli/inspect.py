"""`inspect`: what is in some shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from stssl.cli.common import out


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder made by `prepare`.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every shard's checksum.")] = False,
) -> None:
    """Show what is in some shards: the card, counts by class, how many have a place and a date.

    Example: `python launch.py inspect runs/data/eurosat-103 --verify`
    """
    from stssl.data import shards

    card = shards.verify(folder) if verify else shards.read_card(folder)
    size = sum(shard.bytes for shard in card.shards)
    channels, height, width = card.shape
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in {
        "data set": card.name,
        "images": f"{card.count}, {channels} x {height} x {width} {card.dtype}",
        "bands": ", ".join(card.bands),
        "task": "one class per image" if card.task == "single" else "several classes per image",
        "shards": f"{len(card.shards)}, {size / 1e6:.1f} MB" + (", all checksums match" if verify else ""),
        "fingerprint": card.fingerprint[:12],
        "licence": card.licence,
        "source": card.attribution,
    }.items():
        table.add_row(f"[bold]{key}[/]", value)
    out.print(table)

    classes: Counter[str] = Counter()
    unlabeled = placed = dated = 0
    splits: Counter[str] = Counter()
    for batch in shards.read_rows(folder, ["labels", "lat", "lng", "time", "split"], verified=True):
        for labels in batch["labels"].to_pylist():
            classes.update(labels or ())
            unlabeled += labels is None
        placed += sum(
            a is not None and b is not None
            for a, b in zip(*(batch[k].to_pylist() for k in ("lat", "lng")), strict=True)
        )
        dated += len(batch) - batch["time"].null_count
        splits.update(s for s in batch["split"].to_pylist() if s)
    counts = Table(title=None, box=None, pad_edge=False)
    counts.add_column("class")
    counts.add_column("images", justify="right")
    for name in card.classes:
        counts.add_row(name, str(classes[name]))
    if unlabeled:
        counts.add_row("(unlabeled)", str(unlabeled))
    out.print()
    out.print(counts)
    out.print(f"\nwith a place: {placed} of {card.count}; with a date: {dated} of {card.count}")
    if splits:
        out.print("split column: " + ", ".join(f"{name} {n}" for name, n in sorted(splits.items())))
