"""`evaluate`: a trained network on a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stssl.cli.common import Device, out, pick_device


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="STUDENT", help="An exported student, or a folder made by `train`.")
    ],
    split: Annotated[str, typer.Option(help="validation, test, holdout or validation_full.")] = "validation",
    shards: Annotated[str | None, typer.Option(help="Other shards than the recipe's own.")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a student on a split of its data.

    Look at the test split once, at the end: a choice made on it spoils it.

    Example: `python launch.py evaluate runs/demo/best --split test`
    """
    from stssl.data.dataset import Dataset
    from stssl.data.store import ImageStore
    from stssl.errors import RunError
    from stssl.export import bundle
    from stssl.training import checkpoint
    from stssl.training.recipe import Recipe
    from stssl.training.trainer import Trainer

    if (folder / bundle.WEIGHTS).exists():
        result = bundle.evaluate(folder, shards, split, pick_device(device))
    elif (folder / "checkpoint.pt").exists() and (folder / "recipe.yaml").exists():
        recipe = Recipe.read(folder / "recipe.yaml")
        device = pick_device(device)
        trainer = Trainer(recipe, Dataset(recipe.data, ImageStore.open(shards or recipe.data.shards)), device)
        state = checkpoint.load(folder / "checkpoint.pt", device)
        if shards:  # other data are asked for
            state["fingerprint"] = trainer.dataset.store.card.fingerprint
        trainer.load_state_dict(state, str(folder / "checkpoint.pt"))
        result = trainer.evaluate(split)
    else:
        hint = f"; did you mean {folder / 'best'}?" if (folder / "best" / bundle.WEIGHTS).exists() else ""
        raise RunError(
            f"{folder}: holds neither an exported student ({bundle.WEIGHTS}) nor a training (checkpoint.pt){hint}"
        )
    if as_json:
        print(json.dumps({"split": split, **result}))
        return
    for name, value in result.items():
        out.print(f"{name:20} {value:g}" if isinstance(value, int) else f"{name:20} {value:.4f}")
