"""The Ray cluster that a search runs on: a running one, or one of our own on this machine."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
import yaml

from stssl.errors import ConfigError, RunError
from stssl.search.clusters import GROWTH, NODES, Growth
from stssl.search.config import ResourceConfig
from stssl.search.ray_compat import before_processes_end, draining_nodes
from stssl.search.ray_processes import Watch
from stssl.storage import undisturbed

NODES_SECONDS = 180.0  # for the nodes to come that a cluster's file names

# How a client begins to speak HTTP/2, on which gRPC stands: the preface and an empty SETTINGS frame. The server's own first frame
# is one of SETTINGS too (RFC 9113, sections 3.4, 4.1 and 6.5).
SETTINGS = b"\x04"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00" + SETTINGS + bytes(5)
GREETING_SECONDS = 20.0


def _print(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr)


@contextmanager
def connected(
    address: str | None, cpus: int | None = None, tell: Callable[[str], int | None] = _print
) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine and stop it afterwards.

    Args:
        address: Of a running cluster; None starts a local one (after `ray_environment.prepare`).
        cpus: How many CPUs a local cluster has; None = all.
        tell: Told why, before this process ends because its cluster was lost; may return another exit code than 1.

    Raises:
        RunError: No cluster answers at the address, or none starts.
    """
    watch = Watch(tell)
    try:
        if address is None:
            watch.own()
        else:
            _check_address(address)
        _init(address, cpus)
        if address is not None:
            watch.others(ray.get_runtime_context().gcs_address)
        yield
    finally:
        watch.stop()
        undisturbed(lambda: _shut_down(watch))


def _init(address: str | None, cpus: int | None) -> None:
    own: dict[str, Any] = {"num_cpus": cpus, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address or "local", log_to_driver=False, logging_level=logging.ERROR, **(own if address is None else {})
        )
    except SystemExit:  # Ray's answer to SIGTERM; ours is that to Ctrl-C
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray stumbles over a process of its own that died in many ways
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if address is None:
            raise RunError(f"Ray does not start on this machine: {reason}; its logs are in /tmp/ray") from error
        raise RunError(f"--address {address}: no Ray cluster answers there: {reason}") from error
    finally:
        for number, handler in handlers.items():  # to which Ray lays claim: a polite stop is ours to answer
            signal.signal(number, handler)


def _shut_down(watch: Watch) -> None:
    def handle() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.getsignal(number))

    before_processes_end(handle)  # Ray's C++ code takes back a handler of SIGTERM on its way out, and ours with it
    try:
        with redirect_stdout(io.StringIO()):  # Ray prints a hundred lines about a node that has died
            ray.shutdown()
    finally:
        handle()
        watch.end_processes()


def _check_address(address: str) -> None:
    """Refuse an address where nothing listens that speaks gRPC, which Ray would wait for without end."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if address == "auto":
        return
    if not colon:
        raise RunError(f"--address {address}: give HOST:PORT of a running cluster, or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            connection.settimeout(GREETING_SECONDS)
            connection.sendall(GREETING)
            answer = connection.recv(9)
    except (OSError, ValueError, OverflowError) as error:
        raise RunError(f"--address {address}: no Ray cluster answers there: {error}") from None
    if answer[3:4] != SETTINGS:
        raise RunError(
            f"--address {address}: what answers there is no Ray cluster's GCS (port 6379 as a rule); "
            "the jobs server (port 8265) is for `submit`"
        )


def growth() -> Growth:
    """To how many nodes of each kind the cluster may grow, as far as this machine can know: count and resources.

    What `submit` read in the cluster's file, or what `ray up` left on the head node.
    """
    if GROWTH in os.environ:
        try:
            return [
                (int(count), {str(k): float(v) for k, v in have.items()})
                for count, have in json.loads(os.environ[GROWTH])
            ]
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise ConfigError(
                f"{GROWTH}={os.environ[GROWTH][:80]}: expected [[count, {{resource: amount}}], ...] as JSON, which `submit` sets"
            ) from None
    try:
        data = yaml.safe_load((Path.home() / "ray_bootstrap_config.yaml").read_text(encoding="utf-8"))
        kinds = data["available_node_types"].values()
        return [(int(k.get("max_workers", 0)), dict(k.get("resources") or {})) for k in kinds]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return []


def wait_for_nodes() -> None:
    """Until all nodes are there that the cluster's file names, or for NODES_SECONDS: its head is there first."""
    try:
        expected, until = int(os.environ.get(NODES, 1)), time.monotonic() + NODES_SECONDS
    except ValueError:
        raise ConfigError(
            f"{NODES}={os.environ[NODES][:80]}: expected a number of nodes, which `submit` sets"
        ) from None
    while len(_alive()) < expected and time.monotonic() < until:
        time.sleep(1)


def _alive() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fitting(resources: ResourceConfig, have: dict[str, float]) -> int:
    """How many trials fit on a node at a time."""
    asked = {"CPU": float(resources.cpus), "GPU": resources.gpus, **resources.custom}

    def times(name: str, amount: float) -> int:
        there = have.get(name, 0)
        if name == "GPU" and amount < 1:  # a share lies on one of them: of 0.4, two fit on each
            return int(there) * int(1 / amount + 1e-9)
        return int(there / amount + 1e-9)

    return min(times(name, amount) for name, amount in asked.items() if amount)


def check_resources(resources: ResourceConfig) -> None:
    """Refuse a trial that fits on no node, which Ray would wait for for ever.

    Raises:
        ConfigError: Names what is asked for and the largest node.
    """
    if not room(resources) and not may_have_room(resources):
        nodes = _alive() + [have for count, have in growth() if count]
        most = max(nodes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)))
        asked = [
            f"{resources.cpus} CPUs",
            f"{resources.gpus:g} GPUs",
            *(f"{v:g} {k}" for k, v in resources.custom.items()),
        ]
        has = [f"{most.get('CPU', 0):g} CPUs", f"{most.get('GPU', 0):g} GPUs"]
        has += [f"{most.get(k, 0):g} {k}" for k in resources.custom]
        raise ConfigError(
            f"resources: a trial asks for {_listed(asked)}, but the largest node has {_listed(has)}; "
            "lower what is asked for in resources"
        )


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def draining() -> set[str]:
    """Ids of nodes that the cloud has said it will take away; Ray places nothing more there."""
    return draining_nodes()


def room(resources: ResourceConfig) -> int:
    """How many trials fit on the nodes there are now."""
    return sum(fitting(resources, have) for have in _alive())


def may_have_room(resources: ResourceConfig) -> bool:
    """Whether a trial fits on a node that the cluster may grow by."""
    return any(count and fitting(resources, have) for count, have in growth())


def capacity(resources: ResourceConfig) -> int:
    """How many trials run at a time, once any can."""
    return max(1, room(resources))


def most_capacity(resources: ResourceConfig) -> int:
    """How many trials would run at a time on the cluster as large as it may grow."""
    return max(capacity(resources), sum(count * fitting(resources, have) for count, have in growth()))
