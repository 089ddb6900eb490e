"""What `search`, `resume` and `extend` share: run what is left of a search, export, test, report, and tell."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from stssl.cli.common import duration, errors, fault, out
from stssl.errors import RunError
from stssl.storage import PATIENCE_SECONDS, Folder

if TYPE_CHECKING:
    from stssl.data.dataset import Dataset
    from stssl.search.config import SearchConfig
    from stssl.search.space import Space
    from stssl.search.study import Study
    from stssl.training.recipe import Recipe

LOCK_SECONDS = 120.0  # NFS keeps the lock of a dead machine for about 90


def run(
    folder: Folder,
    address: str | None,
    cpus: int | None,
    config: SearchConfig,
    create: Callable[[], None] | None = None,
    checked: tuple[Space, Dataset] | None = None,
    go_on: bool = False,
) -> None:
    """Run what is left of a search; every part is skipped where it is done.

    Args:
        folder: The run folder.
        address: Of a running cluster; None starts one on this machine.
        cpus: How many CPUs that has.
        config: The search.
        create: Makes the folder of a new search, once it is known that there is a cluster on which a trial fits.
        checked: What `checks.check` has said of it already.
        go_on: The same search was submitted again, perhaps with other resources or shards elsewhere.
    """
    from stssl.search import ray_environment

    ray_environment.prepare(address)  # before Ray is imported

    from stssl.search import checks, cluster, run_folder
    from stssl.search.config import located
    from stssl.search.ledger import NAME, opened
    from stssl.search.study import Study

    folder = Folder(folder, PATIENCE_SECONDS)  # it could be opened; what fails from now on may pass

    study: Study | None = None

    def lost(reason: str) -> int:
        if study is not None and study.stopping:  # a signal to the whole process group, which ended Ray too
            errors.show_cursor()
            errors.print(f"interrupted; {_go_on(folder)}")
            return 130
        fault(f"{reason}; {_go_on(folder)}")
        return 1

    def connect(dataset: Dataset) -> None:
        on_ray.enter_context(cluster.connected(address, cpus, lost))
        if address is None:
            cluster.check_resources(config.resources)
        else:
            look_at_nodes(config, dataset, folder)

    with _interruptible(folder), ExitStack() as stack:
        on_ray = stack.enter_context(ExitStack())
        if create is not None and checked is not None:
            connect(checked[1])
            create()
        ledger = stack.enter_context(opened(folder, wait=LOCK_SECONDS if go_on else 1))
        if go_on:
            run_folder.update(folder, config, run_folder.load(folder)[1])
        config, manifest = run_folder.load(folder)
        with located(folder.show(run_folder.CONFIG)):
            space, dataset = checked or checks.check(config, folder.show(run_folder.CONFIG))
        checks.check_trials(ledger.events, space, folder.show(NAME))
        study = Study(config, space, ledger)
        if study.state.finished:
            out.print("this search is finished already")
        else:
            _begin(study, manifest, folder)
            if study.work_left():
                if create is None:
                    connect(dataset)
                _drive(study, folder, grows=address is not None)
            on_ray.close()  # nothing that may still happen to Ray is of interest
            _finish(folder, study, manifest, dataset)
        tell(folder, study)
        if study.state.winner is None:
            errors.print("[bold red]failed:[/] no replicate ran to its end, so there is nothing to export")
            raise typer.Exit(1)


def look_at_nodes(config: SearchConfig, dataset: Dataset, folder: Folder) -> None:
    """Preflight: a trial fits, and every node of a cluster is asked what it can do, before anything is trained there."""
    from stssl.search import cluster, preflight

    cluster.wait_for_nodes()
    cluster.check_resources(config.resources)
    nodes = preflight.check(config.recipe["data"]["shards"], folder, dataset.store.card)
    out.print(f"cluster: {', '.join(preflight.lines(nodes))}: each reads the shards and writes the run folder")


def timed(config: SearchConfig, recipe: Recipe, dataset: Dataset, folder: Folder, address: str | None) -> float | None:
    """Seconds that a step of a recipe takes where trials will run; None if a trial does not fit there now.

    Nothing is started for it: no Ray without an address, and no node on a cluster that could grow.
    """
    from stssl.search import cost, ray_environment

    if address is None:
        import torch

        if config.resources.gpus > torch.cuda.device_count():
            return None
        return cost.seconds_per_step(recipe, dataset, config.resources)
    ray_environment.prepare(address)
    from stssl.search import cluster, preflight

    with cluster.connected(address, tell=lambda reason: fault(f"{reason}; nothing has begun")):
        look_at_nodes(config, dataset, folder)
        return preflight.timed_on_a_node(config, recipe.dump())


@contextmanager
def _interruptible(folder: Folder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if _begun(folder):
            errors.print(f"\ninterrupted; nothing is lost. Go on with: python launch.py resume {shown(folder)}")
        else:
            errors.print("\ninterrupted before anything began")
        raise typer.Exit(130) from None
    except OSError as error:
        if not _begun(folder):
            raise
        raise RunError(
            f"{error}; every trial is kept. Mend that, then: python launch.py resume {shown(folder)}"
        ) from error


def _begun(folder: Folder) -> bool:
    from stssl.search.run_folder import exists

    try:
        return exists(Folder(folder, patience=0))
    except OSError:
        return folder.path is None  # a bucket that does not answer, which may be the fault


def _go_on(folder: Folder) -> str:
    if not _begun(folder):
        return "nothing has begun; try the same command again"
    return f"every trial is kept. Go on with: python launch.py resume {shown(folder)}"


def _begin(study: Study, manifest: dict[str, Any], folder: Folder) -> None:
    """Put on record that a driver has begun; a new search first takes in what earlier ones know."""
    from stssl.search import run_folder, warm_start

    folder.delete(run_folder.STOP)  # it was meant for another driver
    known = {t.id for t in study.state.imported}
    if not study.state.started:
        found = warm_start.imports(study.config, study.space, manifest["data"]["fingerprint"], run_folder.CONFIG)
        for source, (events, outside) in found.items():
            for event in events:
                if event["trial"] not in known:
                    study.record("imported", source=source, **event)
            out.print(
                f"warm start: {len(events)} trials of {source}; {outside} more lie outside this space", markup=False
            )
    study.begin()


def _drive(study: Study, folder: Folder, grows: bool) -> None:
    """Run the trials. The first Ctrl-C lets those that run go on to their next evaluation, the second stops at once."""
    from stssl.cli.live import Live
    from stssl.search import cluster, driver

    def stop(number: int, frame: FrameType | None) -> None:
        if study.stopping:
            raise KeyboardInterrupt
        study.stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Live(lambda: cluster.room(study.config.resources)) as live:
            driver.run(study, folder, live, grows)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not study.work_left():
        return
    if not study.stopping:
        raise RunError(
            f"Ray Tune ended before the search did; every trial is kept. Go on with: python launch.py resume {shown(folder)}"
        )
    study.record("stopped")
    errors.print(f"stopped; every trial is kept. Go on with: python launch.py resume {shown(folder)}")
    raise typer.Exit(130)


def _finish(folder: Folder, study: Study, manifest: dict[str, Any], dataset: Dataset) -> None:
    """Export the winner, read the test split once (if there is one), write the report."""
    from stssl.analysis import report
    from stssl.export import winner
    from stssl.search import run_folder

    if study.state.winner is None:
        chosen = winner.choose(study.state)
        if chosen is not None:
            study.record("winner", trial=chosen.trial.id)
    metric = study.config.metric
    with run_folder.workplace(folder) as place:
        best = place / "best"
        if study.state.winner is not None:
            winner.export(folder, study.state, best, metric)
            if study.state.tested is None and len(dataset.split.test):
                study.record("tested", **winner.test(folder, best, study.state, metric))
                winner.export(folder, study.state, best, metric)  # the card tells the test score
        report.write(place, study.config, manifest, study.state)
    study.record("finished")


def shown(folder: Folder) -> str:
    """Relative to here where that is shorter to type."""
    try:
        here = Path.cwd()
    except OSError:  # it is gone, as a job's may be
        return str(folder)
    return str(folder.path.relative_to(here) if folder.path and folder.path.is_relative_to(here) else folder)


def tell(folder: Folder, study: Study) -> None:
    """What was found, where everything lies, what to type next."""
    from stssl.analysis.text import found

    where = shown(folder)
    out.print()
    for line in found(study.state, study.config):
        out.print(line, markup=False)
    seconds = study.state.seconds("search") + study.state.seconds("replicate")
    out.print(f"\n{duration(seconds)} of training on record. Everything is in {where}:")
    if study.state.winner is not None:
        out.print(
            "  best/            recipe.yaml, student.safetensors (for timm), model.json, README.md (the model card)"
        )
    out.print("  report.html      open it in a browser; report.png and trials.parquet hold the same for other uses")
    logs = ", ray/ Ray Tune's own logs" if folder.path else ""
    out.print(f"  ledger.jsonl     every event; trials/ holds checkpoints{logs}")
    out.print("\nWhat to type next:")
    if study.state.winner is not None:
        best = f"{where}/best" if folder.path else "best"
        if folder.path is None:
            out.print(f"  python launch.py export {where} --out {best}      recipe and student on your machine")
        out.print(f"  python launch.py train {best}/recipe.yaml --set seed=7      the best recipe again")
        out.print(f"  python launch.py evaluate {best}      the exported student on validation")
    out.print(f"  python launch.py status {where}      the trials as a table")
    out.print(f"  python launch.py extend {where} --set trials={2 * study.config.trials}      search on")
