"""`report`: HTML, a picture and a table of a search."""

from __future__ import annotations

from stssl.cli.common import RunFolder, out


def report(folder: RunFolder) -> None:
    """Write the report of a search anew, finished or not.

    Example: `python launch.py report runs/demo-20260101-120000`
    """
    from stssl.analysis import report as writer
    from stssl.search import ledger, run_folder
    from stssl.search.state import SearchState

    config, manifest = run_folder.load(folder)
    state = SearchState.replay(ledger.read(folder / ledger.NAME))
    for path in writer.write(folder, config, manifest, state):
        out.print(str(path))
