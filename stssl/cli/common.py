"""What the commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# A pipe or a file has no width: nothing is folded there.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; may be given several times.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be done, and stop.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a search, such as runs/demo.")]


@contextmanager
def progress(label: str, total: int) -> Iterator[Any]:
    """A progress bar with the time left on a terminal, nothing elsewhere; yields a function of the amount done."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=errors, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def resolve_shards(recipe: dict[str, Any]) -> None:
    """Make the shards' path absolute, so that workers and later commands find it from any folder."""
    data = recipe.get("data")
    if isinstance(data, dict) and isinstance(data.get("shards"), str):
        data["shards"] = str(Path(data["shards"]).expanduser().resolve())


def duration(seconds: float) -> str:
    """`1:05` or `2:03:04`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
