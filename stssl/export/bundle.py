"""The bundle: recipe.yaml, student.safetensors, model.json, README.md (the model card).

The student needs no class of ours: `timm.create_model(**model["timm"])`, then `load_state_dict(strict=True)`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stssl import config as cfg
from stssl.data.augment import Views
from stssl.errors import CheckpointError, RunError, is_out_of_memory, short_repr
from stssl.export.card import model_card
from stssl.files import atomic_path, check_file, write_text
from stssl.models.backbone import STRUCTURE
from stssl.models.families import family_named
from stssl.training.deployed import data_like
from stssl.training.evaluate import evaluate as score
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer

RECIPE, WEIGHTS, MODEL, CARD = "recipe.yaml", "student.safetensors", "model.json", "README.md"


def write(trainer: Trainer, folder: Path, origin: str, facts: list[str]) -> None:
    """Write a bundle; the folder appears whole or not at all, and replaces an earlier bundle.

    Args:
        trainer: A trained recipe with a student; the moving average of its weights is exported.
        folder: Where to.
        origin: One line for the card: what made these weights.
        facts: More lines for the card, such as scores.

    Raises:
        RunError: The recipe has no student, or the folder holds something else.
    """
    networks = trainer.ema.module
    if networks.student is None:
        raise RunError(
            "framework metadata_input trains no network that sees the image alone, so there is no student to export; "
            "choose a trial of framework plain or teacher_student"
        )
    if folder.is_symlink():
        raise RunError(f"{folder}: is a symbolic link, which is not replaced; choose another folder")
    if folder.exists():
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
        if there and (WEIGHTS not in there or there - {RECIPE, WEIGHTS, MODEL, CARD}):
            raise RunError(f"{folder}: exists and is no bundle, or holds more than one; choose another folder")
    dataset, recipe = trainer.dataset, trainer.recipe
    model = {
        "format": 1,
        "timm": networks.timm_arguments,
        "classes": list(dataset.classes),
        "task": dataset.task,
        "bands": list(dataset.bands),
        "image_size": recipe.model.image_size,
        # pixel -> network input, for each band: clip((x - (mean - 2 std)) / (4 std), 0, 1), then (y - 0.5) / 0.25
        "band_mean": dataset.mean.tolist(),
        "band_std": torch.where(dataset.std > 0, dataset.std, 0.25).tolist(),  # a constant band: as Views has it
        "recipe": recipe.digest(),
        "data": {"name": dataset.store.card.name, "fingerprint": dataset.store.card.fingerprint},
        "step": trainer.step,
    }
    weights = _weights(trainer)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name[:50]}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        with atomic_path(temporary / WEIGHTS) as path:
            save_file(weights, path)
        write_text(temporary / RECIPE, cfg.dump_yaml(recipe.dump()))
        write_text(temporary / MODEL, json.dumps(model, indent=2) + "\n")
        write_text(temporary / CARD, model_card(model, recipe, dataset, origin, facts))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The student's, with what the algorithm adds to its logits in the bias of its head."""
    student = trainer.ema.module.student
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.backbone.state_dict().items()}
    correction = trainer.correction()
    if correction is not None:
        head = student.backbone.get_classifier()
        if getattr(head, "bias", None) is None:
            raise RunError(
                f"algorithm {trainer.recipe.algorithm.name} corrects the student's logits, and the head of model "
                f"{trainer.recipe.model.name} has no bias to take that in; choose another model or algorithm"
            )
        name = next(name for name, parameter in student.backbone.named_parameters() if parameter is head.bias)
        weights[name] = weights[name] + correction[0].cpu()
    return weights


def load(folder: Path) -> tuple[nn.Module, dict[str, Any], Recipe]:
    """Load a bundle's student.

    Returns:
        The timm model in evaluation mode, the contents of model.json, and the recipe.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the others.
    """
    try:
        for name, most in ((MODEL, 16 << 20), (WEIGHTS, None)):
            check_file(folder / name, most)
        model = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        network = timm.create_model(**_harmless(model["timm"]))
        network.load_state_dict(load_file(folder / WEIGHTS), strict=True)
        recipe = Recipe.read(folder / RECIPE)
        _ = [model[key] for key in ("classes", "task", "bands", "image_size", "band_mean", "band_std")]
        _ = model["data"]["fingerprint"]
    except PermissionError:
        raise  # which says nothing of what is in it
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(f"{folder}: not a whole bundle ({reason}); export it again") from None
    return network.eval(), model, recipe


def _harmless(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `timm.create_model` that make a network; others would load weights from anywhere.

    Raises:
        ValueError: There is another one, or the model is of no known family.
    """
    if not isinstance(arguments, dict):
        raise ValueError(f"{MODEL}: timm: expected a mapping, got {short_repr(arguments)}")
    numbers = {"img_size", "in_chans", "num_classes", "reg_tokens", "num_reg_tokens", *STRUCTURE}
    for key, value in arguments.items():
        if key == "model_name":
            fine = isinstance(value, str) and family_named(value) is not None
        else:
            fine = key in numbers and type(value) is int
        if not fine:
            raise ValueError(f"{MODEL}: timm.{key}: {short_repr(value)} is not what an export writes")
    return arguments


def evaluate(folder: Path, shards: str | None, split: str, device: str = "cpu") -> dict[str, float]:
    """Score a bundle's student on a split of its own data or of other shards with the same classes and bands.

    Args:
        folder: The bundle.
        shards: Other shards; None = the recipe's own.
        split: Such as `validation` or `test`, cut as the recipe cuts it.
        device: Where to compute.

    Raises:
        ConfigError: Other classes, or a band that the shards lack.
    """
    network, model, recipe = load(folder)
    dataset = data_like(
        recipe.data, shards, model["task"], model["classes"], tuple(model["bands"]), model["data"]["fingerprint"]
    )
    mean, std = torch.tensor(model["band_mean"]), torch.tensor(model["band_std"])
    views = Views(recipe.views, mean, std, dataset.bands, model["image_size"], torch.device(device))
    network.to(device)
    parity = recipe.parity == "reference"
    return score(lambda batch: network(views.normalise(batch.images.to(device))), dataset, split, parity=parity)
