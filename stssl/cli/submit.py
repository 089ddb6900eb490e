"""`submit`: a search on a cluster, by the cluster's YAML or the address of its jobs server."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from stssl.cli.common import DryRun, Set, absolute, errors, out
from stssl.errors import ConfigError, RunError
from stssl.storage import Folder, is_uri


def submit(
    file: Annotated[Path, typer.Argument(metavar="SPACE", help="A search space as YAML.")],
    cluster: Annotated[Path | None, typer.Option(help="A file such as those in cluster/.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Instead: a running cluster's jobs server, http://HOST:8265.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--out", help="The run folder, as every node of the cluster sees it: a path or a URI.")
    ] = None,
    set_: Set = [],  # noqa: B006
    follow: Annotated[bool, typer.Option("--follow", help="Show what the driver prints, until it ends.")] = False,
    python: Annotated[str, typer.Option(help="The Python of the cluster's nodes.")] = "python",
    dry_run: DryRun = False,
) -> None:
    """Search on a cluster: code and space travel there, the driver runs there, and this machine may be switched off.

    Submitted again with the same --out, a search that was interrupted goes on.

    Example: `python launch.py submit search_spaces/demo.yaml --cluster cluster/local.yaml --follow`
    """
    from stssl import config as cfg
    from stssl.cli.search import absolute_paths
    from stssl.search import jobs
    from stssl.search.asha import rungs
    from stssl.search.config import SearchConfig, located
    from stssl.search.space import Space
    from stssl.training.recipe import Recipe

    if (cluster is None) == (address is None):
        raise ConfigError("submit: say where to: either --cluster cluster/X.yaml or --address http://HOST:8265")
    jobs.authenticate()
    from stssl.search import clusters

    overrides = cfg.parse_set(set_)
    config = absolute_paths(SearchConfig.read(file, overrides))
    with located(file, overrides):
        recipe = cfg.validate(Recipe, config.recipe, f"{file}: recipe")
        Space(config.space, recipe.dump(), str(file), config.constraints)
        rungs(config.scheduler, recipe.training.steps, recipe.training.eval_interval)  # the rest is checked at the data
    config = config.model_copy(update={"recipe": recipe.dump()})
    launcher = clusters.read(cluster) if cluster is not None else None
    here = launcher is not None and launcher.local
    if target is None and not here:
        raise ConfigError(
            "submit: --out is needed: a folder that every node of the cluster sees, such as /nfs/runs/demo or s3://BUCKET/runs/demo"
        )
    run = absolute(target or f"runs/{config.name}-{datetime.now():%Y%m%d-%H%M%S}")
    _check_shared(run, config, here)
    arguments = ["search", jobs.SPACE, "--out", run, "--address", "auto", "--go-on"]
    if dry_run:
        arguments.append("--dry-run")
    with ExitStack() as stack:
        if launcher is not None:
            address = stack.enter_context(launcher.reach(lambda text: out.print(text, markup=False)))
        queue = jobs.Jobs(str(address))
        if (job := queue.at_work(run)) and not dry_run:
            raise RunError(
                f"job {job} is at work in {run} already; see what it prints with: {_logs(queue.address, job)}"
            )
        job = queue.submit(arguments, config, run, config.name, _python(python, here))
        out.print(f"job {job}: the driver runs on the cluster, its run folder is {run}", markup=False)
        if follow or dry_run:
            _follow(queue, job, run)
        else:
            _tell(queue.address, job, run)


def _python(python: str, here: bool) -> str:
    import sys

    return sys.executable if here and python == "python" else python


def _check_shared(run: str, config: object, here: bool) -> None:
    """Say so where a path can hardly mean the same to this machine and to the nodes."""
    if is_uri(run):
        Folder(run)  # refuses what cannot be understood


def _logs(address: str, job: str) -> str:
    return f"ray job logs --follow --address {address} {job}"


def _tell(address: str, job: str, run: str) -> None:
    out.print(f"  {_logs(address, job)}      what it prints", markup=False)
    out.print(
        f"  python launch.py status {run}      the trials as a table, from anywhere that sees the folder", markup=False
    )
    out.print(f"  python launch.py stop {run}      stop it; submitted again it goes on", markup=False)


def _follow(queue: object, job: str, run: str) -> None:
    from stssl.search.jobs import Jobs

    assert isinstance(queue, Jobs)
    try:
        queue.follow(job, lambda text: out.file.write(text))
    except KeyboardInterrupt:
        errors.print("\nthe job goes on without being watched:")
        _tell(queue.address, job, run)
        raise typer.Exit(130) from None
    status, code = queue.status(job)
    if status != "SUCCEEDED":
        errors.print(f"job {job}: {status}", markup=False)
        raise typer.Exit(code or 1)
