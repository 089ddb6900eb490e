"""`evaluate`: a trained network on a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from stssl.cli.common import Device, out, pick_device


def evaluate(
    folder: Annotated[
        Path | None, typer.Argument(metavar="STUDENT", help="An exported student, or a folder made by `train`.")
    ] = None,
    split: Annotated[str, typer.Option(help="validation, test, holdout or validation_full.")] = "validation",
    shards: Annotated[str | None, typer.Option(help="Other shards than the recipe's own.")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    reference_checkpoint: Annotated[
        Path | None, typer.Option(help="Instead of STUDENT: model_best.pth of the reference project.")
    ] = None,
    reference_config: Annotated[Path | None, typer.Option(help="The YAML file it was trained with.")] = None,
    role: Annotated[
        Literal["teacher", "student"] | None, typer.Option(help="Which network of a reference checkpoint.")
    ] = None,
) -> None:
    """Score a student on a split of its data.

    Look at the test split once, at the end: a choice made on it spoils it.

    Example: `python launch.py evaluate runs/demo/best --split test`, or `python launch.py evaluate --reference-checkpoint
    model_best.pth --reference-config config/bigearthnet/stssl_fixmatch0.01.yaml --split test`
    """
    from stssl.errors import ConfigError, RunError
    from stssl.export import bundle
    from stssl.reference.evaluate import evaluate as evaluate_reference
    from stssl.training import deployed
    from stssl.training.evaluate import Diverged

    if (folder is None) == (reference_checkpoint is None):
        raise ConfigError("give either a STUDENT or --reference-checkpoint FILE with --reference-config FILE")
    if (reference_checkpoint is None) != (reference_config is None) or (role and reference_checkpoint is None):
        raise ConfigError("--reference-checkpoint and --reference-config go together, and --role goes with them alone")
    device = pick_device(device)
    try:
        if reference_checkpoint is not None and reference_config is not None:
            result = evaluate_reference(reference_checkpoint, reference_config, split, shards, role, device)
        elif folder is not None and (folder / bundle.WEIGHTS).exists():
            result = bundle.evaluate(folder, shards, split, device)
        elif folder is not None and (folder / "checkpoint.pt").exists():
            trained, correction = deployed.load(folder, shards, device)
            result = trained.evaluate(split, correction)
        else:
            assert folder is not None
            hint = f"; did you mean {folder / 'best'}?" if (folder / "best" / bundle.WEIGHTS).exists() else ""
            raise RunError(
                f"{folder}: holds neither an exported student ({bundle.WEIGHTS}) nor a training (checkpoint.pt){hint}"
            )
    except Diverged as error:
        raise RunError(f"{folder or reference_checkpoint}: {error}, so there is nothing to score") from None
    _show(result, split, as_json)


def _show(result: dict[str, float], split: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"split": split, **result}))
        return
    for name, value in result.items():
        out.print(f"{name:20} {value:g}" if isinstance(value, int) else f"{name:20} {value:.4f}")
