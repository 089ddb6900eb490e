"""How the tests make an algorithm and ask it."""

from typing import Any

import torch
from torch import Tensor

from stssl.algorithms.base import Algorithm, Seen
from stssl.plugins import find


def plugin(name: str) -> Any:
    return find("stssl.algorithms", Algorithm)[name]


def seen(weak: Tensor, labeled: Tensor | None = None, y: Tensor | None = None, **rest: Any) -> Seen:
    """What an algorithm is shown: rows are counted from 0, and labels default to unknown."""
    labeled = torch.zeros(0, weak.shape[1]) if labeled is None else labeled
    y = torch.full((len(labeled),), -1) if y is None else y
    rest = {"rows": torch.arange(len(weak)), "labeled_rows": torch.arange(len(labeled)), **rest}
    return Seen(weak, labeled, y, **rest)
