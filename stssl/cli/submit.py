"""`submit`: a search on a cluster, by the cluster's file or the address of its jobs server."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stssl.cli.common import DryRun, Set, absolute, errors, out
from stssl.errors import ConfigError, RunError
from stssl.storage import Folder, is_uri

if TYPE_CHECKING:
    from stssl.search.clusters import KubeRay, Slurm
    from stssl.search.config import SearchConfig
    from stssl.search.jobs import Jobs


def submit(
    file: Annotated[Path, typer.Argument(metavar="SPACE", help="A search space as YAML.")],
    cluster: Annotated[Path | None, typer.Option(help="A file such as those in cluster/.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Instead: a running cluster's jobs server, http://HOST:8265.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--out", help="The run folder as every node of the cluster sees it, a path or a URI.")
    ] = None,
    set_: Set = [],  # noqa: B006
    follow: Annotated[bool, typer.Option("--follow", help="Show what the driver prints, until it ends.")] = False,
    python: Annotated[
        str | None,
        typer.Option(help="The Python of the head node, for a Ray job. [default: that of Ray's environment]"),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Search on a cluster: code and space travel there, the driver runs there, and this machine may be switched off.

    Submitted again with the same --out, a search that was interrupted goes on.

    Example: `python launch.py submit search_spaces/demo.yaml --cluster cluster/local.yaml --follow`
    """
    from stssl.search import jobs

    if (cluster is None) == (address is None):
        raise ConfigError("submit: say where to: either --cluster cluster/X.yaml or --address http://HOST:8265")
    if python is not None:
        try:
            words = shlex.split(python)
        except ValueError as error:
            raise ConfigError(f"submit: --python {python}: {error}") from None
        if not words:
            raise ConfigError("submit: --python is empty")
    if target is not None and not target.strip():
        raise ConfigError("submit: --out is empty")
    config = _checked(file, set_)
    jobs.authenticate()  # before Ray is imported
    from stssl.search import clusters

    there = clusters.read(cluster) if cluster is not None else None
    here = there is not None and there.local
    if target is None and not here:
        raise ConfigError(
            "submit: --out is needed: a folder that every node of the cluster sees, such as /nfs/runs/demo or s3://BUCKET/runs/demo"
        )
    run = absolute(target or f"runs/{config.name}-{datetime.now():%Y%m%d-%H%M%S}")
    Folder(run)  # a URI that nobody understands
    shards = config.recipe["data"]["shards"]
    if not here and not is_uri(shards):
        errors.print(f"note: every node is to find the shards at {shards}", markup=False)
    arguments = ["search", jobs.SPACE, "--out", run, "--go-on"]
    if isinstance(there, clusters.KubeRay | clusters.Slurm):
        if follow or python:
            raise ConfigError(
                f"submit: --follow and --python are for Ray jobs; {cluster} is for another kind of cluster"
            )
        _hand_over(there, config, arguments, run, dry_run)
        return
    if dry_run and there is not None and not here:
        kinds = "; ".join(f"{n} x {', '.join(f'{v} {k}' for k, v in have.items())}" for n, have in there.growth)
        _say(
            f"ray up {cluster}      starts the cluster, which is not done now; it may grow to {kinds or 'what it has'}"
        )
        _say(f"python launch.py {' '.join(arguments)}      then runs on its head node")
        _say(
            f"ray dashboard {cluster} --port {there.port} --remote-port {there.port}      once it runs, leads there; then "
            f"submit with --address http://127.0.0.1:{there.port} --dry-run tells of each node, and the cost"
        )
        return
    with ExitStack() as stack:
        if there is not None:
            address = stack.enter_context(there.reach(_say))
        python = sys.executable if here and python is None else python
        arguments += ["--address", "auto", *(["--dry-run"] if dry_run else [])]
        about: dict[str, str] = {}
        if there is not None:
            about[clusters.NODES] = str(there.nodes)
            if there.growth:
                about[clusters.GROWTH] = json.dumps(there.growth)
        if there is not None and not here:  # what leads there now is closed when this command ends
            _say(
                f"  ray dashboard {cluster} --port {there.port} --remote-port {there.port}      opens the way there again, for:"
            )
        _run_job(jobs.Jobs(str(address)), config, arguments, run, python, about, follow or dry_run)


def _checked(file: Path, set_: list[str]) -> SearchConfig:
    """The search with its recipe in full; what can be known without the data is checked."""
    from stssl import config as cfg
    from stssl.cli.search import absolute_paths
    from stssl.search.asha import rungs
    from stssl.search.config import SearchConfig, located
    from stssl.search.space import Space
    from stssl.training.recipe import Recipe

    overrides = cfg.parse_set(set_)
    config = absolute_paths(SearchConfig.read(file, overrides))
    with located(file, overrides):
        recipe = cfg.validate(Recipe, config.recipe, f"{file}: recipe")
        Space(config.space, recipe.dump(), str(file), config.constraints)
        rungs(config.scheduler, recipe.training.steps, recipe.training.eval_interval)
    return config.model_copy(update={"recipe": recipe.dump()})


def _say(text: str) -> None:
    out.print(text, markup=False)


def _run_job(
    queue: Jobs,
    config: SearchConfig,
    arguments: list[str],
    run: str,
    python: str | None,
    environment: dict[str, str],
    follow: bool,
) -> None:
    if job := queue.at_work(run):
        raise RunError(f"job {job} is at work in {run} already; see what it prints with: {_logs(queue, job)}")
    job = queue.submit(arguments, config, run, python, environment)
    _say(f"job {job}: the driver runs on the cluster; the run folder is {run}")
    if not follow:
        _what_next(queue, job, run)
        return
    try:
        queue.follow(job, out.file.write)
    except (KeyboardInterrupt, RunError) as end:
        errors.print("\nnobody watches any more, and the job goes on:")
        _what_next(queue, job, run)
        if isinstance(end, RunError):
            raise
        raise typer.Exit(130) from None
    status, code = queue.status(job)
    if status != "SUCCEEDED":
        errors.print(f"job {job}: {status}", markup=False)
        raise typer.Exit(code or 1)


def _hand_over(there: KubeRay | Slurm, config: SearchConfig, arguments: list[str], run: str, dry_run: bool) -> None:
    """To a cluster that lives as long as the search."""
    from stssl.search import clusters, jobs

    if isinstance(there, clusters.KubeRay):
        with tempfile.TemporaryDirectory() as folder:
            jobs.pack(Path(folder), config)
            manifests = there.manifests(Path(folder), [*arguments, "--address", "auto"], config.name)
        if dry_run:
            print(manifests)
            return
        there.submit(manifests, _say)
    else:
        beside = Path("runs", config.name).resolve() if is_uri(run) else Path(run)  # where all nodes see it
        if not beside.name:
            raise ConfigError(f"submit: --out {run}: is no folder for a run; name one below it")
        package = beside.with_name(f"{beside.name}-{datetime.now():%Y%m%d-%H%M%S}.job")
        if dry_run:
            _say(f"sbatch --chdir={package} {there.path} {' '.join(arguments)}")
            return
        there.check()
        jobs.pack(package, config)
        there.submit(package, arguments, _say)
    _say(f"  python launch.py status {run}      the trials as a table, from anywhere that sees the folder")


def _logs(queue: Jobs, job: str) -> str:
    return f"ray job logs --follow --address {queue.address} {job}"


def _what_next(queue: Jobs, job: str, run: str) -> None:
    _say(f"  {_logs(queue, job)}      what it prints")
    _say(f"  python launch.py status {run}      the trials as a table, from anywhere that sees the folder")
    _say(f"  python launch.py stop {run}      stop it; submitted again it goes on")
    _say(f"  ray job stop --address {queue.address} {job}      the same before it has begun")
