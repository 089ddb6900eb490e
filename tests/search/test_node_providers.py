"""Ray's node providers of EC2 and Compute Engine, made from what a head node has: stssl with the extra `cloud`, without `dev`.

They start a node, tag it, see it and end it, on clouds on loopback, and need no rights but those that the cluster files name.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, requires
from pathlib import Path

import boto3
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.search import clouds

ROOT = Path(__file__).parents[2]

# Runs a provider where nothing can be imported but what the extra brings.
PROGRAM = """
import json, os, sys, time
from importlib.abc import MetaPathFinder

class Closed(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Closed())
provider, kind = json.loads(sys.argv[2]), json.loads(sys.argv[3])
if provider["type"] == "gcp":
    from googleapiclient import discovery
    def build(*arguments, original=discovery.build, **more):
        return original(*arguments, client_options={"api_endpoint": os.environ["ENDPOINT"]}, **more)
    discovery.build = build
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import generate_rsa_key_pair
generate_rsa_key_pair()  # as `ray up` does
nodes = _get_node_provider(provider, "stssl", use_cache=False)
nodes.create_node(kind, {"ray-node-type": "worker", "ray-node-name": "stssl-worker", "ray-user-node-type": "gpu_spot"}, 1)
(name,) = nodes.non_terminated_nodes({"ray-node-type": "worker"})
nodes.set_node_tags(name, {"ray-node-status": "up-to-date"})
nodes.is_running(name), nodes.node_tags(name)
nodes.terminate_node(name)
assert nodes.non_terminated_nodes({"ray-node-type": "worker"}) == []
print("started and ended", name)
"""


def closure(extra: str) -> set[str]:
    """The distributions that `pip install stssl[extra]` brings, by the metadata of those that are installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"][extra]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for wanted in {"", *requirement.extras}:
            name = canonicalize_name(requirement.name)
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            try:
                needs = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:
                continue  # of another platform
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": wanted})]
    return {name for name, _ in seen}


def blocked(extra: str) -> str:
    """The modules that nothing in the closure provides, as JSON."""
    there = closure(extra)
    rays_own = str(distribution("ray").locate_file("ray"))  # copies of others' packages, once Ray has been imported

    def brought(name: str) -> bool:
        return canonicalize_name(name) in there or str(distribution(name).locate_file("")).startswith(rays_own)

    modules = packages_distributions().items()
    return json.dumps(sorted(module for module, names in modules if not any(map(brought, names))))


def made(modules: str, name: str, environment: dict[str, str], folder: Path, **changes: str) -> None:
    """Run the program with provider and worker of a file in cluster/."""
    config = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text().replace("FILL_IN", "filled"))
    kind = config["available_node_types"]["gpu_spot"]["node_config"] | changes
    ours = ("PYTHONPATH", "RAY_AUTH_MODE")  # which another test may have set
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k not in ours}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, modules, json.dumps(config["provider"]), json.dumps(kind)],
        capture_output=True, text=True, timeout=120, cwd=folder, env=clean | environment | {"HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0 and "started and ended" in done.stdout, done.stderr


def test_dev_is_not_there() -> None:
    there = json.loads(blocked("cloud"))
    assert {"moto", "pytest", "duckdb"} <= set(there) and not {"boto3", "googleapiclient", "ray"} & set(there)


def test_ec2(tmp_path: Path) -> None:
    with clouds.ec2() as cloud, pytest.MonkeyPatch.context() as patch:
        for variable, value in cloud.environment.items():
            patch.setenv(variable, value)
        client = boto3.client("ec2")
        image = client.describe_images()["Images"][0]["ImageId"]
        subnet = client.describe_subnets()["Subnets"][0]["SubnetId"]
        boto3.client("iam").create_instance_profile(InstanceProfileName="filled")
        cloud.actions.clear()
        made(blocked("cloud"), "aws", cloud.environment, tmp_path, ImageId=image, SubnetIds=[subnet])  # type: ignore[arg-type]
        text = (ROOT / "cluster" / "aws.yaml").read_text()
        assert cloud.actions == {a for a in cloud.actions if f"ec2:{a}" in text} and "RunInstances" in cloud.actions
        assert "iam:PassRole" in text and "s3:PutObject" in text


def test_compute_engine(tmp_path: Path) -> None:
    with clouds.compute_engine() as cloud:
        environment = {
            "GCE_METADATA_HOST": cloud.address, "GCE_METADATA_IP": cloud.address, "CLOUDSDK_CONFIG": str(tmp_path),
            "ENDPOINT": f"http://{cloud.address}/compute/v1/",
        }  # fmt: skip
        made(blocked("cloud"), "gcp", environment, tmp_path)
        assert {"instances.insert", "instances.list", "instances.setLabels", "instances.delete"} <= cloud.methods
    text = (ROOT / "cluster" / "gcp.yaml").read_text()
    for role in ("compute.instanceAdmin.v1", "iam.serviceAccountUser", "storage.objectAdmin"):
        assert re.search(rf"^#.* roles/{re.escape(role)}\b", text, re.MULTILINE), role


def test_without_the_extra_there_is_none(tmp_path: Path) -> None:
    """What the tests above would say if the extra lacked a package."""
    modules = json.dumps([*json.loads(blocked("cloud")), "boto3"])
    with clouds.ec2() as cloud, pytest.raises(AssertionError, match="requires the AWS SDK for Python"):
        made(modules, "aws", cloud.environment, tmp_path)
