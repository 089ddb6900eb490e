"""Checkpoints: whole or absent, read without unpickling code."""

from __future__ import annotations

import pickle
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
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: damaged, or not a stssl checkpoint ({reason}); delete it to start this training anew"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a stssl checkpoint of format {FORMAT}; delete it to start this training anew"
        )
    return state
