"""`search` and `resume`: the main job, from a search space to an exported student."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stssl.cli.common import DryRun, RunFolder, Set, absolute, duration, errors, note_absent, out, resolve_paths

if TYPE_CHECKING:
    from stssl.data.dataset import Dataset
    from stssl.search.config import ResourceConfig, SearchConfig
    from stssl.search.study import Study

Address = Annotated[str | None, typer.Option(help="Of a running Ray cluster. [default: start one on this machine]")]
Cpus = Annotated[int | None, typer.Option(min=1, help="How many CPUs to use on this machine. [default: all]")]


def search(
    file: Annotated[Path, typer.Argument(metavar="SPACE", help="A search space as YAML.")],
    target: Annotated[Path | None, typer.Option("--out", help="The run folder. [default: runs/NAME-TIME]")] = None,
    set_: Set = [],  # noqa: B006
    address: Address = None,
    cpus: Cpus = None,
    dry_run: DryRun = False,
) -> None:
    """Search a space: trials with early stopping, replicates of the best, the winner exported, a report.

    Whatever interrupts it, `resume` goes on. Keys for `--set` are those of the file.

    Example: `python launch.py search search_spaces/demo.yaml --set trials=8 --set recipe.training.steps=120`
    """
    from stssl import config as cfg
    from stssl.search import asha, run_folder
    from stssl.search.config import SearchConfig, located

    overrides = cfg.parse_set(set_)
    config = _absolute_paths(SearchConfig.read(file, overrides))
    with located(file, overrides):
        space, dataset = run_folder.check(config, str(file))
    recipe = space.recipe(space.base_point())
    config = config.model_copy(update={"recipe": recipe.dump()})
    target = (target or Path("runs") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    ladder = asha.rungs(config.scheduler, recipe.training.steps, recipe.training.eval_interval)
    if dry_run:
        out.print(cfg.dump_yaml(config.dump()), end="", markup=False)
        r = config.resources
        out.print(
            f"\n# images: {dataset.split.sizes()}\n# {config.trials} trials, rungs at steps {', '.join(map(str, ladder))}; then "
            f"{config.replicates.top} recipes x {config.replicates.seeds} replicates\n"
            f"# a trial takes {r.cpus} CPU(s) and {r.gpus:g} GPU(s)\n# run folder: {target}",
            markup=False,
        )
        return
    run_folder.check_free(target)

    def create() -> None:
        run_folder.create(target, config, dataset.store.card)
        out.print(
            f"{config.name}: {config.trials} trials, rungs at steps {', '.join(map(str, ladder))}, then "
            f"{config.replicates.top} recipes x {config.replicates.seeds} replicates"
        )

    note_absent(recipe, dataset)
    _run(target, address, cpus, create, config.resources)


def _absolute_paths(config: SearchConfig) -> SearchConfig:
    """The same search with paths that hold in any folder, for workers and for `resume`."""
    resolve_paths(config.recipe)
    key, space = "model.pretrained", dict(config.space)
    if key in space and space[key].choice is not None:
        choice = tuple(absolute(value) if isinstance(value, str) else value for value in space[key].choice or ())
        space[key] = space[key].model_copy(update={"choice": choice})
    points = tuple(
        {k: absolute(v) if k == key and isinstance(v, str) else v for k, v in point.items()} for point in config.points
    )
    return config.model_copy(update={"space": space, "points": points})


def resume(folder: RunFolder, address: Address = None, cpus: Cpus = None) -> None:
    """Go on with a search after Ctrl-C, a crash or a power cut; no finished trial is lost or run again.

    Example: `python launch.py resume runs/demo-20260101-120000`
    """
    from stssl.search import run_folder

    config, manifest = run_folder.load(folder)
    run_folder.check_unchanged(config, manifest)
    _run(folder.resolve(), address, cpus, None, config.resources)


def _run(
    folder: Path, address: str | None, cpus: int | None, create: Callable[[], None] | None, resources: ResourceConfig
) -> None:
    """Run what is left of a search, then export, test and report; every part is skipped where it is done.

    `create` makes the folder of a new search, once it is known that there is a cluster on which a trial fits.
    """
    from stssl.search import ray_environment

    ray_environment.prepare(address)  # before Ray is imported

    from stssl.cli.live import LiveLine
    from stssl.search import driver, run_folder
    from stssl.search.config import located
    from stssl.search.ledger import Ledger
    from stssl.search.study import Study

    with ExitStack() as stack:
        try:
            if create is not None:
                stack.enter_context(driver.cluster(address, cpus))
                driver.check_resources(resources)
                create()
            config, manifest = run_folder.load(folder)
            with located(folder / run_folder.CONFIG):
                space, dataset = run_folder.check(config, str(folder / run_folder.CONFIG))
            study = Study(config, space, stack.enter_context(Ledger(folder)))
            if not study.state.finished:
                study.record("started" if create is not None else "resumed")
                if study.work_left():
                    with ExitStack() as running:
                        if create is None:
                            running.enter_context(driver.cluster(address, cpus))
                            driver.check_resources(resources)
                        running.enter_context(line := LiveLine(driver.capacity(resources)))
                        driver.run(study, folder, line)
                _finish(folder, study, manifest, dataset)
            else:
                out.print("this search is finished already")
        except KeyboardInterrupt:
            errors.print(f"\ninterrupted; nothing is lost. Go on with: python launch.py resume {_shown(folder)}")
            raise typer.Exit(130) from None
        _tell(folder, study)
        if study.state.winner is None:
            errors.print("[bold red]failed:[/] no replicate ran to its end, so there is nothing to export")
            raise typer.Exit(1)


def _finish(folder: Path, study: Study, manifest: dict[str, Any], dataset: Dataset) -> None:
    """Export the winner, read the test split once (if there is one), write the report."""
    from stssl.analysis import report
    from stssl.export import bundle, winner

    if study.state.winner is None:
        chosen = winner.choose(study.state)
        if chosen is not None:
            study.record("winner", trial=chosen.trial.id)
    if study.state.winner is not None:
        winner.export(folder, study.state, folder / "best", study.config.metric)
        if study.state.tested is None and len(dataset.split.test):
            scores = bundle.evaluate(folder / "best", None, "test")
            finite = {name: value for name, value in scores.items() if math.isfinite(value)}  # no positive, no AP
            study.record("tested", trial=study.state.winner, scores=finite)
            winner.export(folder, study.state, folder / "best", study.config.metric)  # the card tells the test score
    report.write(folder, study.config, manifest, study.state)
    study.record("finished")


def _shown(folder: Path) -> Path:
    """Relative to here where that is shorter to type."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _tell(folder: Path, study: Study) -> None:
    """What was found, where everything lies, what to type next."""
    from stssl.analysis.text import found

    shown = _shown(folder)
    out.print()
    for line in found(study.state, study.config):
        out.print(line, markup=False)
    out.print(
        f"\n{duration(sum(t.seconds for t in study.state.trials.values()))} of training on record. Everything is in {shown}:"
    )
    if study.state.winner is not None:
        out.print(
            "  best/            recipe.yaml, student.safetensors (for timm), model.json, README.md (the model card)"
        )
    out.print("  report.html      open it in a browser; report.png and trials.parquet hold the same for other uses")
    out.print("  ledger.jsonl     every event; trials/ holds checkpoints, ray/ Ray Tune's own logs")
    out.print("\nWhat to type next:")
    if study.state.winner is not None:
        out.print(
            f"  python launch.py train {shown / 'best' / 'recipe.yaml'} --set seed=7      the best recipe again",
        )
        out.print(f"  python launch.py evaluate {shown / 'best'}      the exported student on validation")
    out.print(f"  python launch.py status {shown}      the trials as a table")
