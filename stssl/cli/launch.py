"""The way into the command line, which answers from the first moment: other modules take a second to import."""

from __future__ import annotations

import signal
import sys

REMEDY = "run `make demo`, which installs everything into .venv, or `pip install -e .`"


def main(remedy: str = REMEDY) -> None:
    """Hand over to the command line, or say in one sentence which package is missing.

    Args:
        remedy: What to do about a missing package.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from stssl.cli.app import main as run

        code = run()
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "stssl"):
            raise  # a fault of ours, not of the installation
        print(f"stssl needs the package '{package}', which {sys.executable} cannot import: {remedy}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted before anything began", file=sys.stderr)
        code = 130
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is said and done, and the interpreter ends in a moment
    sys.exit(code)
