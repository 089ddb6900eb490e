"""The algorithms once more, in float64, one row and one class at a time where that is clearer.

Written from the formulas of the docstrings and papers alone, not from the product's code, which is held against them.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
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


class FixMatch(Reference):
    def believe(self, shown: Shown, step: int) -> Belief:
        return Belief(self.pseudo_labels(shown.weak), self.fixed_mask(self.p(shown.weak)))


class DeFixMatch(FixMatch):
    def believe(self, shown: Shown, step: int) -> Belief:
        anti = Belief(self.pseudo_labels(shown.labeled), self.fixed_mask(self.p(shown.labeled)))
        return super().believe(shown, step)._replace(labeled=anti)

    def losses(
        self, out: Outputs, y: Array, belief: Belief | None, role: str, step: int, frozen: Outputs | None = None
    ) -> dict[str, float]:
        assert belief is not None and belief.labeled is not None
        losses = super().losses(out, y, belief, role, step)
        losses["supervised"] = (
            supervised(out.labeled, y, self.task) + supervised(out.labeled_strong, y, self.task)
        ) / 2
        entries = belief.labeled.weights * cross_entropy(out.labeled_strong, belief.labeled.labels, self.task)
        losses["debiasing"] = -self.config.unlabeled_weight * mean_of_known(entries, y >= 0)
        return losses


class FreeMatch(Reference):
    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        self.t: Array = np.full(() if self.task == "single" else (self.k,), self.half)
        self.mean_p = np.full(self.k, self.half)
        self.histogram = np.full(self.k, self.half)

    def shares(self, z: Array) -> Array:
        """Share of rows predicted as each class."""
        hard = self.hard(z)
        return hard.mean(0) if self.task == "multi" else np.array([(hard == k).mean() for k in range(self.k)])

    def believe(self, shown: Shown, step: int) -> Belief:
        m, z = self.config.momentum, shown.weak
        p = self.p(z)
        sure = confidence(p, self.task)
        if self.task == "single":
            ordered = np.sort(sure)
            place = 0.8 * (len(ordered) - 1)
            below = ordered[int(place)]
            above = ordered[min(int(place) + 1, len(ordered) - 1)]
            level = below + (above - below) * (place - int(place)) if self.config.quantile else sure.mean()
        else:
            level = sure.mean(0)
        self.t = m * self.t + (1 - m) * level
        if self.config.clip:
            self.t = np.clip(self.t, 0.0, 0.95)
        self.mean_p = m * self.mean_p + (1 - m) * p.mean(0)
        self.histogram = m * self.histogram + (1 - m) * self.shares(z)
        if self.task == "single":
            threshold = self.t * self.mean_p[self.hard(z)] / self.mean_p.max()
        else:
            side = np.where(self.hard(z) == 1, self.mean_p, 1 - self.mean_p)
            threshold = self.t * side / np.maximum(self.mean_p, 1 - self.mean_p)
        return Belief(self.pseudo_labels(z), self.at_least(sure, threshold).astype(float))

    def fairness(self, strong: Array, mask: Array) -> float:
        if self.task == "single":
            passed = strong[mask > 0]
            if not len(passed):
                return 0.0
            a = self.mean_p * inverse(self.histogram)
            b = self.p(passed).mean(0) * inverse(self.shares(passed))
            return float((a / a.sum() * np.log(b / b.sum() + 1e-12)).sum())
        total = 0.0
        for k in range(self.k):
            passed = strong[mask[:, k] > 0, k]
            if not len(passed):
                total += np.nan if self.setting.parity else 0.0
                continue
            share = np.array([self.at_least(passed, 0.0).mean()])
            if share[0] in (0, 1) and not self.setting.parity:
                continue
            h = self.histogram[k : k + 1]
            a1 = (self.mean_p[k] * inverse(h))[0]
            a0 = ((1 - self.mean_p[k]) * inverse(1 - h))[0]
            b1 = (sigmoid(passed).mean() * inverse(share))[0]
            b0 = (sigmoid(-passed).mean() * inverse(1 - share))[0]
            a = a1 / (a1 + a0)
            total += a * np.log(b1 / (b1 + b0) + 1e-12) + (1 - a) * np.log(b0 / (b1 + b0) + 1e-12)
        return total

    def losses(
        self, out: Outputs, y: Array, belief: Belief | None, role: str, step: int, frozen: Outputs | None = None
    ) -> dict[str, float]:
        assert belief is not None
        losses = super().losses(out, y, belief, role, step)
        if step < self.config.warmup_steps:
            return {"supervised": losses["supervised"]}
        if self.config.fairness_weight:
            losses["fairness"] = self.config.fairness_weight * self.fairness(out.strong, belief.weights)
        return losses

    def state(self) -> dict[str, Array]:
        return {"confidence": self.t, "mean_p": self.mean_p, "histogram": self.histogram}


class SoftMatch(Reference):
    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        self.wanted = np.full(self.k, self.half)
        if config.alignment == "labeled" and self.task == "multi":
            self.wanted = self.frequencies
        shape: tuple[int, ...] = () if self.task == "single" else (2, self.k) if config.per_class else (self.k,)
        self.mean: Array = np.full(shape, self.half)
        self.variance: Array = np.ones(shape)
        self.mean_p: Array | None = None

    def moved(self, at: Any, values: Array) -> None:
        """Average in the mean and the variance of `values` at one place of the state."""
        m = self.config.momentum
        if len(values) >= 2:
            mean, variance = values.mean(), ((values - values.mean()) ** 2).sum() / (len(values) - 1)
        elif self.setting.parity:
            mean, variance = 0.0, 1.0
        else:
            return
        self.mean[at] = m * self.mean[at] + (1 - m) * mean
        self.variance[at] = m * self.variance[at] + (1 - m) * variance

    def believe(self, shown: Shown, step: int) -> Belief:
        m, p = self.config.momentum, self.p(shown.weak)
        aligned = p
        if self.config.alignment != "none":
            self.mean_p = averaged(self.mean_p, p.mean(0), m)
            if self.config.alignment == "labeled" and self.task == "single":
                self.wanted = m * self.wanted + (1 - m) * self.p(shown.labeled).mean(0)
            aligned = align(p, self.mean_p, self.wanted, self.task)
        sure = confidence(aligned, self.task)
        if self.task == "single":
            self.moved((), sure)
            mean, variance = np.full_like(sure, self.mean), np.full_like(sure, self.variance)
        elif self.config.per_class:
            side = self.at_least(aligned, 0.5).astype(int)
            for k in range(self.k):
                for s in (0, 1):
                    self.moved((s, k), sure[side[:, k] == s, k])
            mean, variance = (np.where(side == 1, x[1], x[0]) for x in (self.mean, self.variance))
        else:
            for k in range(self.k):
                self.moved(k, sure[:, k])
            mean, variance = np.broadcast_to(self.mean, p.shape), np.broadcast_to(self.variance, p.shape)
        weights = np.exp(-(np.minimum(sure - mean, 0) ** 2) * self.config.n_sigma**2 / (2 * variance))
        return Belief(self.pseudo_labels(shown.weak), weights)

    def state(self) -> dict[str, Array]:
        state = {"mean": self.mean, "variance": self.variance, "wanted": self.wanted}
        return state if self.mean_p is None else state | {"mean_p.value": self.mean_p}


class Udal(Reference):
    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        labeled = config.target == "labeled" and self.task == "multi"
        self.wanted = self.frequencies if labeled else np.full(self.k, self.half)
        self.own: dict[str, Array | None] = {"believer": None, "other": None}

    def believe(self, shown: Shown, step: int) -> Belief:
        m = self.config.momentum
        self.own["believer"] = averaged(self.own["believer"], self.p(shown.weak).mean(0), m)
        if self.config.target == "labeled" and self.task == "single":
            self.wanted = m * self.wanted + (1 - m) * self.p(shown.labeled).mean(0)
        return Belief(self.pseudo_labels(shown.weak), self.fixed_mask(self.p(shown.weak)))

    def observe(self, out: Outputs, role: str) -> None:
        if role != self.setting.believer:
            self.own["other"] = averaged(self.own["other"], self.p(out.strong).mean(0), self.config.momentum)

    def offset(self, d: Array, step: int) -> Array:
        floor = 0.0 if self.setting.parity else 1e-6
        wanted, d = np.maximum(self.wanted, floor), np.maximum(d, floor)
        alpha = 1 - (1 - self.config.alpha_min) * (step / self.setting.steps) ** self.config.power
        rest = (1 - wanted) ** alpha if self.task == "multi" else (wanted**alpha).sum() - wanted**alpha
        smooth = wanted**alpha / (wanted**alpha + rest)
        with np.errstate(divide="ignore"):
            return np.log(d / (smooth + 1e-9))

    def losses(
        self, out: Outputs, y: Array, belief: Belief | None, role: str, step: int, frozen: Outputs | None = None
    ) -> dict[str, float]:
        own = self.own["believer" if role == self.setting.believer or self.setting.parity else "other"]
        assert belief is not None and own is not None
        labeled = out.labeled + self.offset(self.wanted, step)
        strong = out.strong + self.offset(own, step)
        return super().losses(out._replace(labeled=labeled, strong=strong), y, belief, role, step)

    def state(self) -> dict[str, Array]:
        state = {"wanted": self.wanted}
        if self.own["believer"] is not None:
            state["mean_p.value"] = self.own["believer"]
        if self.own["other"] is not None and not self.setting.parity:
            state["mean_p_student.value"] = self.own["other"]
        return state


class Cdmad(Reference):
    def believe(self, shown: Shown, step: int) -> Belief:
        assert shown.blank is not None
        bias = shown.blank if step >= self.config.debias_start else np.zeros((1, self.k))
        p = self.p(shown.weak - bias)
        return Belief(p, self.fixed_mask(p))


class Cap(Reference):
    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        self.queue: deque[Array] = deque(maxlen=config.queue_size)

    def quantile(self, column: list[float], share: float) -> float:
        """Element floor(n·share); a product that is whole but for rounding is whole."""
        n = len(column)
        place, whole = n * share, round(n * share)
        if abs(place - whole) > 1e-12 * n:
            self.margin = min(self.margin, abs(place - whole))
            whole = int(np.floor(place))
        return sorted(column)[min(max(whole, 0), n - 1)]

    def believe(self, shown: Shown, step: int) -> Belief:
        p = self.p(shown.weak)
        self.queue.extend(p)
        labels, weights = np.zeros_like(p), np.zeros_like(p)
        for k, share in enumerate(self.frequencies):
            column = [float(row[k]) for row in self.queue]
            low = self.quantile(column, self.config.negative_share * (1 - share))
            weights[:, k] = ~self.at_least(p[:, k], low) | (p[:, k] == low)
            if share > 0 or self.setting.parity:
                labels[:, k] = self.at_least(p[:, k], self.quantile(column, 1 - share))
                high = self.quantile(column, 1 - self.config.positive_share * share)
                weights[:, k] = np.maximum(weights[:, k], self.at_least(p[:, k], high))
        return Belief(labels, weights)

    def entries(self, z: Array, target: Array, frozen: Array | None) -> Array:
        if not self.config.asymmetric:
            return cross_entropy(z, target, "multi")
        return asymmetric(z, target, self.config, frozen)

    def losses(
        self, out: Outputs, y: Array, belief: Belief | None, role: str, step: int, frozen: Outputs | None = None
    ) -> dict[str, float]:
        assert belief is not None
        labeled = self.entries(out.labeled, np.maximum(y, 0), frozen and frozen.labeled)
        strong = self.entries(out.strong, belief.labels, frozen and frozen.strong)
        mean = (belief.weights * strong).sum() / (belief.weights.sum() + 1e-8)
        return {
            "supervised": mean_of_known(labeled, y >= 0),
            "unsupervised": float(self.config.unlabeled_weight * mean),
        }


class FlexMatch(Reference):
    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        classes = 1 if self.task == "single" else self.k
        self.learned = np.full((setting.unlabeled, classes), -1)

    def believe(self, shown: Shown, step: int) -> Belief:
        p, hard = self.p(shown.weak), self.hard(shown.weak)
        sure, hard = (x.reshape(len(p), -1) for x in (confidence(p, self.task), hard))
        outcomes = range(self.k if self.task == "single" else 2)
        weights = np.zeros(sure.shape)
        for j in range(sure.shape[1]):
            counts = [int((self.learned[:, j] == c).sum()) for c in outcomes]
            most = max(*counts, self.setting.unlabeled - sum(counts)) if counts else 0
            for i in range(len(p)):
                beta = counts[int(hard[i, j])] / most
                mapped = beta / (2 - beta) if self.config.mapping == "convex" else beta
                weights[i, j] = self.at_least(sure[i, j], mapped * self.config.threshold)
        confident = self.at_least(sure, self.config.threshold)
        for i, row in enumerate(shown.rows):
            for j in range(sure.shape[1]):
                if confident[i, j]:
                    self.learned[row, j] = hard[i, j]
        return Belief(self.pseudo_labels(shown.weak), weights[:, 0] if self.task == "single" else weights)

    def state(self) -> dict[str, Array]:
        return {"learned": self.learned[:, 0] if self.task == "single" else self.learned}


class AdaMatch(Reference):
    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        self.labeled_p: Array | None = None
        self.unlabeled_p: Array | None = None

    def believe(self, shown: Shown, step: int) -> Belief:
        p, labeled = self.p(shown.weak), self.p(shown.labeled)
        self.labeled_p = averaged(self.labeled_p, labeled.mean(0), self.config.momentum)
        self.unlabeled_p = averaged(self.unlabeled_p, p.mean(0), self.config.momentum)
        aligned = align(p, self.unlabeled_p, self.labeled_p, self.task)
        threshold = self.config.threshold * confidence(labeled, self.task).mean(0)
        weights = self.at_least(confidence(aligned, self.task), threshold).astype(float)
        if not self.config.hard_labels:
            return Belief(aligned, weights)
        if self.task == "multi":
            return Belief(self.at_least(aligned, 0.5).astype(float), weights)
        return Belief(self.hard(aligned), weights)

    def losses(
        self, out: Outputs, y: Array, belief: Belief | None, role: str, step: int, frozen: Outputs | None = None
    ) -> dict[str, float]:
        losses = super().losses(out, y, belief, role, step)
        losses["supervised"] += supervised(out.labeled_strong, y, self.task)  # the sum: Berthelot et al., L_source
        if self.config.rampup:
            losses["unsupervised"] *= 0.5 - np.cos(min(np.pi, 2 * np.pi * step / self.setting.steps)) / 2
        return losses

    def state(self) -> dict[str, Array]:
        assert self.labeled_p is not None and self.unlabeled_p is not None
        return {"labeled_p.value": self.labeled_p, "unlabeled_p.value": self.unlabeled_p}


class Crossfitted(Reference):
    """The record of labeled predictions; subclasses fit something on it."""

    fold: Array  # who rests with whom is drawn, so the test hands it over

    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        self.record: dict[int, tuple[Array, Array]] = {}

    def note(self, shown: Shown, step: int) -> Array | None:
        """Record what rests; say what does."""
        p, folds = self.p(shown.labeled), self.config.folds
        turn = step // self.config.rest_steps % folds if folds else 0
        resting = self.fold[shown.labeled_rows] == turn if folds else np.ones(len(p), bool)
        for i in np.flatnonzero(resting):
            y = shown.y[i]
            row = y if self.task == "multi" else np.full(self.k, -1) if y < 0 else np.eye(self.k)[int(y)]
            self.record[int(shown.labeled_rows[i])] = (p[i], row)
        return resting if folds else None

    def state(self) -> dict[str, Array]:
        p, y = np.full((self.setting.labeled, self.k), np.nan), np.full((self.setting.labeled, self.k), -1.0)
        for row, (its_p, its_y) in self.record.items():
            p[row], y[row] = its_p, its_y
        return {"record.p": p, "record.y": y}


class MetricThreshold(Crossfitted):
    def grid(self) -> list[float]:
        return [i / self.config.levels for i in range(self.config.levels)]

    def threshold(self, k: int) -> float:
        """Brute force: the F_β of every threshold of the grid, as a fraction."""
        known = [(p, y[k]) for p, y in self.record.values() if y[k] >= 0]
        if not any(y == 1 for _, y in known):
            return float(self.config.fallback)
        beta = Fraction(self.config.beta) ** 2
        best, at = Fraction(-1), 0.0
        for level in self.grid():
            tp = fp = fn = 0
            for p, y in known:
                said = bool(self.at_least(p[k], level)) and (self.task == "multi" or p.argmax() == k)
                tp, fp, fn = tp + (said and y == 1), fp + (said and y == 0), fn + (not said and y == 1)
            total = (1 + beta) * tp + beta * fn + fp
            score = (1 + beta) * tp / total if total else Fraction(0)
            if score > best:
                best, at = score, level
        return at

    def believe(self, shown: Shown, step: int) -> Belief:
        resting = self.note(shown, step)
        p = self.p(shown.weak)
        thresholds = np.array([self.threshold(k) for k in range(self.k)])
        if self.task == "multi":
            return Belief(self.at_least(p, thresholds).astype(float), np.ones_like(p), resting=resting)
        hard = self.hard(shown.weak)
        weights = self.at_least(p.max(1), thresholds[hard]).astype(float)
        return Belief(hard, weights, resting=resting)


class PrecisionWeight(Crossfitted):
    def bin_of(self, p: float) -> int:
        place = p * self.config.bins
        self.margin = min(self.margin, abs(place - round(place)))
        return min(int(place), self.config.bins - 1)

    def counted(self) -> list[tuple[int, int, bool]]:
        """Class, bin and whether the prediction is right, of every known entry of the record."""
        entries = []
        for p, y in self.record.values():
            if self.task == "multi":
                entries += [(k, self.bin_of(p[k]), (p[k] >= 0.5) == (y[k] == 1)) for k in range(self.k) if y[k] >= 0]
            elif y[0] >= 0:
                k = int(p.argmax())
                entries.append((k, self.bin_of(p[k]), y[k] == 1))
        return entries

    def precision(self, k: int, b: int, entries: list[tuple[int, int, bool]]) -> float:
        m = self.config.prior
        middle = (b + 0.5) / self.config.bins
        sure = max(middle, 1 - middle) if self.task == "multi" else middle
        right, n = (sum(r for _, at, r in entries if at == b), sum(at == b for _, at, _ in entries))
        overall = (right + m * sure) / (n + m)
        right = sum(r for c, at, r in entries if (c, at) == (k, b))
        n = sum((c, at) == (k, b) for c, at, _ in entries)
        return float((right + m * overall) / (n + m))

    def believe(self, shown: Shown, step: int) -> Belief:
        resting = self.note(shown, step)
        entries = self.counted()
        p, hard = self.p(shown.weak), self.hard(shown.weak)
        if self.task == "multi":
            weights = np.array([[self.precision(k, self.bin_of(x), entries) for k, x in enumerate(row)] for row in p])
        else:
            weights = np.array(
                [self.precision(int(k), self.bin_of(row[k]), entries) for row, k in zip(p, hard, strict=True)]
            )
        return Belief(hard, np.where(self.at_least(weights, self.config.threshold), weights, 0), resting=resting)


REFERENCES: dict[str, type[Reference]] = {
    "supervised": Reference,
    "fixmatch": FixMatch,
    "defixmatch": DeFixMatch,
    "freematch": FreeMatch,
    "softmatch": SoftMatch,
    "udal": Udal,
    "cdmad": Cdmad,
    "cap": Cap,
    "flexmatch": FlexMatch,
    "adamatch": AdaMatch,
    "metric_threshold": MetricThreshold,
    "precision_weight": PrecisionWeight,
}
