"""Checkpoints: whole or absent, read without unpickling code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from stssl.errors import CheckpointError
from stssl.files import atomic_path

FORMAT = 1


def save(path: Path | str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint (tensors and plain values only).

    Raises:
        CheckpointError: Missing, damaged, or not a checkpoint of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes check sums but does not look at them
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} fails its check sum")
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch's reader fails in many ways on a file that is something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: damaged, or not a stssl checkpoint ({reason}); delete it to start this training anew"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a stssl checkpoint of format {FORMAT}; delete it to start this training anew"
        )
    return state
