"""What the field has learned since, in float64; see `reference`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from tests.algorithms.reference import (
    Array,
    Belief,
    Outputs,
    Reference,
    Shown,
    align,
    averaged,
    confidence,
    supervised,
)


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
