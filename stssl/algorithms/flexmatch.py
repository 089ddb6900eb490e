"""FlexMatch: a lower threshold for classes of which less has been learned."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.algorithms.base import Algorithm, Seen, Setting, Targets
from stssl.algorithms.thresholds import PseudoLabelConfig, confidence, probabilities, pseudo_labels


class FlexMatchConfig(PseudoLabelConfig):
    """`threshold` τ of a class that is learned best; `mapping` M of the others: convex x/(2-x), or linear."""

    name: Literal["flexmatch"] = "flexmatch"
    threshold: float = Field(0.95, ge=0, le=1)
    mapping: Literal["convex", "linear"] = "convex"


class FlexMatch(Algorithm):
    """w = [max p ≥ M(β_ŷ)·τ], β_c = σ_c / max(max_c σ_c, images of which nothing is known yet).

    σ_c counts the unlabeled images whose latest confident prediction (max p ≥ τ) was c; a step's own predictions count from
    the next step on. Multi-label: each class has two outcomes, present and absent, compared with each other.

    Source: Zhang et al., FlexMatch (NeurIPS 2021), equations 5 to 8 and algorithm 1; several labels are ours.
    """

    Config = FlexMatchConfig
    learned: Tensor  # [N] or [N, K] int16: the latest confident prediction for each unlabeled image, -1 = none yet

    def __init__(self, config: FlexMatchConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        shape = (setting.unlabeled,) if setting.task == "single" else (setting.unlabeled, setting.classes)
        self.register_buffer(
            "learned", torch.full(shape, -1, dtype=torch.int16 if setting.task == "single" else torch.int8)
        )

    def believe(self, seen: Seen, step: int) -> Targets:
        c, single = self.config, self.task == "single"
        p = probabilities(seen.weak, self.task)
        sure = confidence(p, self.task)
        guess = p.argmax(dim=1) if single else (p >= 0.5).long()
        beta = self._status()
        level = c.threshold * (beta / (2 - beta) if c.mapping == "convex" else beta)
        weights = (sure >= (level[guess] if single else torch.where(guess == 1, level[1], level[0]))).float()
        self._remember(seen.rows, guess, sure >= c.threshold)
        return Targets(pseudo_labels(seen.weak, self.task, c), weights)

    def _remember(self, rows: Tensor, guess: Tensor, confident: Tensor) -> None:
        """Keep each image's latest confident guess; of an image that a batch holds twice, the last confident one."""
        order = torch.arange(len(rows), device=rows.device)
        same = torch.full((len(self.learned),), -1, device=rows.device).scatter_reduce_(0, rows, order, "amax")[rows]
        order, same = (t.view(-1, *[1] * (guess.ndim - 1)).expand_as(guess) for t in (order, same))
        last = torch.full_like(guess, -1).scatter_reduce_(0, same, torch.where(confident, order, -1), "amax")
        last = last.gather(0, same)
        latest = guess.gather(0, last.clamp(min=0)).to(self.learned.dtype)
        self.learned[rows] = torch.where(last >= 0, latest, self.learned[rows])

    def _status(self) -> Tensor:
        """β: [K], or [2, K] of absence and presence."""
        if self.task == "single":
            counts = torch.zeros(self.classes + 1, dtype=torch.int64, device=self.learned.device)
            # bincount would make a GPU wait
            counts.scatter_add_(0, self.learned.long() + 1, torch.ones_like(self.learned, dtype=torch.int64))
            unknown, counts = counts[0], counts[1:]
        else:
            counts = torch.stack([(self.learned == outcome).sum(0) for outcome in (0, 1)])
            unknown = len(self.learned) - counts.sum(0)
        most = torch.maximum(counts.amax(0), unknown)
        return counts / most.clamp(min=1)
