"""Preflight: what every node of a cluster can do, found out before anything is trained there."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import platform
import socket
import time
import uuid
from collections import Counter
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import stssl
from stssl.data.cache import cache_home, check_room
from stssl.data.dataset import Dataset
from stssl.data.schema import Card
from stssl.data.shards import read_card
from stssl.errors import RunError, StsslError
from stssl.search import cluster, cost
from stssl.search.config import ResourceConfig, SearchConfig
from stssl.storage import Folder
from stssl.training.recipe import Recipe

PACKAGES = ("torch", "timm", "ray", "numpy", "pyarrow")
CLOCK_SECONDS = 60.0  # signatures of requests to buckets are refused beyond some minutes
PROBE_PATIENCE = 30.0  # with a bucket
ANSWER_SECONDS = 180.0  # a node's first worker imports torch


class Node(NamedTuple):
    """What a node said of itself.

    Attributes:
        name: Host name and address.
        resources: In Ray's words.
        faults: What is wrong with it.
    """

    name: str
    resources: dict[str, float]
    faults: list[str]


@cache
def source_digest() -> str:
    """Of this package's code, by which nodes that run another version are told."""
    digest = hashlib.sha256()
    package = Path(stssl.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def load_code() -> None:
    """Read all of this package's code; to be called before Ray is connected to.

    A job's code lies in a folder of Ray's, which it may unpack anew, even under the driver, once that has connected.
    """
    source_digest()
    for module in pkgutil.walk_packages(stssl.__path__, "stssl."):
        importlib.import_module(module.name)


def _check_folders() -> None:
    """Refuse nodes of one machine that would unpack a job's code into the same folder, one under the other.

    Raises:
        RunError: Names machine, folder and remedy.
    """
    if not ray.get_runtime_context().runtime_env.get("working_dir"):
        return
    alive = [node for node in ray.nodes() if node["Alive"]]
    folders = Counter((node["NodeManagerHostname"], str(Path(node["RayletSocketName"]).parents[1])) for node in alive)
    for (host, folder), count in folders.items():
        if count > 1:
            raise RunError(
                f"{count} nodes on {host} share the folder {folder}, where each would unpack the job's code under the others; "
                "start each node of a machine with a folder of its own: ray start --temp-dir=FOLDER"
            )


def _about() -> dict[str, str]:
    """What must be the same everywhere."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{name: metadata.version(name) for name in PACKAGES},
        "stssl's code": source_digest()[:12],
    }


def _probe(shards: str, run: str, mark: str, driver: dict[str, str], card: Card) -> dict[str, Any]:
    """Runs on a node: what is wrong there. Nothing that it finds raises."""
    faults = []
    mine = _about()
    for name, version in driver.items():
        if mine[name] != version:
            faults.append(f"{name} is {mine[name]}, and {version} at the driver; install the same everywhere")
    try:
        here = read_card(Folder(shards, PROBE_PATIENCE))
        if here.fingerprint != card.fingerprint:
            faults.append(
                f"the shards at {Folder(shards)} are others (fingerprint {here.fingerprint[:12]}, not {card.fingerprint[:12]})"
            )
    except (StsslError, OSError) as error:
        faults.append(f"cannot read the shards: {error}")
    try:
        Folder(run, PROBE_PATIENCE).write(mark, socket.gethostname().encode())
    except (StsslError, OSError) as error:
        faults.append(f"cannot write into the run folder: {error}")
    try:
        check_room(card, cache_home())
    except StsslError as error:
        faults.append(f"its cache: {error}")
    return {"host": socket.gethostname(), "time": time.time(), "faults": faults}


def check(shards: str, run: Folder, card: Card) -> list[Node]:
    """Ask every node of the cluster.

    Args:
        shards: Where they lie.
        run: The run folder; it may hold nothing yet, and holds nothing more afterwards.
        card: Of the shards, as the driver reads them.

    Returns:
        The nodes, all of them sound.

    Raises:
        RunError: Names each node that is not, and what to do about it.
    """
    _check_folders()
    before = bool(run.names())
    driver, marks = _about(), {}
    probe = ray.remote(num_cpus=0, max_retries=0)(_probe)
    asked = {}
    leaving = cluster.draining()
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in leaving:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            marks[node["NodeID"]] = mark = f".probe-{uuid.uuid4().hex}"
            sent = time.time()
            job = probe.options(scheduling_strategy=here).remote(shards, run.place, mark, driver, card)
            asked[node["NodeID"]] = (node, sent, job)
    try:
        ray.wait([job for _, _, job in asked.values()], num_returns=len(asked), timeout=ANSWER_SECONDS)
        here_still = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - cluster.draining()
        nodes = [
            _judged(node, sent, job, run, marks[name])
            for name, (node, sent, job) in asked.items()
            if name in here_still
        ]
    finally:
        for mark in marks.values():
            run.delete(mark)
        if not before and run.path is not None and run.path.is_dir() and not run.names():
            run.path.rmdir()
    faulty = [f"{node.name}: {fault}" for node in nodes for fault in node.faults]
    if faulty:
        shown = "\n  ".join(faulty[:20]) + (f"\n  and {len(faulty) - 20} more" if len(faulty) > 20 else "")
        raise RunError(
            f"{len({f.partition(': ')[0] for f in faulty})} of {len(nodes)} nodes cannot take part:\n  {shown}"
        )
    return nodes


def _judged(node: dict[str, Any], sent: float, job: Any, run: Folder, mark: str) -> Node:
    address = node["NodeManagerAddress"]
    try:
        said = ray.get(job, timeout=0.1)
    except GetTimeoutError:
        fault = f"does not answer within {ANSWER_SECONDS:g} s; is it overloaded, or is a package missing there?"
        return Node(address, node["Resources"], [fault])
    except RayError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        return Node(address, node["Resources"], [f"cannot run our code: {reason.strip()}"])
    faults = list(said["faults"])
    now = time.time()
    late = max(sent - said["time"], said["time"] - now)  # its clock against an interval in which it must lie
    if late > CLOCK_SECONDS:
        faults.append(f"its clock differs from the driver's by {late:.0f} s; synchronise it (chrony, NTP)")
    if run.size(mark) is None and not any("run folder" in fault for fault in faults):
        faults.append(
            f"what it writes into {run} is not there for the driver; --out must be a folder that all nodes share"
        )
    return Node(f"{said['host']} ({address})", node["Resources"], faults)


def timed_on_a_node(config: SearchConfig, recipe: dict[str, Any]) -> float | None:
    """Seconds that a step of a recipe takes on a node of the cluster; None if a trial fits on none now.

    Raises:
        RunError: The recipe does not train there.
    """
    resources = config.resources
    if not any(cluster.fitting(resources, node["Resources"]) for node in ray.nodes() if node["Alive"]):
        return None
    wants: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "resources": resources.custom}
    job = ray.remote(**wants, max_retries=0, max_calls=1)(_timed)
    try:
        return float(ray.get(job.remote(recipe, resources), timeout=ANSWER_SECONDS))
    except GetTimeoutError:
        return None  # others are at work there
    except RayError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise RunError(f"the base recipe does not train on the cluster: {reason.strip()}") from None


def _timed(recipe: dict[str, Any], resources: ResourceConfig) -> float:
    made = Recipe.model_validate(recipe)
    return cost.seconds_per_step(made, Dataset.open(made.data), resources)


def lines(nodes: list[Node]) -> list[str]:
    """The nodes in a few lines, equal ones together, the largest first."""
    counts: dict[str, int] = {}
    for node in sorted(nodes, key=lambda n: (-n.resources.get("GPU", 0), -n.resources.get("CPU", 0))):
        have = f"{node.resources.get('CPU', 0):g} CPUs, {node.resources.get('GPU', 0):g} GPUs"
        counts[have] = counts.get(have, 0) + 1
    return [f"{count} node{'s' if count > 1 else ''} with {have}" for have, count in counts.items()]
