"""The YAML of a cluster: what it says, whether it is right, and how to get to its jobs server."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stssl.config import read_yaml
from stssl.errors import ConfigError, RunError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
START_SECONDS = 120.0


class Launcher:
    """A file of Ray's cluster launcher (`ray up`).

    Args:
        path: The file.

    Attributes:
        local: It describes this machine, where its commands are run without ssh.
        port: Of the jobs server on the head node.

    Raises:
        ConfigError: Ray would not take it; names the key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = _validated(path)
        provider = self.config["provider"]
        self.local = provider.get("type") == "local" and provider.get("head_ip") in LOOPBACK
        start = " ".join(self.config.get("head_start_ray_commands", []))
        found = re.search(r"--dashboard-port[= ](\d+)", start)
        self.port = int(found.group(1)) if found else 8265

    @contextmanager
    def reach(self, say: Callable[[str], Any]) -> Iterator[str]:
        """Start the cluster if it does not run yet, and yield the address of its jobs server.

        Args:
            say: Told what happens.

        Raises:
            RunError: It does not come up.
        """
        address = f"http://127.0.0.1:{self.port}"
        if self.local:
            if not _open(self.port):
                say(f"starting Ray on this machine ({self.path})")
                self._start_here()
            yield address
            return
        say(f"ray up {self.path} (what it prints follows)")
        if subprocess.run([*_RAY, "up", "--yes", "--no-restart", str(self.path)], check=False).returncode:
            raise RunError(f"{self.path}: the cluster did not come up; what `ray up` printed says why")
        if _open(self.port):
            raise RunError(
                f"{self.path}: port {self.port} of this machine, through which the cluster's jobs server is to be reached, is "
                f"taken; stop what listens there, or open a tunnel yourself and submit with --address"
            )
        tunnel = subprocess.Popen(
            [*_RAY, "dashboard", "--port", str(self.port), "--remote-port", str(self.port), str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the log, and the tunnel after it
        )
        try:
            _wait_open(self.port, str(self.path), tunnel)
            yield address
        finally:
            tunnel.terminate()

    def _start_here(self) -> None:
        # `ray` is the one of this environment, which need not be activated
        environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        for command in self.config["head_start_ray_commands"]:
            done = subprocess.run(
                ["bash", "-c", command],
                env=environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            if done.returncode:
                reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
                raise RunError(f"{self.path}: Ray did not start: {reason[-1] if reason else command}")
        _wait_open(self.port, str(self.path))

    def most_nodes(self) -> list[dict[str, float]]:
        """Resources of every node that the cluster may grow to, as far as the file names them."""
        types = self.config.get("available_node_types", {})
        nodes = []
        for name, kind in types.items():
            count = 1 if name == self.config.get("head_node_type") else kind.get("max_workers", 0)
            nodes += [dict(kind.get("resources", {}))] * min(count, self.config.get("max_workers", 0) + 1)
        return nodes


_RAY = (sys.executable, "-m", "ray.scripts.scripts")


def read(path: Path) -> Launcher:
    """The cluster that a file describes.

    Raises:
        ConfigError: It describes none, or not rightly.
    """
    return Launcher(path)


def _validated(path: Path) -> dict[str, Any]:
    """The file as Ray completes it: Ray's own check, told in one sentence."""
    data = read_yaml(path)
    if not isinstance(data.get("provider"), dict) or "cluster_name" not in data:
        raise ConfigError(f"{path}: describes no cluster (no cluster_name, or no provider); cluster/ has examples")
    from jsonschema import ValidationError  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        config: dict[str, Any] = prepare_config(data)
        validate_config(config)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.absolute_path) or "the file"
        raise ConfigError(f"{path}: {key}: {error.message.splitlines()[0]}") from None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"{path}: Ray does not take it: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None
    return config


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_open(port: int, source: str, process: subprocess.Popen[bytes] | None = None) -> None:
    until = time.monotonic() + START_SECONDS
    while not _open(port):
        if process is not None and process.poll() is not None:
            raise RunError(f"{source}: no tunnel to the head node could be opened; does `ray attach {source}` work?")
        if time.monotonic() > until:
            raise RunError(f"{source}: nothing listens at port {port} after {START_SECONDS:g} s")
        time.sleep(0.3)
