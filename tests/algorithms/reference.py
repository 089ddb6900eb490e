"""The algorithms once more, in float64, one row and one class at a time where that is clearer.

Written from the formulas of the docstrings and papers alone, not from the product's code, which is held against them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Shown(NamedTuple):
    """`base.Seen` in numpy."""

    weak: Array
    labeled: Array
    y: Array
    rows: Array
    labeled_rows: Array
    blank: Array | None = None


class Belief(NamedTuple):
    """`base.Targets` in numpy."""

    labels: Array
    weights: Array
    labeled: Belief | None = None
    resting: Array | None = None


class Outputs(NamedTuple):
    """`base.Logits` in numpy."""

    labeled: Array
    strong: Array
    labeled_strong: Array


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0, -z))


def probabilities(z: Array, task: str) -> Array:
    return softmax(z) if task == "single" else sigmoid(z)


def confidence(p: Array, task: str) -> Array:
    return p.max(1) if task == "single" else np.maximum(p, 1 - p)


def cross_entropy(z: Array, target: Array, task: str) -> Array:
    """[B] or [B, K]."""
    if task == "multi":
        return np.logaddexp(0, z) - z * target
    log_p = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    if target.ndim == 1:
        return np.array([-row[k] for row, k in zip(log_p, target.astype(int), strict=True)])
    return -(target * log_p).sum(1)


def mean_of_known(entries: Array, known: Array) -> float:
    return float(entries[known].sum() / known.sum()) if known.any() else 0.0


def supervised(z: Array, y: Array, task: str) -> float:
    return mean_of_known(cross_entropy(z, np.maximum(y, 0), task), y >= 0)


def consistency(z: Array, belief: Belief, task: str) -> float:
    return float((belief.weights * cross_entropy(z, belief.labels, task)).mean())


def focal_factor(z: Array, target: Array, config: Any) -> Array:
    p = sigmoid(z)
    s = np.minimum(sigmoid(-z) + config.clip, 1)
    t = p * target + s * (1 - target)
    return (1 - t) ** (config.gamma_positive * target + config.gamma_negative * (1 - target))


def asymmetric(z: Array, target: Array, config: Any, frozen: Array | None = None) -> Array:
    """[B, K]; `frozen` are the logits of the factor where it has no gradient."""
    s = np.minimum(sigmoid(-z) + config.clip, 1)
    entropy = target * np.log(np.maximum(sigmoid(z), 1e-8)) + (1 - target) * np.log(np.maximum(s, 1e-8))
    factor = z if config.focal_gradient or frozen is None else frozen
    return -entropy * focal_factor(factor, target, config)


def align(p: Array, current: Array, wanted: Array, task: str) -> Array:
    up = p * (wanted + 1e-6) / (current + 1e-6)
    if task == "single":
        return up / up.sum(1, keepdims=True)
    down = (1 - p) * (1 - wanted + 1e-6) / (1 - current + 1e-6)
    return up / (up + down)


def inverse(share: Array) -> Array:
    return np.array([0.0 if x == 0 else 1 / x for x in share])


def averaged(state: Array | None, value: Array, momentum: float) -> Array:
    return value if state is None else momentum * state + (1 - momentum) * value


class Reference:
    """What all share; also the `supervised` algorithm.

    Attributes:
        margin: The least distance of anything compared from what it was compared with.
    """

    def __init__(self, config: Any, setting: Any) -> None:
        self.config = config
        self.setting = setting
        self.task: str = setting.task
        self.k: int = setting.classes
        self.margin = np.inf
        self.half = 0.5 if self.task == "multi" else 1 / self.k
        uniform = np.full(self.k, self.half)
        self.frequencies: Array = uniform if setting.frequencies is None else np.asarray(setting.frequencies, float)

    def at_least(self, value: Array, threshold: Any) -> Array:
        """`value >= threshold`; a value that IS the threshold is no near miss."""
        value = np.asarray(value)
        distance = np.abs(value - threshold)
        self.margin = min(self.margin, distance[distance > 0].min(initial=np.inf))
        result: Array = value >= threshold
        return result

    def p(self, z: Array) -> Array:
        return probabilities(z, self.task)

    def hard(self, z: Array) -> Array:
        if self.task == "multi":
            return self.at_least(z, 0.0).astype(float)
        if self.k > 1:
            ordered = np.sort(z, axis=1)
            self.at_least(ordered[:, -1], ordered[:, -2])
        return z.argmax(1)

    def pseudo_labels(self, z: Array) -> Array:
        return self.hard(z) if self.config.hard_labels else self.p(z / self.config.temperature)

    def fixed_mask(self, p: Array) -> Array:
        low, high = self.config.threshold_negative, self.config.threshold_positive
        if self.task == "multi" and low is not None:
            return (~self.at_least(p, low) | self.at_least(p, high)).astype(float)
        return self.at_least(confidence(p, self.task), self.config.threshold).astype(float)

    def believe(self, shown: Shown, step: int) -> Belief | None:
        return None

    def observe(self, out: Outputs, role: str) -> None:
        """State that follows the logits of the losses."""

    def taught(self, y: Array, belief: Belief | None) -> Array:
        y = y.copy()
        if belief is not None and belief.resting is not None:
            y[belief.resting] = -1
        return y

    def losses(
        self, out: Outputs, y: Array, belief: Belief | None, role: str, step: int, frozen: Outputs | None = None
    ) -> dict[str, float]:
        """Without a change of state; `frozen` are the logits of whatever has no gradient."""
        losses = {"supervised": supervised(out.labeled, self.taught(y, belief), self.task)}
        if belief is not None:
            losses["unsupervised"] = self.config.unlabeled_weight * consistency(out.strong, belief, self.task)
        return losses

    def state(self) -> dict[str, Array]:
        return {}
