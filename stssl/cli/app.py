"""The command line: collects the commands and turns faults into one sentence and an exit code."""

from __future__ import annotations

import signal
from typing import Any

import typer
from typer.core import TyperGroup

from stssl import __version__
from stssl.cli import evaluate, export, inspect, plugins, prepare, report, schema, search, status, submit, train
from stssl.cli.common import errors, fault
from stssl.errors import StsslError, is_out_of_memory, shorten
from stssl.proxies import exempt_loopback

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
MEMORY_REMEDY = (
    "take smaller batches (training.batch_unlabeled, training.batch_labeled), a smaller model, or a machine with more; see also "
    "`ulimit -v` and `ulimit -u`"
)


class _Commands(TyperGroup):
    """Answers Ctrl-C where a command itself does not: those that write say what is left of their work once they have begun."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            writes = ctx.invoked_subcommand in ("prepare", "train", "search", "resume", "extend")
            errors.print(f"\ninterrupted{' before anything began' if writes else ''}")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's polite stop is Ctrl-C by another name
    exempt_loopback()
    try:
        app(arguments)
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            fault(f"out of memory ({shorten(str(error).strip() or type(error).__name__)}); {MEMORY_REMEDY}")
            return FAILED
        if not isinstance(error, OSError):
            raise
        fault(str(error))
        return WRONG_USE
    except StsslError as error:  # OSError: a folder that is a file, a disk without room or leave to write
        fault(str(error))
        return WRONG_USE
    except SystemExit as end:  # typer's own way to say how it went: 0, 2 for wrong use, 130 for Ctrl-C
        return end.code if isinstance(end.code, int) else OK
    return OK
