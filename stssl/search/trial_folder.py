"""What a trial keeps in the run folder; read by driver and worker, without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

CHECKPOINT, ERROR, HANG = "checkpoint.pt", "error.txt", "hang.txt"


def trial_folder(run: Path | str, trial: str) -> Path:
    """Where a trial keeps its checkpoint and, if it failed, its traceback."""
    return Path(run) / "trials" / trial


def hung(run: Path, trial: str) -> bool:
    """Whether a dead worker left word that this trial hung; the word moves to the trial's error.txt."""
    path = trial_folder(run, trial) / HANG
    try:
        if path.stat().st_size == 0:
            return False
        path.replace(path.with_name(ERROR))
        return True
    except OSError:
        return False


def delete_weights(run: Path | str, trial: str) -> None:
    """Drop the checkpoint of a trial that no one will go on with; the traceback of a fault stays."""
    folder = trial_folder(run, trial)
    if not (folder / ERROR).exists():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.name != ERROR:
            path.unlink(missing_ok=True)
