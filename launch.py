#!/usr/bin/env python3
"""Run stssl from a checkout: `python launch.py --help`."""

import sys


def main() -> None:
    """Hand over to the command line, or say in one sentence which package is missing."""
    try:
        from stssl.cli.app import main as run
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "stssl"):
            raise  # a fault of ours, not of the installation
        remedy = "run `make demo`, which installs everything into .venv, or `pip install -e .`"
        print(f"stssl needs the package '{package}', which this Python cannot import: {remedy}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # so early that the command line could not answer it
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
