"""`inspect`: what is in some shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from stssl.cli.common import out


def inspect(
    place: Annotated[str, typer.Argument(metavar="SHARDS", help="A folder made by `prepare`: a path or a URI.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every shard's checksum.")] = False,
    target: Annotated[
        Path | None, typer.Option("--out", help="Folder for the pictures. [default: runs/inspect-NAME-FINGERPRINT]")
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="Draw the map of places and the sheet of samples with their views.")
    ] = True,
) -> None:
    """Show what is in some shards: card, counts by class, split and season, a map of places, samples with their views.

    Example: `python launch.py inspect runs/data/eurosat-103 --verify`
    """
    from stssl.analysis import dataset
    from stssl.data import shards
    from stssl.storage import Folder

    folder = Folder(place)
    card = shards.verify(folder) if verify else shards.read_card(folder)
    size = sum(shard.bytes for shard in card.shards)
    channels, height, width = card.shape
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in {
        "data set": card.name,
        "images": f"{card.count}, {channels} x {height} x {width} {card.dtype}",
        "left out": f"{card.skipped}, listed in skipped.csv" if card.skipped else "",
        "bands": ", ".join(card.bands),
        "task": "one class per image" if card.task == "single" else "several classes per image",
        "shards": f"{len(card.shards)}, {size / 1e6:.1f} MB" + (", all checksums match" if verify else ""),
        "fingerprint": card.fingerprint[:12],
        "licence": card.licence,
        "source": card.attribution,
    }.items():
        if value:
            table.add_row(f"[bold]{key}[/]", escape(value))
    out.print(table)
    view = dataset.overview(folder, card)
    unlabeled = {"(unlabeled)": view.unlabeled} if view.unlabeled else {}
    _counts("class", {**view.classes, **unlabeled})
    if view.splits:
        _counts("split", view.splits)
    if view.dated:
        _counts("season", view.seasons)
    out.print(f"\nwith a place: {view.placed} of {card.count}; with a date: {view.dated} of {card.count}")
    if not pictures:
        return
    target = target or Path("runs") / f"inspect-{card.name}-{card.fingerprint[:6]}"
    dataset.draw_map(view, card, target / "map.png")
    dataset.draw_samples(folder, card, target / "samples.png")
    out.print(f"pictures: {target / 'map.png'}, {target / 'samples.png'}", markup=False)


def _counts(what: str, counts: dict[str, int]) -> None:
    table = Table(title=None, box=None, pad_edge=False)
    table.add_column(what)
    table.add_column("images", justify="right")
    for name, count in counts.items():
        table.add_row(escape(name), f"{count}")
    out.print()
    out.print(table)
