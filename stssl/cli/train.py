"""`train`: one recipe, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stssl.cli.common import Device, DryRun, Set, errors, note_absent, out, pick_device, progress, resolve_paths


def train(
    recipe_file: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe as YAML.")] = None,
    reference_config: Annotated[
        Path | None, typer.Option(help="Instead of RECIPE: a YAML file of the reference project's config/ folder.")
    ] = None,
    shards: Annotated[str | None, typer.Option(help="The prepared data; short for --set data.shards=.")] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="Folder for the results. [default: runs/train-RECIPE-HASH]")
    ] = None,
    set_: Set = [],  # noqa: B006
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Train one recipe. Run the same command again after an interruption: it goes on at the last checkpoint.

    Example: `python launch.py train search_spaces/recipes/eurosat.yaml --set training.steps=10240`, or
    `python launch.py train --reference-config config/bigearthnet/stssl_fixmatch0.01.yaml --shards runs/data/bigearthnet`
    """
    import json

    from stssl import config as cfg
    from stssl.analysis import quality
    from stssl.data.dataset import Dataset
    from stssl.errors import ConfigError, RunError
    from stssl.export import bundle
    from stssl.files import write_text
    from stssl.lines import located
    from stssl.reference import config as reference
    from stssl.reference.recipe import check_data, notes, recipe_data
    from stssl.training import checkpoint
    from stssl.training.evaluate import Diverged
    from stssl.training.recipe import PLUGINS, Recipe, read_data
    from stssl.training.trainer import Trainer

    file = recipe_file or reference_config
    if file is None or (recipe_file and reference_config):
        raise ConfigError("give either a RECIPE or --reference-config FILE")
    theirs = reference.read(file) if reference_config else None
    overrides = {**({"data.shards": shards} if shards else {}), **cfg.parse_set(set_)}
    with located(file, overrides):
        data = cfg.with_overrides(recipe_data(theirs) if theirs else read_data(file), overrides, plugins=PLUGINS)
        resolve_paths(data)
        recipe = cfg.validate(Recipe, data, f"{file}, read as a recipe" if theirs else str(file))
    device = pick_device(device)
    target = target or Path("runs") / f"train-{file.stem}-{recipe.digest()[:6]}"
    if theirs:
        for note in notes(theirs, overrides):
            errors.print(f"note: {note}")
    dataset = Dataset.open(recipe.data)
    if theirs:
        check_data(theirs, dataset, file)
    trainer = Trainer(recipe, dataset, device)
    note_absent(recipe, dataset)
    parameters = {
        role: sum(p.numel() for p in getattr(trainer.networks, role).parameters()) for role in trainer.networks.roles
    }
    if dry_run:
        out.print(cfg.dump_yaml(recipe.dump()), end="", markup=False)
        out.print(
            f"\n# images: {dataset.split.sizes()}\n# parameters: {parameters}\n# device: {device}, output: {target}",
            markup=False,
        )
        return
    path = target / "checkpoint.pt"
    if path.exists():
        trainer.load_state_dict(checkpoint.load(path, device), str(path))
        out.print(f"resuming at step {trainer.step}")
    elif target.exists() and any(target.iterdir()):
        raise RunError(f"{target}: exists, is not empty and holds no checkpoint; choose another --out")
    target.mkdir(parents=True, exist_ok=True)  # a place that cannot be written shows now, not after the first interval
    out.print(f"{recipe.training.steps - trainer.step} steps on {device}, results in {target}")
    metric = "accuracy" if dataset.task == "single" else "map_macro"
    try:
        with progress("training", recipe.training.steps) as advance:
            while not trainer.finished:
                result = trainer.run_interval(advance)
                checkpoint.save(path, trainer.state_dict())
                write_text(target / "recipe.yaml", cfg.dump_yaml(recipe.dump()))
                out.print(
                    f"step {result['step']}: validation {metric} {result['validation'][metric]:.4f}, "
                    f"loss {result['validation']['loss']:.4f} ({result['seconds']:.1f} s)"
                )
    except Diverged as error:
        out.print(f"[red]diverged:[/] {error}; lower optimizer.lr or raise optimizer.warmup_steps")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print(f"\ninterrupted at step {trainer.step}; the same command again goes on at the last checkpoint")
        raise typer.Exit(130) from None
    write_text(target / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in trainer.history))
    quality.picture(trainer.history, metric, target / "training.png")
    if trainer.networks.student is not None:
        score = trainer.history[-1]["validation"][metric]
        bundle.write(trainer, target / "best", "Trained by `launch.py train`.", [f"Validation {metric}: {score:.4f}."])
        out.print(f"student in {target / 'best'}; next: python launch.py evaluate {target / 'best'}")
    else:
        out.print(f"done; next: python launch.py evaluate {target}")
