"""What a recipe names, built: networks, algorithm, autocast."""

from __future__ import annotations

import torch

from stssl import plugins
from stssl.algorithms.base import Algorithm, Setting, class_frequencies
from stssl.data.dataset import Dataset
from stssl.models.teacher_student import Networks
from stssl.training.recipe import Recipe


def networks_of(recipe: Recipe, channels: int, classes: int, pretrained: bool = True) -> Networks:
    """The recipe's networks with their first weights.

    Args:
        recipe: The recipe.
        channels: Number of bands.
        classes: Number of classes.
        pretrained: Whether weights are loaded where the recipe asks for that; not where others replace them anyway.

    Raises:
        ConfigError: timm refuses the structure.
        CheckpointError: The pretrained weights cannot be had or do not fit.
    """
    model = recipe.model if pretrained else recipe.model.model_copy(update={"pretrained": False})
    return Networks(recipe.framework, model, recipe.encoding, recipe.injection, recipe.distillation, channels, classes)


def algorithm_of(recipe: Recipe, dataset: Dataset) -> Algorithm:
    """The recipe's algorithm, knowing of the data what it may know.

    Raises:
        ConfigError: The algorithm does not fit the data.
    """
    split, classes = dataset.split, len(dataset.classes)
    setting = Setting(
        dataset.task,
        classes,
        class_frequencies(dataset.store.labels[torch.as_tensor(split.labeled)], dataset.task, classes),
        len(split.labeled),
        len(split.unlabeled),
        recipe.training.steps,
        "student" if recipe.framework == "plain" else "teacher",
        recipe.parity == "reference",
    )
    algorithm: Algorithm = plugins.build("stssl.algorithms", Algorithm, recipe.algorithm, setting)
    return algorithm


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.precision == "bfloat16")
