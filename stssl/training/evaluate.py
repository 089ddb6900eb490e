"""Predictions and what they are worth. scikit-learn ranks: exact, not binned; plain counts give the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor

from stssl.algorithms.losses import supervised_loss
from stssl.data.dataset import Dataset
from stssl.data.schema import Batch, Task
from stssl.data.splits import EVALUATED
from stssl.errors import ConfigError, did_you_mean

REFERENCE_LOGIT = 0.5  # where the reference implementation cuts logits, meaning probabilities
BINS = 15  # of the calibration error


class Diverged(ArithmeticError):
    """A loss or an output became infinite or not a number."""


def evaluate(
    network: Callable[[Batch], Tensor], dataset: Dataset, split: str, batch_size: int = 256, parity: bool = False
) -> dict[str, float]:
    """Score a network on one split.

    Multi-label thresholds (`f1_macro_tuned`) are fitted on validation, which is predicted as well when another split is
    asked for. On validation itself that figure is optimistic, and on `validation_full`, which contains it, a little.

    Args:
        network: Batch on the CPU to logits [B, K].
        dataset: Where the split comes from.
        split: One of `EVALUATED`; only the end of a search and the user's own command read `test`.
        batch_size: Images at a time.
        parity: See `scores`.

    Raises:
        ConfigError: The split is unknown or empty.
        Diverged: The network's output is not finite.
    """
    if split not in EVALUATED:
        raise ConfigError(f"split '{split}' is unknown; {did_you_mean(split, EVALUATED)}")
    if len(getattr(dataset.split, split)) == 0:
        raise ConfigError(f"the {split} split is empty; set data.split.{split} in the recipe")

    def predicted(name: str) -> tuple[Tensor, Tensor]:
        logits, labels = predict(network, dataset.iterate(getattr(dataset.split, name), batch_size))
        if not logits.isfinite().all():
            raise Diverged(f"the network's output on the {name} split is not finite")
        return logits, labels

    said = predicted(split)
    thresholds = None
    if dataset.task == "multi" and len(dataset.split.validation):
        thresholds = best_thresholds(*(said if split == "validation" else predicted("validation")))
    return scores(*said, dataset.task, thresholds, parity)


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


def scores(
    logits: Tensor, labels: Tensor, task: Task, thresholds: Tensor | None = None, parity: bool = False
) -> dict[str, float]:
    """Score predictions; images (entries) with unknown labels (-1) do not count.

    Args:
        logits: [N, K].
        labels: [N] int64 or [N, K] float.
        task: `single` or `multi`.
        thresholds: [K] logits from `best_thresholds` on other images, for `f1_macro_tuned` (multi-label).
        parity: Add `f1_macro_reference` (multi-label), F1 as the reference implementation cuts it, at logit 0.5, which is
            probability 0.622.

    Returns:
        Single-label: accuracy, balanced_accuracy (mean recall over the classes present), f1_macro (over classes
        present in labels or predictions), map_macro (mean average precision, one class against the rest, over the
        classes present), map_micro (all entries in one ranking), calibration_error (of the top label).

        Multi-label: map_macro and map_micro likewise, f1_macro (mean over the classes present) and f1_micro (all
        entries together) at probability 0.5, f1_macro_tuned, balanced_accuracy (mean of (TPR + TNR) / 2 over classes
        with both labels), accuracy (share of the entries that are right), calibration_error (each entry's own
        probability).

        Both: loss; `count`, images scored; `classes_absent`, classes that the labels never show and that are not
        scored. What is not defined, such as average precision without a positive, is NaN.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # absent classes are reported below, not scored
        result = _single(logits, labels) if task == "single" else _multi(logits, labels, thresholds, parity)
    loss = float(supervised_loss(logits, labels, task)) if result["count"] else np.nan
    counts = {key: int(result.pop(key)) for key in ("count", "classes_absent")}
    return {**{key: float(value) for key, value in result.items()}, "loss": loss, **counts}


def _single(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    known = labels >= 0
    y, said = labels[known].numpy(), logits[known].double().log_softmax(dim=1).numpy()
    guess, hot = said.argmax(1), np.eye(logits.shape[1], dtype=bool)[y]
    present = np.flatnonzero(hot.any(0))
    defined = len(y) > 0
    return {
        "accuracy": metrics.accuracy_score(y, guess) if defined else np.nan,
        "balanced_accuracy": metrics.balanced_accuracy_score(y, guess) if defined else np.nan,
        "f1_macro": metrics.f1_score(y, guess, average="macro", zero_division=0) if defined else np.nan,
        "map_macro": _mean([metrics.average_precision_score(hot[:, k], said[:, k]) for k in present]),
        "map_micro": metrics.average_precision_score(hot.ravel(), said.ravel()) if defined else np.nan,
        "calibration_error": calibration_error(np.exp(said.max(1)), guess == y) if defined else np.nan,
        "count": len(y),
        "classes_absent": logits.shape[1] - len(present),
    }


def _multi(logits: Tensor, labels: Tensor, thresholds: Tensor | None, parity: bool) -> dict[str, Any]:
    z, y, known = logits.double().numpy(), (labels == 1).numpy(), (labels >= 0).numpy()
    said, defined = z >= 0, bool(known.any())
    present = np.flatnonzero(y.any(0))
    tp, tn = (y & said).sum(0), (known & ~y & ~said).sum(0)
    positive, negative = y.sum(0), (known & ~y).sum(0)
    both = (positive > 0) & (negative > 0)
    ap = [metrics.average_precision_score(y[known[:, k], k], z[known[:, k], k]) for k in present]  # ranks as p does
    result = {
        "map_macro": _mean(ap),
        "map_micro": metrics.average_precision_score(y[known], z[known]) if len(present) else np.nan,
        "f1_macro": _mean(_f1(y, said, known)[present]),
        "f1_micro": 2 * tp.sum() / (y.sum() + (said & known).sum()) if len(present) else np.nan,
        "balanced_accuracy": _mean((tp[both] / positive[both] + tn[both] / negative[both]) / 2),
        "accuracy": (tp.sum() + tn.sum()) / known.sum() if defined else np.nan,
        "calibration_error": calibration_error(logits.double().sigmoid().numpy()[known], y[known])
        if defined
        else np.nan,
        "count": int(known.any(1).sum()),
        "classes_absent": logits.shape[1] - len(present),
    }
    if thresholds is not None:
        result["f1_macro_tuned"] = _mean(_f1(y, z >= thresholds.double().numpy(), known)[present])
    if parity:
        result["f1_macro_reference"] = _mean(_f1(y, z >= REFERENCE_LOGIT, known)[present])
    return result


def _f1(y: NDArray[np.bool_], said: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F1 of each column [N, K] -> [K]: 2 TP / (labeled positive + said positive); 0 where both are none."""
    return 2 * (y & said).sum(0) / np.maximum(y.sum(0) + (said & known).sum(0), 1)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def best_thresholds(logits: Tensor, labels: Tensor) -> Tensor:
    """Where to cut each class for its best F1 on these images; entries with unknown labels (-1) do not count.

    A threshold lies halfway between the lowest logit that is called positive and the next one below, or on the former
    where there is none below; of equally good ones the highest is taken.

    Args:
        logits: [N, K] multi-label.
        labels: [N, K].

    Returns:
        [K] float64 logits: `logits >= thresholds` is positive. 0, that is probability 0.5, for a class without a positive.
    """
    found = torch.zeros(logits.shape[1], dtype=torch.float64)
    for k in range(logits.shape[1]):
        known = labels[:, k] >= 0
        y, z = (labels[known, k] == 1).numpy(), logits[known, k].double().numpy()
        if y.any():
            precision, recall, cuts = metrics.precision_recall_curve(y, z)  # cuts ascend; each is a logit
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            best = len(cuts) - 1 - int(f1[: len(cuts)][::-1].argmax())
            found[k] = (cuts[best] + cuts[max(best - 1, 0)]) / 2
    return found


def calibration_error(probability: NDArray[np.float64], happened: NDArray[np.bool_]) -> float:
    """Expected calibration error: Σ_b n_b/N · |share that happened - mean probability|, over 15 bins of equal width.

    The bins are (0, 1/15], (1/15, 2/15], ..., and 0 belongs to the first.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), equation 3.

    Args:
        probability: [N] of the top label (single-label) or of an entry (multi-label), N > 0.
        happened: [N] whether that label is there.
    """
    bins = np.digitize(probability, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    return float(np.abs(np.bincount(bins, weights=happened - probability, minlength=BINS)).sum() / len(probability))
