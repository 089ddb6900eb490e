"""The file of a cluster: what kind it is, whether it is right, and how a search gets there.

Three kinds, told apart by their content: a file of Ray's cluster launcher, whose jobs server takes the search; a RayJob for
KubeRay, and a batch script for Slurm, which bring a cluster along for one search.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stssl import config as cfg
from stssl.config import read_yaml
from stssl.errors import ConfigError, RunError
from stssl.search import auth_token
from stssl.search.programs import answers, call, environment, is_open, wait_open
from stssl.search.run_folder import commit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANSWER_SECONDS = 30.0  # of a jobs server that runs
BLANK = "FILL_IN"
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
Say = Callable[[str], Any]
Growth = list[tuple[int, dict[str, float]]]
GROWTH = "STSSL_CLUSTER_GROWTH"  # [[count, {resource: amount}], ...] in the environment of a search on a cluster
NODES = "STSSL_CLUSTER_NODES"  # how many nodes are to be there before the search begins; likewise


class Launcher:
    """A file of Ray's cluster launcher (`ray up`).

    Args:
        path: The file.
        data: What it says.

    Attributes:
        local: It describes this machine, where its commands are run without ssh.
        port: Of the jobs server on the head node.

    Raises:
        ConfigError: Ray would not take it; names the key.
    """

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.config = path, _validated(path, data)
        provider = self.config["provider"]
        self.local = provider.get("type") == "local" and provider.get("head_ip") in LOOPBACK
        # Ray's own commands would stop all Ray here, and listen everywhere
        if self.local and not data.get("head_start_ray_commands"):
            raise ConfigError(f"{path}: head_start_ray_commands: missing; cluster/local.yaml has it")
        start = " ".join(self.config.get("head_start_ray_commands", []))
        found = re.search(r"--dashboard-port[= ](\d+)", start)
        self.port = int(found.group(1)) if found else 8265

    @contextmanager
    def reach(self, say: Say) -> Iterator[str]:
        """Start the cluster if it does not run yet, and yield the address of its jobs server.

        Args:
            say: Told what happens.

        Raises:
            RunError: It does not come up.
        """
        address = f"http://127.0.0.1:{self.port}"
        if self.local:
            if not is_open(self.port):
                say(f"starting Ray on this machine ({self.path})")
                self._start_here()
            yield address
            return
        until = time.monotonic() + 15  # ssh keeps the tunnel of an earlier `submit` open for ten seconds
        while is_open(self.port) and time.monotonic() < until:
            time.sleep(1)
        if is_open(self.port):
            raise RunError(
                f"{self.path}: port {self.port} of this machine, through which the cluster's jobs server is to be reached, is "
                "taken; stop what listens there, or open a tunnel yourself and submit with --address"
            )
        auth_token.ensure()
        say(f"ray up {self.path}; what it prints follows")
        call([*_RAY, "up", "--yes", "--no-restart", str(self.path)], str(self.path))
        with self._tunnel():
            try:
                runs = answers(address, ANSWER_SECONDS)
            except RunError as error:
                raise RunError(
                    f"{self.path}: {error}, so nothing is started or restarted; see with `ray attach {self.path}` what the head "
                    f"node does, or restart Ray there with `ray up --restart-only {self.path}`"
                ) from None
            if runs:
                yield address
                return
        say(f"no jobs server answers on the head node: ray up --restart-only {self.path}")
        call([*_RAY, "up", "--yes", "--restart-only", str(self.path)], str(self.path))
        with self._tunnel():
            yield address

    @contextmanager
    def _tunnel(self) -> Iterator[None]:
        tunnel = subprocess.Popen(
            [*_RAY, "dashboard", "--port", str(self.port), "--remote-port", str(self.port), str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the log first, then the tunnel
        )
        try:
            wait_open(self.port, str(self.path), tunnel)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.killpg(tunnel.pid, signal.SIGTERM)  # ssh is a child of what we started
            tunnel.wait()

    def _start_here(self) -> None:
        auth_token.ensure()
        for command in self.config["head_start_ray_commands"]:
            call(["bash", "-c", command], str(self.path), quiet=True, variables=environment())
        wait_open(self.port, str(self.path))

    @property
    def nodes(self) -> int:
        """How many nodes there are to be from the start."""
        provider = self.config["provider"]
        return 1 + len(provider.get("worker_ips", [])) if provider.get("type") == "local" else 1

    @property
    def growth(self) -> Growth:
        """To how many nodes of each kind the cluster may grow, as far as the file names what they have."""
        kinds = self.config.get("available_node_types", {}).values()
        known = [(k.get("max_workers", 0), k["resources"]) for k in kinds if k.get("resources")]
        return [(count, dict(have)) for count, have in known if count]


class KubeRay:
    """A RayJob for the KubeRay operator.

    Args:
        path: The file.
        data: What it says.

    Raises:
        ConfigError: A part that is filled in here is missing; names it.
    """

    local = False

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.data = path, data
        for keys, kind in (
            (("metadata",), dict), (("spec", "rayClusterSpec"), dict), (("spec", "submitterPodTemplate", "spec", "volumes"), list)
        ):  # fmt: skip
            part: Any = data
            for key in keys:
                part = part.get(key) if isinstance(part, dict) else None
            if not part or not isinstance(part, kind):
                what = "missing" if part is None else f"expected a {'mapping' if kind is dict else 'list'}"
                raise ConfigError(f"{path}: {'.'.join(keys)}: {what}; cluster/kuberay.yaml has it")
        _ = self.growth  # which may be refused

    def manifests(self, package: Path, arguments: Sequence[str], name: str) -> str:
        """What is to be applied: a ConfigMap with the package, and the RayJob, as YAML.

        Args:
            package: The folder with code and space.
            arguments: Of `launch.py`.
            name: Of the search; with the time that of both.

        Raises:
            ConfigError: The package is more than a ConfigMap holds.
        """
        short = re.sub(r"[^a-z0-9-]+", "-", name.lower())[:20].strip("-")  # the operator adds to it, within 63 letters
        full = f"stssl-{short}-{time.strftime('%m%d-%H%M%S')}"
        content = base64.b64encode(_zipped(package)).decode()
        if len(content) > 1_000_000:
            raise ConfigError(f"{self.path}: code and space take {len(content)} bytes, and a ConfigMap holds a million")
        job = copy.deepcopy(self.data)
        metadata = job["metadata"]
        metadata["name"] = full
        about = {"name": full} | ({"namespace": metadata["namespace"]} if "namespace" in metadata else {})
        spec = job["spec"]
        spec["entrypoint"] = shlex.join(["python", "launch.py", *arguments])
        variables = {GROWTH: json.dumps(self.growth), "STSSL_COMMIT": commit() or ""}
        spec["runtimeEnvYAML"] = yaml.safe_dump({"working_dir": "/package/stssl.zip", "env_vars": variables})
        for volume in spec["submitterPodTemplate"]["spec"]["volumes"]:
            if isinstance(volume, dict) and "configMap" in volume:
                volume["configMap"] = {**(volume["configMap"] or {}), "name": full}
        map_ = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "binaryData": {"stssl.zip": content}}
        return yaml.safe_dump_all([map_, job], sort_keys=False)

    @property
    def growth(self) -> Growth:
        """To how many pods of each group the cluster may grow: what they have at most."""
        found: Growth = []
        try:
            for group in self.data["spec"]["rayClusterSpec"].get("workerGroupSpecs") or []:
                limits = (group["template"]["spec"]["containers"][0].get("resources") or {}).get("limits") or {}
                have = {"CPU": _quantity(limits.get("cpu", 0)), "GPU": _quantity(limits.get("nvidia.com/gpu", 0))}
                found.append((int(group.get("maxReplicas", 0)), have))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            at = f"{self.path}: spec.rayClusterSpec.workerGroupSpecs[{len(found)}]"
            raise ConfigError(
                f"{at}: maxReplicas, or the limits of its first container, cannot be understood: {type(error).__name__}: {error}"
            ) from None
        return found

    def submit(self, manifests: str, say: Say) -> None:
        """Apply them.

        Raises:
            RunError: kubectl is missing or refuses.
        """
        call(["kubectl", "create", "--filename", "-"], str(self.path), text=manifests)
        metadata = yaml.safe_load(manifests.rpartition("\n---\n")[2])["metadata"]
        name = metadata["name"] + (f" --namespace {metadata['namespace']}" if "namespace" in metadata else "")
        say(f"  kubectl get rayjob {name}      its state")
        say(f"  kubectl logs --follow job/{name}      what the driver prints")
        say(f"  kubectl delete rayjob,configmap {name}      stop it; submitted again it goes on")


def _quantity(value: Any) -> float:
    """A number as Kubernetes writes it: 8, 500m, 2k."""
    text = str(value)
    factor = {"m": 0.001, "k": 1000.0}.get(text[-1:], 1.0)
    return float(text[:-1] if text[-1:] in "mk" else text) * factor


class Slurm:
    """A batch script for Slurm.

    Args:
        path: The file.
    """

    local = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Refuse a machine from which nothing can be submitted.

        Raises:
            RunError: There is no sbatch.
        """
        if shutil.which("sbatch") is None:
            raise RunError(f"{self.path}: `sbatch` is not on this machine, and is needed to submit there")

    def submit(self, package: Path, arguments: Sequence[str], say: Say) -> None:
        """Hand the script to sbatch, to run in the package's folder.

        Raises:
            RunError: sbatch is missing or refuses.
        """
        log = package / "slurm-%j.log"
        command = ["sbatch", f"--chdir={package}", f"--output={log}", str(self.path.resolve()), *arguments]
        said = call(
            command, str(self.path), quiet=True, variables=environment() | {"STSSL_COMMIT": commit() or ""}
        ).strip()
        job = said.split()[-1] if said else "JOB"
        say(said)
        say(f"  squeue --jobs={job}      its state")
        say(f"  tail -F {package}/slurm-{job}.log      what the driver prints")
        say(f"  scancel --signal=TERM --batch {job}      stop it; submitted again it goes on")


def read(path: Path) -> Launcher | KubeRay | Slurm:
    """The cluster that a file describes.

    Raises:
        ConfigError: It describes none, or not rightly.
    """
    try:
        text = cfg.read_text(path)
    except ConfigError as error:
        raise ConfigError(f"--cluster {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if BLANK in line.partition("#")[0]:
            raise ConfigError(f"{path}, line {number}: {BLANK} is still to be filled in: {line.strip()}")
    if re.search(r"^#SBATCH\b", text, re.MULTILINE):
        return Slurm(path)
    data = read_yaml(path)
    if data.get("kind") == "RayJob":
        return KubeRay(path, data)
    if isinstance(data.get("provider"), dict) and "cluster_name" in data:
        return Launcher(path, data)
    raise ConfigError(
        f"{path}: describes no cluster: neither Ray's launcher (cluster_name, provider), nor a RayJob (kind), nor a script for "
        "Slurm (#SBATCH); cluster/ has examples of each"
    )


def _validated(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The file as Ray completes it: Ray's own check, told in one sentence."""
    from jsonschema import ValidationError  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
    try:
        config: dict[str, Any] = prepare_config(copy.deepcopy(data))
        validate_config(config)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.absolute_path)
        raise ConfigError(f"{path}: {f'{key}: ' if key else ''}{error.message.splitlines()[0]}") from None
    except Exception as error:  # Ray stumbles over what it does not expect in many ways
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ConfigError(f"{path}: Ray does not take it: {type(error).__name__}: {reason}") from None
    kinds = config.get("available_node_types", {})
    most = config.get("max_workers", 0)
    for name, kind in kinds.items():
        if kind.get("max_workers", 0) > most:
            raise ConfigError(
                f"{path}: available_node_types.{name}.max_workers: {kind['max_workers']} is above max_workers {most} of the whole"
            )
    return config


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return buffer.getvalue()
