"""The student's learnable tokens, which distillation aligns with the teacher's metadata tokens."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor

from stssl.models.families import family_of


def with_registers(
    backbone: Any, arguments: dict[str, Any], drop_path_rate: float, count: int = 1
) -> tuple[Any, dict[str, Any]]:
    """The same vision transformer with more register tokens.

    timm cannot add a register to pretrained weights (their position embedding has no row for it), so the
    weights are moved here; the new tokens and their positions start from timm's initialisation.

    Args:
        backbone: A network without the tokens, of a family that has registers; its weights are kept.
        arguments: The `timm.create_model` arguments it was made with.
        drop_path_rate: Stochastic depth, which is no part of the arguments because only training uses it.
        count: How many tokens.

    Returns:
        The network whose last `count` prefix tokens are new, and its `timm.create_model` arguments.
    """
    key = family_of(backbone).register(backbone)
    assert key is not None
    state = backbone.state_dict()
    old = state["reg_token"].shape[1] if "reg_token" in state else 0
    arguments = {**arguments, key: old + count}
    wider: Any = timm.create_model(**arguments, drop_path_rate=drop_path_rate)
    fresh = wider.state_dict()
    state["reg_token"] = _insert(state.get("reg_token"), fresh["reg_token"], old)
    if not wider.no_embed_class and "pos_embed" in state:
        first, last = backbone.num_prefix_tokens, wider.num_prefix_tokens
        rows = fresh["pos_embed"][:, first:last]
        state["pos_embed"] = torch.cat([state["pos_embed"][:, :first], rows, state["pos_embed"][:, first:]], dim=1)
    wider.load_state_dict(state)
    return wider, arguments


def _insert(old: Tensor | None, fresh: Tensor, position: int) -> Tensor:
    """Old tokens [1, n, D] followed by the fresh ones from `position` on."""
    return fresh if old is None else torch.cat([old, fresh[:, position:]], dim=1)
