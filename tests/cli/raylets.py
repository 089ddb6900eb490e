"""A Ray cluster of several nodes on this machine, for tests: real raylets, on loopback, behind a token.

Run as a program, it takes one command a line and answers each with one line of JSON:
`add RESOURCES`, `kill NAME` (as a power cut does), `drain NAME MILLISECONDS`, `end`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # "one machine only": everything binds to loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "500",  # a dead node is noticed sooner
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


class Raylets:
    """A head node without CPUs, and worker nodes that come and go.

    Attributes:
        address: Of the cluster.
        jobs: The URL of its jobs server.
        folder: Where Ray keeps what belongs to its head node.
        environment: What programs need that connect to it.
        pid: The process above all of its processes.
        faults: A folder for `inject`, whose code all workers run that start later.
    """

    def __init__(self, folder: Path, head: dict[str, Any] | None = None) -> None:
        folder.mkdir()
        self.faults = folder / "faults"
        self.environment = ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": str(self.faults)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(head or {"num_cpus": 0})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
            env=os.environ | self.environment,
        )
        self.pid = self._process.pid
        said = self._hear()
        self.address, self.jobs, self.folder = said["address"], said["jobs"], said["folder"]
        self.nodes: list[str] = []

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError("the cluster has ended")

    def _say(self, *words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        return self._hear()

    def add(self, **resources: Any) -> str:
        """Start a node, such as `num_cpus=1`; returns its name."""
        name = str(self._say("add", json.dumps(resources))["name"])
        self.nodes.append(name)
        return name

    def kill(self, name: str) -> None:
        """A node and all its workers are gone at once."""
        self._say("kill", name)
        self.nodes.remove(name)

    def drain(self, name: str, seconds: float) -> None:
        """Tell the cluster that a node will be taken away, as a cloud does with a spot machine."""
        milliseconds = time.time_ns() // 1_000_000 + int(1000 * seconds)
        assert self._say("drain", name, str(milliseconds))["accepted"]

    def poll(self) -> int | None:
        """Like a process: its exit code if the cluster is gone."""
        return self._process.poll()

    def close(self) -> None:
        """End all of it."""
        assert self._process.stdin is not None
        try:
            print("end", file=self._process.stdin, flush=True)
            self._process.wait(60)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


def _serve() -> None:
    from ray._private.utils import write_ray_address
    from ray.cluster_utils import Cluster

    above = tempfile.mkdtemp(prefix="stssl-", dir="/tmp")  # short: sockets lie in it
    ports = {"dashboard_port": 0, "dashboard_agent_listen_port": 0}  # any that are free
    head = {"include_dashboard": True, "temp_dir": f"{above}/head", **ports, **json.loads(sys.argv[1])}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    nodes: dict[str, Any] = {}
    # by which a job finds its cluster, among others on this machine
    write_ray_address(cluster.address, f"{above}/head")
    about = {"address": cluster.address, "jobs": f"http://{cluster.webui_url}", "folder": f"{above}/head"}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        said: dict[str, Any] = {}
        if word == "add":
            name = f"n{time.monotonic_ns()}"
            folder = tempfile.mkdtemp(prefix="ray-", dir=above)  # else all nodes would unpack a job into one
            nodes[name] = cluster.add_node(**{"temp_dir": folder, **json.loads(rest)})
            said["name"] = name
        elif word == "kill":
            cluster.remove_node(nodes.pop(rest), allow_graceful=False)
        elif word == "drain":
            name, _, deadline = rest.partition(" ")
            from ray._raylet import GcsClient
            from ray.core.generated import autoscaler_pb2

            client = GcsClient(address=cluster.address)
            reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
            said["accepted"] = bool(client.drain_node(nodes[name].node_id, reason, "spot", int(deadline))[0])
        else:
            break
        print(json.dumps(said), flush=True)
    cluster.shutdown()
    shutil.rmtree(above, ignore_errors=True)


if __name__ == "__main__":
    _serve()
