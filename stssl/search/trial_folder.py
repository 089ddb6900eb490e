"""What a trial keeps in the run folder; read and written by driver and workers, without Ray."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stssl.errors import CheckpointError
from stssl.files import check_identifier
from stssl.search.ledger import TRIALS
from stssl.storage import Folder
from stssl.training import checkpoint

CHECKPOINT, DAMAGED, ERROR = "checkpoint.pt", "checkpoint.damaged", "error.txt"
HANG, FAULT = "hang.txt", "fault.json"  # the last words of a worker that had to end itself


def trial_folder(run: Folder | Path | str, trial: str) -> Folder:
    """Where a trial keeps its checkpoint and, if it failed, its traceback.

    Raises:
        StsslError: The trial's name is none that a search gives, or a symbolic link leads out of the run folder.
    """
    return (Folder(run) / TRIALS).inside(check_identifier(trial, "trial"))


def save(folder: Folder, state: dict[str, Any]) -> None:
    """Write a trial's checkpoint; it is there whole, or the one before it.

    Raises:
        OSError: The disk or the bucket refuses.
    """
    if folder.path is not None:
        checkpoint.save(folder.writable_path(CHECKPOINT), state)
        return
    with tempfile.TemporaryDirectory() as local:
        checkpoint.save(Path(local) / CHECKPOINT, state)
        folder.put(Path(local) / CHECKPOINT, CHECKPOINT)


def load(folder: Folder, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """A trial's checkpoint; None before the first.

    Raises:
        CheckpointError: Damaged.
        OSError: The disk or the bucket refuses.
    """
    if folder.size(CHECKPOINT) is None:
        return None
    with folder.local(CHECKPOINT) as path:
        try:
            return checkpoint.load(path, device)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(path), folder.show(CHECKPOINT))) from None


def put_aside(folder: Folder) -> None:
    """Keep a damaged checkpoint for whoever wants to look at it, out of the way."""
    with folder.local(CHECKPOINT) as path:
        folder.put(path, DAMAGED)
    folder.delete(CHECKPOINT)


@contextlib.contextmanager
def weights_at_hand(run: Folder, trial: str) -> Iterator[Path]:
    """A folder on this machine with a trial's checkpoint in it.

    Raises:
        CheckpointError: There is none.
    """
    folder = trial_folder(run, trial)
    try:
        with folder.local(CHECKPOINT) as path:
            yield path.parent
    except FileNotFoundError:
        raise CheckpointError(f"{folder.show(CHECKPOINT)}: no such checkpoint") from None


def hung(run: Folder, trial: str) -> bool:
    """Whether a dead worker left word that this trial hung; the word moves to the trial's error.txt."""
    folder = trial_folder(run, trial)
    try:
        if not folder.size(HANG):
            return False
        folder.write(ERROR, folder.read(HANG))
        folder.delete(HANG)
        return True
    except OSError:
        return False


def fault(run: Folder, trial: str) -> tuple[str, str] | None:
    """Kind and reason that a dead worker left word of; they are told once."""
    folder = trial_folder(run, trial)
    try:
        if not folder.size(FAULT):
            return None
        said = json.loads(folder.read(FAULT))
        folder.delete(FAULT)
        return str(said["kind"]), str(said["reason"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def delete_weights(run: Folder | Path | str, trial: str) -> None:
    """Drop the checkpoint of a trial that no one will go on with; the traceback of a fault stays."""
    folder = trial_folder(run, trial)
    if folder.size(ERROR) is None:
        (Folder(run) / TRIALS).delete_folder(trial)
        return
    for name in folder.names():
        if name != ERROR:
            folder.delete(name)
