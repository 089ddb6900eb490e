"""Weights from a file: read without unpickling code, fitted to a network, refused where they do not fit."""

from __future__ import annotations

import functools
import sys
import zipfile
from typing import Any

from timm.models import is_model_in_modules, load_state_dict
from torch import Tensor

from stssl.files import check_archive, check_file


def read_weights(path: str, network: Any) -> dict[str, Tensor]:
    """A state dict for timm to load.

    Register tokens that the network has not are left out: a student that was distilled on tokens has such.

    Args:
        path: A .safetensors file or one of torch's.
        network: What the weights are for; its own weights are not looked at.
    """
    check_file(path)
    if zipfile.is_zipfile(path):
        check_archive(path)
    state = load_state_dict(path, weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("the file holds something else than named tensors")
    registers: Tensor | None = state.get("reg_token")
    if registers is None or not hasattr(network, "num_prefix_tokens"):
        return state
    class_tokens = int(getattr(network, "cls_token", None) is not None)
    ours, theirs = network.num_prefix_tokens - class_tokens, registers.shape[1]
    if theirs <= ours:
        return state
    state = {**state, "reg_token": registers[:, :ours]}
    if ours == 0:
        del state["reg_token"]
    if "pos_embed" in state and not network.no_embed_class:
        rows = state["pos_embed"]
        first = class_tokens + ours
        state["pos_embed"] = rows[:, [i for i in range(rows.shape[1]) if not first <= i < first + theirs - ours]]
    return state


def refuse_misfits(state: dict[str, Tensor], network: Any) -> None:
    """Refuse weights that timm would load in part: a layer that is missing would stay random, one too many be lost.

    The classifier may be missing: timm makes a new one for other classes. So may counters of batches seen, which older
    files lack.

    Raises:
        ValueError: Names the layers.
    """
    to_timm: Any = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", lambda state, _: state)
    if is_model_in_modules(network.pretrained_cfg["architecture"], ["deit"]):  # as timm's own builder of these has it
        to_timm = functools.partial(to_timm, adapt_layer_scale=True)
    given, own = to_timm(dict(state), network), network.state_dict()
    head = network.pretrained_cfg["classifier"]
    free = tuple(f"{name}." for name in ((head,) if isinstance(head, str) else head))
    missing = [k for k in own if k not in given and not k.startswith(free) and not k.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"the file has no {_some(missing)}")
    if beyond := [key for key in given if key not in own and key.startswith(("blocks.", "stages.", "layer"))]:
        raise ValueError(f"the file has more layers than the network: {_some(beyond)}")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{', '.join(keys[:3])}{more}"
