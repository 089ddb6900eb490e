"""Labeled images only: the baseline that every semi-supervised recipe must beat."""

from __future__ import annotations

from typing import Literal

from stssl.algorithms.base import Algorithm, AlgorithmConfig


class SupervisedConfig(AlgorithmConfig):
    """No settings: unlabeled images are not used."""

    name: Literal["supervised"] = "supervised"


class Supervised(Algorithm):
    """Mean cross-entropy on labeled images."""

    Config = SupervisedConfig
    uses_unlabeled = False
