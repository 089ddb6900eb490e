"""The files in cluster/: what Ray, Kubernetes and Slurm would say of them; and what is said of faulty ones."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stssl.cli.app import main
from stssl.errors import ConfigError, RunError
from stssl.search import clusters, jobs
from stssl.search.config import SearchConfig

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
LAUNCHERS = ["local", "onprem", "aws", "gcp"]
DEMO = ROOT / "search_spaces" / "demo.yaml"

# Fields of ray.io/v1 as KubeRay's API reference lists them (RayJobSpec, RayClusterSpec, AutoscalerOptions, HeadGroupSpec,
# WorkerGroupSpec); pods are left to Kubernetes' own schema. The resource definition itself would refuse no more.
TEXT, COUNT, FLAG, MAP = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


GROUP = {"rayStartParams": TEXTS, "template": MAP, "resources": TEXTS, "labels": TEXTS}
WORKERS = fields(
    ("groupName", "rayStartParams", "template", "maxReplicas", "minReplicas"),
    groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, numOfHosts=COUNT, suspend=FLAG,
    idleTimeoutSeconds=COUNT, scaleStrategy=MAP, **GROUP,
)  # fmt: skip
CLUSTER = fields(
    ("headGroupSpec",),
    rayVersion=TEXT, enableInTreeAutoscaling=FLAG, suspend=FLAG, managedBy=TEXT, headServiceAnnotations=TEXTS,
    gcsFaultToleranceOptions=MAP, upgradeStrategy=MAP,
    authOptions=fields(mode={"enum": ["disabled", "token"]}),
    autoscalerOptions=fields(
        idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, resources=MAP, image=TEXT,
        imagePullPolicy=TEXT, env={"type": "array"}, envFrom={"type": "array"}, volumeMounts={"type": "array"}, version=TEXT,
        securityContext=MAP,
    ),
    headGroupSpec=fields(("template", "rayStartParams"), serviceType=TEXT, headService=MAP, enableIngress=FLAG, **GROUP),
    workerGroupSpecs={"type": "array", "items": WORKERS},
)  # fmt: skip
RAYJOB = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"}, metadata=MAP,
    spec=fields(
        activeDeadlineSeconds=COUNT, backoffLimit=COUNT, rayClusterSpec=CLUSTER, submitterPodTemplate=MAP, metadata=TEXTS,
        clusterSelector=TEXTS, submitterConfig=fields(backoffLimit=COUNT), managedBy=TEXT, deletionStrategy=MAP, entrypoint=TEXT,
        runtimeEnvYAML=TEXT, jobId=TEXT, submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypointResources=TEXT, entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"},
        ttlSecondsAfterFinished=COUNT, shutdownAfterJobFinishes=FLAG, suspend=FLAG,
    ),
)  # fmt: skip


def filled(name: str, folder: Path) -> Path:
    """A file of cluster/ with all blanks filled in."""
    path = folder / name
    path.write_text((FOLDER / name).read_text().replace("FILL_IN", "filled"))
    return path


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_takes_it(name: str, tmp_path: Path) -> None:
    path = filled(f"{name}.yaml", tmp_path)
    cluster = clusters.read(path)
    assert isinstance(cluster, clusters.Launcher) and cluster.port == 8265 and cluster.local == (name == "local")
    assert cluster.nodes == (2 if name == "onprem" else 1)
    starts = [c for key in ("head", "worker") for c in cluster.config[f"{key}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == (1 if name == "local" else 2)
    assert all("RAY_AUTH_MODE=token ray start" in c or "RAY_AUTH_MODE=token RAY_ENABLE" in c for c in starts)
    assert all("--dashboard-host=127.0.0.1" in c for c in starts if "--head" in c)
    if name in ("aws", "gcp"):
        head = cluster.config["available_node_types"]["head"]
        assert head["resources"]["CPU"] == 0 and cluster.growth == [(8, {"CPU": 8, "GPU": 1})]
        worker = cluster.config["available_node_types"]["gpu_spot"]
        assert worker["min_workers"] == 0 and "spot" in json.dumps(worker["node_config"]).lower()


@pytest.mark.parametrize("path", sorted(p for p in FOLDER.iterdir() if p.suffix != ".md"), ids=lambda p: p.name)
def test_a_header_says_what_to_do(path: Path) -> None:
    header = path.read_text().partition("\n\n")[0]
    if path.name == "Dockerfile":
        assert "docker build" in header and "docker push" in header
        return
    assert re.search(r"^# To fill in: ", header, re.MULTILINE)
    assert "python launch.py submit search_spaces/" in header and f"--cluster cluster/{path.name}" in header
    assert re.search(r" stop( |$)", header, re.MULTILINE)


@pytest.mark.parametrize("name", ["onprem.yaml", "aws.yaml", "gcp.yaml", "kuberay.yaml"])
def test_a_blank_is_refused(name: str) -> None:
    lines = (FOLDER / name).read_text().splitlines()
    first = next(n for n, line in enumerate(lines, start=1) if "FILL_IN" in line.partition("#")[0])
    with pytest.raises(ConfigError, match=f"{name}, line {first}: FILL_IN is still to be filled in"):
        clusters.read(FOLDER / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_worker": 3}, "'max_worker' was unexpected"),
        ({"max_workers": "many"}, "max_workers: 'many' is not of type 'integer'"),
        ({"max_workers": 1}, "gpu_spot.max_workers: 8 is above max_workers 1"),
        ({"provider": {"type": "nowhere"}}, "Ray does not take it"),
        ({"head_node_type": "heads"}, "Ray does not take it"),
        ({"provider": "aws"}, "describes no cluster"),
        ({"cluster_name": None}, "aws.yaml"),
    ],
)
def test_faults_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = filled("aws.yaml", tmp_path)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        clusters.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_file_of_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        clusters.read(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"demo.yaml: describes no cluster: .*cluster/ has examples"):
        clusters.read(DEMO)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.yaml: cannot be read"):
        clusters.read(tmp_path / "x.yaml")


def test_the_ray_job(tmp_path: Path) -> None:
    cluster = clusters.read(filled("kuberay.yaml", tmp_path))
    assert isinstance(cluster, clusters.KubeRay)
    package = tmp_path / "package"
    jobs.pack(package, SearchConfig.read(DEMO))
    arguments = ["search", jobs.SPACE, "--out", "s3://bucket/run"]
    map_, job = yaml.safe_load_all(cluster.manifests(package, arguments, "My_Search"))
    from jsonschema import validate  # type: ignore[import-untyped]

    validate(job, RAYJOB)
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(map_, version, strict=True)
    spec = job["spec"]
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for template in [group["template"] for group in groups] + [spec["submitterPodTemplate"]]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, version, strict=True)
    name = job["metadata"]["name"]
    assert re.fullmatch(r"stssl-my-search-\d{4}-\d{6}", name) and map_["metadata"]["name"] == name
    assert spec["submitterPodTemplate"]["spec"]["volumes"] == [{"name": "package", "configMap": {"name": name}}]
    assert spec["entrypoint"] == "python launch.py search search.yaml --out s3://bucket/run"
    grows = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"][clusters.GROWTH]
    assert json.loads(grows) == [[8, {"CPU": 8.0, "GPU": 1.0}]]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["rayVersion"] == pinned("ray")
    # the package is a program that runs
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(map_["binaryData"]["stssl.zip"]))) as archive:
        archive.extractall(tmp_path / "there")
    done = subprocess.run(
        [sys.executable, "launch.py", "search", "--help"], cwd=tmp_path / "there", capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0 and "--go-on" in done.stdout
    assert SearchConfig.read(tmp_path / "there" / jobs.SPACE) == SearchConfig.read(DEMO)


def test_a_ray_job_without_its_parts(tmp_path: Path) -> None:
    path = filled("kuberay.yaml", tmp_path)
    data = yaml.safe_load(path.read_text())
    del data["spec"]["submitterPodTemplate"]
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"spec\.submitterPodTemplate\.spec\.volumes: missing"):
        clusters.read(path)


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found.group(1)


def test_the_container_has_the_pinned_set() -> None:
    """What Docker would do here by hand, as far as that goes: every file is there, and the pins rule."""
    text = (FOLDER / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1])
    assert "pip install --no-cache-dir --constraint constraints.txt '.[cloud]'" in text
    python = re.search(r"^FROM python:([\d.]+)", text, re.MULTILINE)
    assert python and python.group(1) == "3.11"  # that of constraints.txt


# Stands for Slurm's programs: runs the steps on this machine, and notes how they were called.
SHIM = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0")" in
    scontrol) echo localhost ;;
    sbatch) echo Submitted batch job 42 ;;
    srun) while [[ $1 == --* ]]; do shift; done; exec "$@" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's programs as shims; yields the file with their calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        (folder / name).write_text(SHIM)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_the_slurm_script() -> None:
    script = FOLDER / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run(
        ["bash", script, "search", "search.yaml", "--out", "/shared/run"], env=os.environ | {"DRY_RUN": "1", "PORT": "6379"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    head, worker, driver = sorted(done.stdout.splitlines(), key=lambda line: ("launch.py" in line, "--address" in line))
    step = "srun --overlap --nodes=1 --ntasks=1 --cpus-per-task=1"
    assert head.startswith(f"{step} --nodelist=first ray start --head --port=6379")
    assert worker.startswith(f"{step} --nodelist=second ray start --address=first:6379")
    assert driver == "python launch.py search search.yaml --out /shared/run --address first:6379"


def test_submitted_to_slurm(slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "x"
    command = ["submit", str(DEMO), "--cluster", str(FOLDER / "slurm.sbatch"), "--out", str(run)]
    assert main([*command, "--dry-run"]) == 0 and not slurm.exists()
    assert main(command) == 0
    said = capsys.readouterr()
    assert "Submitted batch job 42" in said.out and "scancel --signal=TERM --batch 42" in said.out
    assert "every node is to find the shards at" in said.err
    (package,) = run.parent.iterdir()
    assert (package / "launch.py").exists() and (package / "search.yaml").exists()
    options = f"--chdir={package} --output={package}/slurm-%j.log"
    arguments = f"search search.yaml --out {run} --go-on"
    assert slurm.read_text() == f"sbatch {options} {FOLDER}/slurm.sbatch {arguments}\n"


def test_programs_that_are_missing_or_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"slurm.sbatch: `sbatch` is not on this machine"):
        clusters.Slurm(FOLDER / "slurm.sbatch").submit(tmp_path, [], print)
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    with pytest.raises(RunError, match=r"`sbatch .*` failed: no such partition"):
        clusters.Slurm(FOLDER / "slurm.sbatch").submit(tmp_path, [], print)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --cluster cluster/X.yaml or --address"),
        (["--cluster", "x", "--address", "y"], "either --cluster cluster/X.yaml or --address"),
        (["--address", "http://127.0.0.1:1"], "--out is needed"),
        (["--address", "http://127.0.0.1:1", "--out", "/x"], "no Ray jobs server answers there"),
        (["--address", "127.0.0.1:6379", "--out", "/x"], "give the jobs server, which is the dashboard's address"),
        (["--address", "http://h:1", "--out", "s3://me:word@b/x"], "holds credentials"),
        (["--address", "http://h:1", "--out", "abfss://c@a/x?client_secret=word"], "holds credentials"),
        (["--address", "http://me:word@127.0.0.1:1", "--out", "/x"], "holds credentials"),
        (["--address", "http://127.0.0.1:1/?token=word", "--out", "/x"], "holds credentials"),
        (["--address", "http://127.0.0.1:1", "--out", ""], "--out is empty"),
        (["--address", "http://127.0.0.1:1", "--out", "s3://"], "s3://"),
        (["--address", "http://127.0.0.1:1", "--out", "/x", "--python", "a'b"], "--python a'b: No closing quotation"),
        (["--cluster", str(FOLDER / "aws.yaml"), "--out", "/x"], "FILL_IN is still to be filled in"),
        (["--address", "http://h:1", "--out", "/x", "--set", "recipe.training.steps=1"], "eval_interval"),
    ],
)
def test_wrong_use(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", 64 * "0")
    assert main(["submit", str(DEMO), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "word" not in error and "Traceback" not in error


def test_a_token_that_cannot_be_sent_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs.programs, "answers", lambda *_: True)
    header = ValueError("Invalid leading whitespace in header value: 'Bearer word'")
    for fault in (header, UnicodeEncodeError("latin-1", "word", 0, 1, "")):
        refused = jobs.Jobs.__new__(jobs.Jobs)
        refused.address, refused._refused = "http://h:1", ConnectionError
        with pytest.raises(RunError, match="wants a token that this machine does not have") as said:
            refused._ask(lambda fault=fault: (_ for _ in ()).throw(fault))
        assert "word" not in str(said.value)


def test_a_local_cluster_says_itself_how_it_starts(tmp_path: Path) -> None:
    """Ray's own commands would stop all Ray on this machine, and listen everywhere."""
    data = yaml.safe_load((FOLDER / "local.yaml").read_text())
    del data["head_start_ray_commands"]
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="head_start_ray_commands: missing"):
        clusters.read(tmp_path / "local.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(metadata="x"), "metadata: expected a mapping"),
        (lambda d: d["spec"].update(rayClusterSpec="x"), "spec.rayClusterSpec: expected a mapping"),
        (
            lambda d: d["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(maxReplicas="x"),
            r"workerGroupSpecs\[0\]: maxReplicas",
        ),
        (lambda d: d["spec"]["submitterPodTemplate"]["spec"].update(volumes={}), "volumes: expected a list"),
    ],
)
def test_a_rayjob_of_another_shape(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    data = yaml.safe_load(filled("kuberay.yaml", tmp_path).read_text())
    change(data)
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=said):
        clusters.read(tmp_path / "changed.yaml")


def test_a_rayjob_without_limits_or_workers(tmp_path: Path) -> None:
    data = yaml.safe_load(filled("kuberay.yaml", tmp_path).read_text())
    group = data["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "8k"}
    assert clusters.KubeRay(tmp_path, data).growth == [(8, {"CPU": 8000, "GPU": 0})]
    group["template"]["spec"]["containers"][0]["resources"]["limits"] = None
    assert clusters.KubeRay(tmp_path, data).growth == [(8, {"CPU": 0, "GPU": 0})]
    data["spec"]["rayClusterSpec"]["workerGroupSpecs"] = None
    assert clusters.KubeRay(tmp_path, data).growth == []
