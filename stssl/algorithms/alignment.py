"""Moving averages, and the alignment of predictions to a distribution of classes. No algorithm of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from stssl.data.schema import Task


def average_(state: Tensor, value: Tensor, momentum: float) -> Tensor:
    """Move an average in place: m·state + (1-m)·value. A buffer stays where it is and of its own type."""
    return state.mul_(momentum).add_((1 - momentum) * value.to(state.dtype))


def odds_ratio(p: Tensor, current: Tensor, wanted: Tensor) -> Tensor:
    """Binary alignment: P/(P+N), P = p·wanted/current, N = (1-p)·(1-wanted)/(1-current), each share + 1e-6."""
    positive = p * (wanted + 1e-6) / (current + 1e-6)
    negative = (1 - p) * (1 - wanted + 1e-6) / (1 - current + 1e-6)
    return positive / (positive + negative)


def aligned(p: Tensor, current: Tensor, wanted: Tensor, task: Task) -> Tensor:
    """Probabilities as they would be if the classes were distributed as wanted.

    Source: Berthelot et al., ReMixMatch (ICLR 2020), 3.1: p·wanted/current, normalised; several labels per image: of
    each class's two outcomes (Bernhard et al., ECAI 2024).

    Args:
        p: [U, K].
        current: [K] what is predicted on average.
        wanted: [K].
        task: `single` or `multi`.
    """
    current, wanted = current.to(p.dtype), wanted.to(p.dtype)
    if task == "multi":
        return odds_ratio(p, current, wanted)
    scaled = p * (wanted + 1e-6) / (current + 1e-6)
    return scaled / scaled.sum(dim=1, keepdim=True)


class Average(torch.nn.Module):
    """A moving average that its first value starts.

    Args:
        shape: Of the value.
        momentum: m of `average_`; 0 keeps the newest value alone.
    """

    value: Tensor
    started: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def update(self, value: Tensor) -> Tensor:
        """Take a value in; returns the average with it."""
        value = value.detach().float()
        new = torch.where(self.started, self.momentum * self.value + (1 - self.momentum) * value, value)
        self.value.copy_(new)
        self.started.fill_(True)
        return self.value
