"""How the tests make an algorithm and ask it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stssl.algorithms.base import Algorithm, Seen, Setting
from stssl.plugins import find


def plugin(name: str) -> Any:
    return find("stssl.algorithms", Algorithm)[name]


def seen(weak: Tensor, labeled: Tensor | None = None, y: Tensor | None = None, **rest: Any) -> Seen:
    """What an algorithm is shown: rows are counted from 0, and labels default to unknown."""
    labeled = torch.zeros(0, weak.shape[1]) if labeled is None else labeled
    y = torch.full((len(labeled),), -1) if y is None else y
    rest = {"rows": torch.arange(len(weak)), "labeled_rows": torch.arange(len(labeled)), **rest}
    return Seen(weak, labeled, y, **rest)


BOTH = ("single", "multi")
LN2 = math.log(2)
ALL = [
    (name, task)
    for name in (
        "fixmatch",
        "defixmatch",
        "freematch",
        "softmatch",
        "udal",
        "cap",
        "cdmad",
        "flexmatch",
        "adamatch",
        "metric_threshold",
        "precision_weight",
    )
    for task in BOTH
    if (name, task) != ("cap", "single")
]
EVERY = pytest.mark.parametrize(("name", "task"), ALL)
PARITY = pytest.mark.parametrize("parity", [False, True], ids=["right", "parity"])


def make(name: str, task: str = "single", classes: int = 2, /, **options: Any) -> Any:
    """An algorithm; options that the setting knows go there, the others to the configuration."""
    fields = {key: options.pop(key) for key in Setting._fields if key in options}
    if name in ("metric_threshold", "precision_weight"):
        options = {"folds": 0, **options}
    if isinstance(fields.get("frequencies"), list):
        fields["frequencies"] = torch.tensor(fields["frequencies"], dtype=torch.float64)
    setting = Setting(task, classes, **{"labeled": 6, "unlabeled": 8, "steps": 10, **fields})  # type: ignore[arg-type]
    return plugin(name)(plugin(name).Config(**options), setting)


def one(*rows: list[float]) -> Tensor:
    """Logits whose softmax is given."""
    return torch.tensor(rows, dtype=torch.float64).log().float()


def several(*rows: list[float]) -> Tensor:
    """Logits whose sigmoid is given."""
    return torch.tensor(rows, dtype=torch.float64).logit().float()


def say(rows: list[Any]) -> Any:
    return pytest.approx(rows, abs=1e-5)


def values(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


def labels_like(task: str, n: int, classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    if task == "single":
        return torch.randint(0, classes, (n,), generator=generator)
    return torch.randint(0, 2, (n, classes), generator=generator).float()
