"""Predictions and what they are worth. scikit-learn computes the scores: exact, not binned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch
from sklearn import metrics
from torch import Tensor

from stssl.algorithms.losses import supervised_loss
from stssl.data.dataset import Dataset
from stssl.data.schema import Batch, Task
from stssl.data.splits import EVALUATED
from stssl.errors import ConfigError, did_you_mean

# name -> whether more is better; what a search may optimise
METRICS: dict[Task, dict[str, bool]] = {
    "single": {"accuracy": True, "balanced_accuracy": True, "f1_macro": True, "loss": False},
    "multi": {"map_macro": True, "map_micro": True, "f1_macro": True, "loss": False},
}


class Diverged(ArithmeticError):
    """A loss or an output became infinite or not a number."""


def evaluate(
    network: Callable[[Batch], Tensor], dataset: Dataset, split: str, batch_size: int = 256
) -> dict[str, float]:
    """Score a network on one split.

    Args:
        network: Batch on the CPU to logits [B, K].
        dataset: Where the split comes from.
        split: One of `EVALUATED`; only the end of a search and the user's own command read `test`.
        batch_size: Images at a time.

    Raises:
        ConfigError: The split is unknown or empty.
        Diverged: The network's output is not finite.
    """
    if split not in EVALUATED:
        raise ConfigError(f"split '{split}' is unknown; {did_you_mean(split, EVALUATED)}")
    indices = getattr(dataset.split, split)
    if len(indices) == 0:
        raise ConfigError(f"the {split} split is empty; set data.split.{split} in the recipe")
    logits, labels = predict(network, dataset.iterate(indices, batch_size))
    if not logits.isfinite().all():
        raise Diverged(f"the network's output on the {split} split is not finite")
    return scores(logits, labels, dataset.task)


@torch.no_grad()
def predict(network: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Run a network over batches.

    Args:
        network: Batch to logits [B, K].
        batches: What to predict.

    Returns:
        Logits [N, K] and labels [N] or [N, K], float32 and as stored, on the CPU.
    """
    logits, labels = [], []
    for batch in batches:
        logits.append(network(batch).float().cpu())
        labels.append(batch.labels.cpu())
    return torch.cat(logits), torch.cat(labels)


def scores(logits: Tensor, labels: Tensor, task: Task) -> dict[str, float]:
    """Score predictions; images (entries) with unknown labels (-1) do not count.

    Args:
        logits: [N, K].
        labels: [N] int64 or [N, K] float.
        task: `single` or `multi`.

    Returns:
        Single-label: accuracy, balanced_accuracy (mean recall over the classes present), f1_macro (over classes
        present in labels or predictions), loss. Multi-label: map_macro (mean average precision over classes with a
        positive), map_micro, f1_macro (at probability 0.5), loss. Also `count`, images scored, and
        `classes_absent`, classes that the labels never show and that are not scored.
    """
    loss = float(supervised_loss(logits, labels, task))
    classes = logits.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # absent classes are reported below, not scored
        if task == "single":
            scored = labels >= 0
            y, guess = labels[scored].numpy(), logits[scored].argmax(dim=1).numpy()
            result = {
                "accuracy": metrics.accuracy_score(y, guess),
                "balanced_accuracy": metrics.balanced_accuracy_score(y, guess),
                "f1_macro": metrics.f1_score(y, guess, average="macro", zero_division=0),
            }
            absent, count = classes - len(np.unique(y)), len(y)
        else:
            p, y = logits.sigmoid().numpy(), labels.numpy()
            known = y >= 0
            present = [k for k in range(classes) if (y[:, k] == 1).any()]
            ap = [metrics.average_precision_score(y[known[:, k], k], p[known[:, k], k]) for k in present]
            f1 = [metrics.f1_score(y[known[:, k], k], p[known[:, k], k] >= 0.5, zero_division=0) for k in present]
            result = {
                "map_macro": np.mean(ap) if ap else float("nan"),
                "map_micro": metrics.average_precision_score(y[known], p[known]) if present else float("nan"),
                "f1_macro": np.mean(f1) if f1 else float("nan"),
            }
            absent, count = classes - len(present), int(known.any(axis=1).sum())
    return {**{k: float(v) for k, v in result.items()}, "loss": loss, "count": count, "classes_absent": absent}
