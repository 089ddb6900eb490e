"""Predictions on labeled images that have not been learned from of late, for what is fitted on them. No algorithm of its own.

A network is surer, and more often right, on images whose labels it has learned than on others, so thresholds and weights that
are fitted on its own training labels promise too much. Here the labeled images are dealt into folds that take turns: for
`rest_steps` steps one fold teaches nothing, and its predictions are recorded; then it is the next one's turn. What is fitted on
the record of all folds uses every label, and each prediction comes from a network that had not seen that label for a while.
(Before its first turn it did see it, so what it remembers of that still counts; the last prediction of a turn is the one
that stays.)
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stssl.algorithms.base import SemiSupervisedConfig, Setting
from stssl.errors import ConfigError


class CrossfitConfig(SemiSupervisedConfig):
    """Labeled images in `folds` that rest in turn, `rest_steps` each; 0 folds: none rests, all are recorded.

    What is fitted knows of all labels only after `folds` · `rest_steps` steps.
    """

    folds: int = Field(5, ge=0, le=100)
    rest_steps: int = Field(200, ge=1, le=10**9)

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds 1 would rest every labeled image for ever; use 0 (no cross-fitting), or 2 or more")
        return self


class Crossfit(nn.Module):
    """The record: for each labeled image the latest probabilities, and its labels.

    Args:
        config: Folds.
        setting: Of the algorithm.

    Raises:
        ConfigError: Fewer labeled images than folds.
    """

    # whose turn each labeled image rests in, [L]: dealt at random, as pools often lie in the order of their classes
    fold: Tensor
    p: Tensor  # [L, K], -1 = nothing recorded yet
    y: Tensor  # [L, K] 0, 1, or -1 = unknown

    def __init__(self, config: CrossfitConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.task = config, setting.task
        if config.folds > setting.labeled:
            raise ConfigError(
                f"algorithm.folds: {config.folds} folds for {setting.labeled} labeled images; lower it, or use 0"
            )
        order = torch.randperm(setting.labeled, generator=torch.Generator().manual_seed(0))
        self.register_buffer("fold", order % max(config.folds, 1))
        shape = (setting.labeled, setting.classes)
        self.register_buffer("p", torch.full(shape, -1.0))
        self.register_buffer("y", torch.full(shape, -1, dtype=torch.int8))

    def update(self, p: Tensor, y: Tensor, rows: Tensor, step: int) -> Tensor | None:
        """Record a batch of labeled images.

        Args:
            p: [B, K] probabilities.
            y: [B] int64 or [B, K] float, -1 = unknown.
            rows: [B] members of the labeled pool.
            step: Number of finished optimizer steps.

        Returns:
            [B] bool, which images rest in this step; None without folds.
        """
        resting = None
        if self.config.folds:
            resting = self.fold[rows] == step // self.config.rest_steps % self.config.folds
        if self.task == "single":
            hot = torch.where((y >= 0)[:, None], (y[:, None] == torch.arange(self.p.shape[1], device=y.device)), -1)
        else:
            hot = y
        keep = torch.ones_like(rows, dtype=torch.bool) if resting is None else resting
        # an image that a batch holds twice: its last place counts, in whatever order a device writes
        places = torch.full((len(self.p),), -1, device=rows.device)
        places.scatter_reduce_(0, rows, torch.arange(len(rows), device=rows.device), "amax")
        last = places[rows]
        self.p[rows] = torch.where(keep[:, None], p, self.p[rows])[last]
        self.y[rows] = torch.where(keep[:, None], hot.to(self.y.dtype), self.y[rows])[last]
        return resting

    @property
    def known(self) -> Tensor:
        """[L, K] bool: entries with a prediction and a label."""
        return (self.p >= 0) & (self.y >= 0)
