"""AdamW and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn

from stssl.config import Config


class OptimizerConfig(Config):
    """AdamW; the rate rises linearly for `warmup_steps`, then falls along a cosine."""

    lr: float = Field(1e-4, gt=0, le=1e6)
    weight_decay: float = Field(5e-4, ge=0, le=10)
    warmup_steps: int = Field(0, ge=0, le=10**9)


def lr_factor(step: int, total: int, warmup: int) -> float:
    """Share of the full learning rate at a step.

    Linear from 0 during the warm-up, then max(0, cos(7π/16 · t)) with t the share of the remaining steps
    (Sohn et al., FixMatch, 2020).
    """
    if step < warmup:
        return step / warmup
    return max(0.0, math.cos(7 * math.pi / 16 * (step - warmup) / max(1, total - warmup)))


def make_optimizer(networks: nn.Module, config: OptimizerConfig, tokens_decay: bool = False) -> torch.optim.AdamW:
    """AdamW over all networks at once; only matrices and kernels decay.

    Args:
        networks: Whose parameters are optimized.
        config: Of the optimizer.
        tokens_decay: Position vectors, class, register and metadata tokens decay too, as in the reference with a
            teacher and a student.
    """
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in networks.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and (tokens_decay or name.endswith("weight"))
            (decay if decays else rest).append(parameter)
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr)
