"""The Ray cluster that a search runs on: a running one, or one of our own on this machine."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from stssl.errors import ConfigError, RunError
from stssl.search.config import ResourceConfig


@contextmanager
def connected(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine and stop it afterwards.

    Args:
        address: Of a running cluster; None starts a local one (after `ray_environment.prepare`).
        cpus: How many CPUs a local cluster has; None = all.

    Raises:
        RunError: No cluster answers at the address.
    """
    if address is None:
        where: dict[str, Any] = {"address": "local", "num_cpus": cpus, "_node_ip_address": "127.0.0.1"}
    else:
        _check_address(address)
        where = {"address": address}
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            **where,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if address is None:
            raise RunError(f"Ray does not start on this machine: {reason}; its logs are in /tmp/ray") from error
        raise RunError(f"--address {address}: no Ray cluster answers there: {reason}") from error
    _handle(ours)
    try:
        yield
    finally:
        ray.shutdown()
        _handle(ours)


def _handle(handlers: dict[signal.Signals, Any]) -> None:
    """Take back the signals that Ray's start and stop lay claim to: a polite stop is ours to answer."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _check_address(address: str) -> None:
    """Refuse an address where nothing listens, which Ray would wait for without end."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # `auto`, or a name that Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RunError(f"--address {address}: no Ray cluster answers there: {error}") from None


def check_resources(resources: ResourceConfig) -> None:
    """Refuse a trial that fits on no node, which Ray would wait for for ever.

    Raises:
        ConfigError: Names what is asked for and the largest node.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(n.get("CPU", 0) >= resources.cpus and n.get("GPU", 0) >= resources.gpus for n in nodes):
        most = max(nodes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)))
        raise ConfigError(
            f"resources: a trial asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs, but the largest node has "
            f"{most.get('CPU', 0):g} CPUs and {most.get('GPU', 0):g} GPUs; lower resources.cpus or resources.gpus"
        )


def capacity(resources: ResourceConfig) -> int:
    """How many trials run at a time."""
    count = 0
    for node in ray.nodes():
        have = node["Resources"] if node["Alive"] else {}
        fits = int(have.get("CPU", 0) // resources.cpus)
        if resources.gpus:
            fits = min(fits, int(have.get("GPU", 0) / resources.gpus + 1e-9))
        count += fits
    return max(1, count)
