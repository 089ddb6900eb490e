"""What the commands share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl, urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stssl.errors import ConfigError, is_out_of_memory
from stssl.storage import Folder, is_uri

if TYPE_CHECKING:
    from stssl.data.dataset import Dataset
    from stssl.search.config import SearchConfig
    from stssl.search.state import SearchState
    from stssl.training.recipe import Recipe

# A pipe or a file has no width: nothing is folded there.
out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; may be given several times.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be done, and stop.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="The folder of a search, such as runs/demo or s3://BUCKET/runs/demo.")
]


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def fault(text: str) -> None:
    """Print why a command ends."""
    text = text.encode(errors="backslashreplace").decode()  # names of files may be no UTF-8
    text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)  # nor may what stands in a file move the cursor
    errors.show_cursor()  # which a table that is no longer drawn has hidden
    errors.print(f"[bold red]error:[/] {escape(text)}")


def _on_disk(path: str) -> Path:
    if is_uri(path) or not path.strip():
        raise typer.BadParameter(f"{path}: a folder of this machine is needed here")
    return Path(path)


OutOnDisk = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", parser=_on_disk, help="Folder for the files. [default: in RUN]"),
]


# Settings in a URI that are no secrets.
HARMLESS = {"region", "scheme", "endpoint_override", "anonymous", "allow_delayed_open", "allow_bucket_creation"}


@contextmanager
def progress(label: str, total: int) -> Iterator[Any]:
    """A progress bar with the time left on a terminal, nothing elsewhere; yields a function that moves it.

    The function takes the amount done, or what is being done, the amount and the whole.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=errors, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=total)

        def advance(*now: Any) -> None:
            if len(now) == 3 and now[0] != bar.tasks[0].description:
                bar.reset(task, description=now[0], total=now[2])  # another thing: its time starts now
            bar.update(task, completed=now[-1] if len(now) == 1 else now[1])

        yield advance


def opened(run: str) -> Folder:
    """The run folder that a command was given.

    Raises:
        ConfigError: It holds credentials.
        DataError: The URI cannot be understood.
    """
    return Folder(absolute(run))


def absolute(path: str) -> str:
    """The path as found from any folder; a URI is that already.

    Raises:
        ConfigError: Nothing can have that name, or it holds credentials.
    """
    if not path.strip():
        raise ConfigError("a path is empty; an unset variable, perhaps?")
    parts = urlsplit(path) if is_uri(path) else None
    queried = {key for key, _ in parse_qsl(parts.query, keep_blank_values=True)} if parts else set()
    if parts and ((parts.username and parts.scheme != "abfss") or parts.password or queried - HARMLESS):
        raise ConfigError(
            f"{parts.scheme}://{parts.hostname}{parts.path}: holds credentials, which would be written into files "
            "of the run; leave them out, and give them in the environment (for s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    try:
        if "\0" in path:
            raise ValueError("embedded null byte")
        # links stay: what they lead to may have another name on other machines
        return path if is_uri(path) else os.path.abspath(Path(path).expanduser())
    except (OSError, RuntimeError, ValueError) as error:  # nobody's home
        raise ConfigError(f"{path[:80]!r}: no path: {error}") from None


def resolve_paths(recipe: dict[str, Any]) -> None:
    """Make the recipe's paths absolute: workers and later commands run in other folders."""
    for group, key in (("data", "shards"), ("model", "pretrained")):
        settings = recipe.get(group)
        if isinstance(settings, dict) and isinstance(settings.get(key), str):
            settings[key] = absolute(settings[key])


def pick_device(device: str) -> str:
    """`auto` or a device by name, tried out.

    Raises:
        ConfigError: Nothing can be computed there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"--device {device}: not usable here: {str(error).splitlines()[0]}") from None
    return device


def note_absent(recipe: Recipe, dataset: Dataset) -> None:
    """Say so where the teacher is to be told what no image has."""
    if recipe.framework == "plain":
        return
    for field, key, have in (
        ("location", "a place", dataset.store.place.isfinite().all(dim=1)),
        ("time", "a date", dataset.store.time.isfinite()),
    ):
        if getattr(recipe.encoding, field).name != "none" and not have.any():
            errors.print(f"note: no image has {key}, so encoding.{field} tells the teacher nothing; set it to none")


def duration(seconds: float) -> str:
    """`1:05` or `2:03:04`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rungs_table(state: SearchState, config: SearchConfig) -> Table:
    """The trials of a search by rung."""
    from stssl.search.objectives import more_is_better
    from stssl.search.results import by_rung

    sign = 1 if more_is_better(config.metric) else -1
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("rung", "reached", "paused"):
        table.add_column(name, justify="right")
    table.add_column(f"best {config.metric}")
    for rung in by_rung(state, config.ladder):
        best = "" if rung["best"] is None else f"{sign * rung['best']:.4f}  {rung['trial']}"
        table.add_row(str(rung["step"]), str(rung["reached"]), str(rung["paused"] or ""), best)
    return table
