"""`export`: the best recipe and its student."""

from __future__ import annotations

from typing import Annotated

import typer

from stssl.cli.common import OutOnDisk, RunFolder, opened, out


def export(
    folder: RunFolder,
    target: OutOnDisk = None,
    trial: Annotated[str | None, typer.Option(help="A trial or replicate instead of the winner.")] = None,
) -> None:
    """Export the winner of a search, or one of its trials: recipe, student for timm, model card.

    Example: `python launch.py export runs/demo-20260101-120000 --trial t0003 --out t0003`
    """
    from stssl.errors import RunError
    from stssl.export import winner
    from stssl.search import ledger, run_folder
    from stssl.search.state import SearchState

    run = opened(folder)
    config, manifest = run_folder.load(run)
    run_folder.check_unchanged(config, manifest)
    if trial is not None and target is None:
        raise RunError("--trial needs --out: RUN/best is for the winner")
    state = SearchState.replay(ledger.events_of(run))
    if target is not None:
        chosen, where = winner.export(run, state, target, config.metric, trial), str(target)
    else:
        with run_folder.workplace(run) as path:
            chosen, where = winner.export(run, state, path / "best", config.metric), run.show("best")
    out.print(f"{chosen.id} -> {where}: recipe.yaml, student.safetensors, model.json, README.md")
