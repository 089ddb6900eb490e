"""The algorithms of the paper in float64; see `reference`."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from tests.algorithms.reference import (
    Array,
    Belief,
    Outputs,
    Reference,
    Shown,
    align,
    asymmetric,
    averaged,
    confidence,
    cross_entropy,
    inverse,
    mean_of_known,
    sigmoid,
    supervised,
)


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
