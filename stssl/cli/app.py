"""The command line: collects the commands and turns faults into one sentence and an exit code."""

from __future__ import annotations

import re
import signal
from types import FrameType
from typing import NoReturn

import typer
from rich.markup import escape

from stssl import __version__
from stssl.cli import evaluate, export, inspect, plugins, prepare, report, schema, search, status, submit, train
from stssl.cli.common import errors
from stssl.errors import StsslError

OK, WRONG_USE = 0, 2
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")

app = typer.Typer(
    name="launch.py",
    help="Search semi-supervised recipes for satellite images that carry a place and a date.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(prepare.prepare)
app.command()(inspect.inspect)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(search.search)
app.command()(search.resume)
app.command()(search.extend)
app.command()(search.stop)
app.command()(submit.submit)
app.command()(status.status)
app.command()(report.report)
app.command()(export.export)
app.command()(plugins.plugins)
app.command()(schema.schema)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(f"stssl {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Instead of `sys.argv[1:]`.

    Returns:
        0 done, 1 failed, 2 wrong use or faulty input, 130 interrupted.
    """

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt  # a batch system's polite stop is Ctrl-C by another name

    signal.signal(signal.SIGTERM, terminate)
    try:
        app(arguments)
    except (StsslError, OSError) as error:  # OSError: a folder that is a file, a disk without room or leave to write
        text = str(error).encode(errors="backslashreplace").decode()  # names of files may be no UTF-8
        text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)  # nor may what stands in a file move the cursor
        errors.print(f"[bold red]error:[/] {escape(text)}")
        return WRONG_USE
    except SystemExit as end:  # typer's own way to say how it went: 0, 2 for wrong use, 130 for Ctrl-C
        return end.code if isinstance(end.code, int) else OK
    return OK
