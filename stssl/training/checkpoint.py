"""Checkpoints: whole or absent, read without unpickling code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stssl.config import flatten
from stssl.errors import CheckpointError, StsslError, is_out_of_memory, shorten
from stssl.files import UNREADABLE, atomic_path, check_archive

FORMAT = 2


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, Tensor) for entry in value.values())


# what `Trainer.state_dict` writes; strange values are told here, not by whatever stumbles over them
PARTS: dict[str, Callable[[Any], bool]] = {
    "recipe": lambda value: isinstance(value, str) and isinstance(json.loads(value), dict),
    "digest": lambda value: isinstance(value, str),
    "fingerprint": lambda value: isinstance(value, str),
    "task": lambda value: value in ("single", "multi"),
    "classes": _list_of(str),
    "bands": _list_of(str),
    "band_mean": _list_of(float),
    "band_std": _list_of(float),
    "step": lambda value: type(value) is int and value >= 0,
    "networks": _tensors,
    "ema": _tensors,
    "algorithm": _tensors,
    "correction": lambda value: value is None or isinstance(value, Tensor),
    "optimizer": lambda value: isinstance(value, dict),
    "history": _list_of(dict),
}


def save(path: Path | str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: The disk refuses; torch's own writer would call it a RuntimeError.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)


def load(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint (tensors and plain values only).

    Raises:
        CheckpointError: Missing, damaged, or not a checkpoint of ours.
    """
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:  # torch writes check sums but does not look at them
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} fails its check sum")
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except StsslError as error:
        raise CheckpointError(f"{error}; delete it to start this training anew") from None
    except OSError as error:
        if error.errno in UNREADABLE:
            raise  # which says nothing of what is in it
        raise CheckpointError(f"{path}: damaged ({error}); delete it to start this training anew") from None
    except Exception as error:  # torch's reader fails in many ways on a file that is something else
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: damaged, or not a stssl checkpoint ({reason}); delete it to start this training anew"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a stssl checkpoint of format {FORMAT}; delete it to start this training anew"
        )
    for key, fits in PARTS.items():
        try:
            fine = key in state and fits(state[key])
        except ValueError:  # a recipe that is no JSON
            fine = False
        if not fine:
            raise CheckpointError(
                f"{path}: damaged: its part '{key}' is missing or strange; delete it to start this training anew"
            )
    if not len(state["bands"]) == len(state["band_mean"]) == len(state["band_std"]):
        raise CheckpointError(
            f"{path}: damaged: its bands and their means differ in number; delete it to start this training anew"
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
        shown = "; ".join(f"{k}: {shorten(theirs.get(k))} there, {shorten(ours.get(k))} here" for k in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise CheckpointError(
            f"{source}: a checkpoint of another recipe ({shown}{more}); use that recipe or another output folder"
        )
    if state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{source}: trained on other data (fingerprint {state['fingerprint'][:12]}, the shards in "
            f"{recipe['data']['shards']} have {fingerprint[:12]}); use those shards or another output folder"
        )
