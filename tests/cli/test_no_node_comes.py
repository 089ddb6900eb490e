"""A cluster that could grow and does not: a real autoscaler, with an EC2 on loopback that has no machine for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from tests.cli.conftest import ROOT, events, inject, search_of
from tests.cli.raylets import Raylets
from tests.cli.test_cluster import check_whole, ended, start
from tests.search.clouds import Ec2, ec2

pytestmark = pytest.mark.soak


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2]:
    """With a head node, and what `ray up` leaves there in HOME."""
    with ec2() as cloud:
        for name, value in (cloud.environment | {"HOME": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)
        client = boto3.client("ec2")
        image = client.describe_images()["Images"][0]["ImageId"]
        subnet = client.describe_subnets()["Subnets"][0]["SubnetId"]
        boto3.client("iam").create_instance_profile(InstanceProfileName="filled")
        config = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text().replace("FILL_IN", "filled"))
        for kind in config["available_node_types"].values():
            kind["node_config"] |= {"ImageId": image, "SubnetIds": [subnet]}
        config["available_node_types"]["gpu_spot"]["resources"] = {"CPU": 1}
        config |= {"file_mounts": {}, "no_restart": False}
        config = prepare_config(config)
        (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
        tags = {"cluster-name": "stssl-aws", "node-type": "head", "user-node-type": "head", "node-status": "up-to-date"}
        head = client.run_instances(
            ImageId=image, MinCount=1, MaxCount=1, InstanceType="m7i.xlarge",
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": f"ray-{k}", "Value": v} for k, v in tags.items()]}
            ],
        )["Instances"][0]  # fmt: skip
        monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", head["InstanceId"])
        monkeypatch.setenv("RAY_NODE_TYPE_NAME", "head")
        yield cloud


def searched(cluster: Raylets, tmp_path: Path, *arguments: Any) -> tuple[int, str]:
    """Exit code and messages of a driver for which seconds stand for minutes."""
    short = tmp_path / "short"
    if not short.exists():
        inject(short, "stssl.search.driver", "SAY_SECONDS, NO_GROWTH_SECONDS = 15.0, 30.0")
    cluster.environment["PYTHONPATH"] = str(short)
    process: subprocess.Popen[str] = start(cluster, *arguments, "--address", cluster.address)
    _, err = ended(process)
    return process.returncode, err


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_cloud_has_none(
    version: str, cloud: Ec2, shards: Path, write: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cloud.refused["RunInstances"] = "InsufficientInstanceCapacity"
    monkeypatch.setenv("RAY_enable_autoscaler_v2", "1" if version == "2" else "0")
    run = tmp_path / "run"
    head = {"num_cpus": 0, "autoscaling_config": str(tmp_path / "ray_bootstrap_config.yaml")}
    cluster = Raylets(tmp_path / "raylets", head)
    try:
        code, err = searched(cluster, tmp_path, "search", write(search_of(shards)), "--out", run)
        print(err)
        assert code == 2 and f"python launch.py resume {run}" in err
        said = [line for line in err.splitlines() if "no node has come on which a trial fits" in line]
        assert len(said) == 2 and all("InsufficientInstanceCapacity" in line for line in said), err
        assert said[0].startswith("note: for 0.25 minutes") and said[1].startswith("error: for 0.5 minutes"), err
    finally:
        cluster.close()
    if version == "1":
        return
    for name in ("RAY_enable_autoscaler_v2", "RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME"):
        monkeypatch.delenv(name)
    cluster = Raylets(tmp_path / "later")
    try:
        cluster.add(num_cpus=1)
        code, err = searched(cluster, tmp_path, "resume", run)
        assert code == 0, err
        check_whole(run, [])
    finally:
        cluster.close()


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_autoscaler_lacks_a_package(
    version: str, cloud: Ec2, shards: Path, write: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As in an image without the extra `cloud`: the autoscaler is gone, and its error is told."""
    monkeypatch.setenv("RAY_enable_autoscaler_v2", "1" if version == "2" else "0")
    run = tmp_path / "run"
    head = {"num_cpus": 0, "autoscaling_config": str(tmp_path / "ray_bootstrap_config.yaml")}
    faults = tmp_path / "raylets" / "faults"
    monkeypatch.setattr(subprocess, "Popen", _with_package(faults / "boto3"))
    cluster = Raylets(tmp_path / "raylets", head)
    try:
        code, err = searched(cluster, tmp_path, "search", write(search_of(shards)), "--out", run)
        assert code == 2 and "requires the AWS SDK for Python (Boto3) to be installed" in err, err
        assert not any(e["event"] == "result" for e in events(run))
    finally:
        cluster.close()


def _with_package(folder: Path) -> Any:
    """Popen that puts a broken package where the new process finds it first."""
    popen = subprocess.Popen

    def start(*arguments: Any, **more: Any) -> Any:
        if arguments[0][0] == sys.executable and not folder.exists():
            folder.mkdir(parents=True)
            (folder / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')")
        return popen(*arguments, **more)

    return start
