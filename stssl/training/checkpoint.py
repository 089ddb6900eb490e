"""Checkpoints: whole or absent, read without unpickling code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from stssl.config import flatten
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


def check(state: dict[str, Any], recipe: dict[str, Any], digest: str, fingerprint: str, source: str) -> None:
    """Refuse a checkpoint of another recipe or of other data.

    Args:
        state: The checkpoint.
        recipe: The recipe at hand, as plain data.
        digest: Its digest.
        fingerprint: Of the data at hand.
        source: For messages: where the checkpoint lies.

    Raises:
        CheckpointError: Names the keys that differ.
    """
    if state["digest"] != digest:
        theirs, ours = flatten(json.loads(state["recipe"])), flatten(recipe)
        keys = [
            k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k) and k not in ("data.shards", "data.residency")
        ]
        shown = "; ".join(f"{k}: {theirs.get(k)} there, {ours.get(k)} here" for k in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise CheckpointError(
            f"{source}: a checkpoint of another recipe ({shown}{more}); use that recipe or another output folder"
        )
    if state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{source}: trained on other data (fingerprint {state['fingerprint'][:12]}, the shards in "
            f"{recipe['data']['shards']} have {fingerprint[:12]}); use those shards or another output folder"
        )
