"""`report`: HTML, a picture and a table of a search."""

from __future__ import annotations

from stssl.cli.common import OutOnDisk, RunFolder, opened, out


def report(
    folder: RunFolder,
    target: OutOnDisk = None,
) -> None:
    """Write the report of a search anew, finished or not.

    Example: `python launch.py report runs/demo-20260101-120000`
    """
    from stssl.analysis import report as writer
    from stssl.search import ledger, run_folder
    from stssl.search.state import SearchState

    run = opened(folder)
    config, manifest = run_folder.load(run)
    state = SearchState.replay(ledger.events_of(run))
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        files = [str(path) for path in writer.write(target, config, manifest, state)]
    else:
        with run_folder.workplace(run) as path:
            files = [run.show(file.name) for file in writer.write(path, config, manifest, state)]
    for file in files:
        out.print(file, markup=False)
