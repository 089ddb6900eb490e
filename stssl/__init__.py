"""stssl: search semi-supervised recipes for satellite images that carry a place and a date."""

import sys

__version__ = "0.1.0"

# Before anything else is imported, whose syntax an older Python cannot read, and whose packages a newer one does not have.
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.stderr.write(
        "stssl needs Python 3.11 to 3.14, and %s is %d.%d; run it with another one, or let `make` install it into .venv\n"  # noqa: UP031
        % (sys.executable, *sys.version_info[:2])
    )
    sys.exit(2)
