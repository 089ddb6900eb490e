"""`search`, `resume`, `extend`, `stop`: the life of a search, from a space to an exported student."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stssl.cli import running
from stssl.cli.common import DryRun, RunFolder, Set, absolute, errors, note_absent, opened, out, resolve_paths
from stssl.errors import ConfigError, short_repr
from stssl.storage import Folder

if TYPE_CHECKING:
    from stssl.data.dataset import Dataset
    from stssl.search.config import SearchConfig
    from stssl.search.space import Space

Address = Annotated[str | None, typer.Option(help="Of a running Ray cluster. [default: start one on this machine]")]
Cpus = Annotated[int | None, typer.Option(min=1, help="How many CPUs to use on this machine. [default: all]")]


def search(
    file: Annotated[Path, typer.Argument(metavar="SPACE", help="A search space as YAML.")],
    target: Annotated[
        str | None, typer.Option("--out", help="The run folder, a path or a URI. [default: runs/NAME-TIME]")
    ] = None,
    set_: Set = [],  # noqa: B006
    address: Address = None,
    cpus: Cpus = None,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Resume where --out is this search already; 0 after `stop`.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Search a space: trials with early stopping, replicates of the best, the winner exported, a report.

    Ctrl-C stops it when the trials have come to their next evaluation, a second one at once. Whatever interrupts it,
    `resume` goes on. Keys for `--set` are those of the file.

    Example: `python launch.py search search_spaces/demo.yaml --set trials=8 --set recipe.training.steps=120`
    """
    from stssl import config as cfg
    from stssl.search import checks, disk, run_folder, warm_start
    from stssl.search.config import SearchConfig, located

    overrides = cfg.parse_set(set_)
    config = absolute_paths(SearchConfig.read(file, overrides))
    with located(file, overrides):
        space, dataset = checks.check(config, str(file))
        recipe = space.recipe(space.base_point())
        config = config.model_copy(update={"recipe": recipe.dump()})
        warm_start.imports(config, space, dataset.store.card.fingerprint, str(file))  # refuses what cannot be compared
    run = Folder(absolute(target or f"runs/{config.name}-{datetime.now():%Y%m%d-%H%M%S}"))
    ladder = config.ladder
    if dry_run:
        out.print(cfg.dump_yaml(config.dump()), end="", markup=False)
        _tell_plan(config, space, dataset, run, address)
        return
    if go_on and run_folder.exists(run):
        with _as_asked(run):
            running.run(run, address, cpus, config, go_on=True)
        return
    run_folder.check_free(run)

    def create() -> None:
        from stssl.search import cluster

        need = disk.need(config, dataset, cluster.capacity(config.resources))
        if note := disk.check(run, need):
            errors.print(f"note: {note}", markup=False)
        run_folder.create(run, config, dataset.store.card)
        out.print(
            f"{config.name}: {config.trials} trials, rungs at steps {', '.join(map(str, ladder))}, then "
            f"the base recipe and the {config.replicates.top} best x {config.replicates.seeds} replicates"
        )

    note_absent(recipe, dataset)
    with _as_asked(run) if go_on else nullcontext():
        running.run(run, address, cpus, config, create, (space, dataset))


@contextmanager
def _as_asked(run: Folder) -> Iterator[None]:
    """To whatever would start a failed job again, one that `stop` has ended is done."""
    from stssl.search import run_folder

    try:
        yield
    except typer.Exit as end:
        raise typer.Exit(end.exit_code if run.size(run_folder.STOP) is None else 0) from None


def _tell_plan(config: SearchConfig, space: Space, dataset: Dataset, run: Folder, address: str | None) -> None:
    """What `--dry-run` adds: the trials, the nodes if there are any to ask, and what all will cost."""
    from stssl.search import cost, disk

    ladder, r, need = config.ladder, config.resources, disk.need(config, dataset, 1)
    others = "".join(f", {amount:g} {name}" for name, amount in r.custom.items())
    out.print(
        f"\n# images: {dataset.split.sizes()}\n# {config.trials} trials, rungs at steps {', '.join(map(str, ladder))}; then "
        f"the base recipe and the {config.replicates.top} best x {config.replicates.seeds} replicates\n"
        f"# a trial takes {r.cpus} CPU(s) and {r.gpus:g} GPU(s){others}\n# weights take up to about {need.most / 1e9:.2g} GB\n"
        f"# run folder: {run}",
        markup=False,
    )
    expected = cost.expected(config)
    all_steps = expected.steps + expected.replicates
    plan = f"# about {expected.steps:,.0f} training steps for the trials and up to {expected.replicates:,} for the replicates"
    recipe = space.recipe(space.base_point())
    seconds = running.timed(config, recipe, dataset, run, address)
    if seconds is None:
        out.print(f"{plan}; a step cannot be timed, as there is no room for a trial now", markup=False)
        return
    unit = "GPU hours" if r.gpus else "hours of training"
    hours = r.cost(all_steps * seconds) / 3600
    out.print(
        f"{plan}\n# at {seconds:.3g} s a step of the base recipe, timed just now: about {hours:.2g} {unit}",
        markup=False,
    )


def absolute_paths(config: SearchConfig) -> SearchConfig:
    """The same search with paths that hold in any folder, for workers and for `resume`."""
    resolve_paths(config.recipe)
    key, space = "model.pretrained", dict(config.space)
    if key in space and space[key].choice is not None:
        choice = tuple(absolute(value) if isinstance(value, str) else value for value in space[key].choice or ())
        space[key] = space[key].model_copy(update={"choice": choice})
    points = tuple(
        {k: absolute(v) if k == key and isinstance(v, str) else v for k, v in point.items()} for point in config.points
    )
    earlier = tuple(absolute(folder) for folder in config.warm_start)
    return config.model_copy(update={"space": space, "points": points, "warm_start": earlier})


def resume(folder: RunFolder, address: Address = None, cpus: Cpus = None) -> None:
    """Go on with a search after Ctrl-C, `stop`, a crash or a power cut; no finished trial is lost or run again.

    Example: `python launch.py resume runs/demo-20260101-120000`
    """
    from stssl.search import run_folder

    run = opened(folder)
    config, manifest = run_folder.load(run)
    run_folder.check_unchanged(config, manifest)
    running.run(run, address, cpus, config)


def extend(
    folder: RunFolder,
    file: Annotated[
        Path | None, typer.Argument(metavar="[SPACE]", help="Another space: a changed copy of the run's search.yaml.")
    ] = None,
    set_: Set = [],  # noqa: B006
    address: Address = None,
    cpus: Cpus = None,
    dry_run: DryRun = False,
) -> None:
    """Search on: more trials, or a changed space. Shows what differs; everything that is on record counts.

    Data, metric, base recipe and rungs stay, or results could not be compared. A search that had read the test split reads
    it again for its new winner, and says so.

    Example: `python launch.py extend runs/demo-20260101-120000 --set trials=32`
    """
    from stssl import config as cfg
    from stssl.search import checks, run_folder
    from stssl.search import ledger as ledgers
    from stssl.search.config import SearchConfig, located
    from stssl.search.state import SearchState
    from stssl.training.recipe import Recipe

    run = opened(folder)
    _, manifest = run_folder.load(run)
    if file is None and not set_:
        raise ConfigError("extend: nothing to change; say for instance --set trials=64, or give a changed space")
    source = str(file or run.show(run_folder.CONFIG))
    overrides = cfg.parse_set(set_)
    with run.local(run_folder.CONFIG) as own:
        config = absolute_paths(SearchConfig.read(file or own, overrides))
    with located(source, overrides):
        space, _ = checks.check(config, source)
    config = config.model_copy(update={"recipe": cfg.validate(Recipe, config.recipe, source).dump()})
    changes = run_folder.differences(manifest["search"], config)
    if all(key.startswith(run_folder.NEVER_MATTERS) for key in changes):
        raise ConfigError(
            f"extend: nothing to change; {source} is what {run} was searched with already (resources, note and where the "
            "shards lie are changed in its search.yaml, before resume)"
        )
    run_folder.check_extension(changes, source)
    with ledgers.opened(run) as ledger:
        state = SearchState.replay(ledger.events)
        if config.trials < len(state.of_kind("search")):
            raise ConfigError(
                f"{source}: trials {config.trials}: the search has {len(state.of_kind('search'))} already; ask for more"
            )
        for key, (before, after) in changes.items():
            out.print(f"{key}: {short_repr(before)} -> {short_repr(after)}", markup=False)
        kept = sum(space.inside(t.recipe) is not None for t in state.of_kind("search"))
        out.print(
            f"{kept} of {len(state.of_kind('search'))} trials lie in the space; the others stay on record, but are not promoted, "
            "replicated or learned from"
        )
        if dry_run:
            return
        run_folder.extend(run, config, manifest, changes)
        ledger.append("extended", changes={key: list(pair) for key, pair in changes.items()})
    running.run(run, address, cpus, config)


def stop(
    folder: RunFolder,
    wait: Annotated[bool, typer.Option(help="Wait until the driver has stopped.")] = True,
) -> None:
    """Stop a search from anywhere that sees its folder: trials go on to their next evaluation and are kept.

    Example: `python launch.py stop runs/demo-20260101-120000`
    """
    from stssl.search import ledger, run_folder
    from stssl.search.state import SearchState

    run = opened(folder)
    run_folder.load(run)
    if not ledger.locked(run):
        out.print(f"no driver is at work in {folder}; nothing to stop")
        return
    run.write(run_folder.STOP, b"")
    if not wait:
        out.print("the driver stops when its trials have come to their next evaluations")
        return
    out.print("waiting for the trials to come to their next evaluations (Ctrl-C: do not wait)")
    while ledger.locked(run):
        time.sleep(0.2 if run.path is not None else 2)
    if SearchState.replay(ledger.events_of(run)).finished:
        out.print("the search had come to its end")
    else:
        out.print(f"stopped; go on with: python launch.py resume {folder} (on a cluster: submit it again)")
