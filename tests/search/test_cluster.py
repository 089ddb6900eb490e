"""How many trials fit, now and on a cluster as large as it may grow; what a node may say at the preflight; the cost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stssl.cli.app import main
from stssl.cli.search import _as_asked
from stssl.data.shards import read_card
from stssl.errors import ConfigError, DataError, RunError
from stssl.search import cluster, cost, driver, preflight
from stssl.search.config import ResourceConfig
from stssl.search.trial import RecipeTrial, memory_share
from stssl.storage import Folder

PATCHES = Path(__file__).parents[2] / "data" / "eurosat_ms_103"


@pytest.mark.parametrize(
    ("asked", "have", "count"),
    [
        ({"cpus": 1}, {"CPU": 4}, 4),
        ({"cpus": 3}, {"CPU": 8}, 2),
        ({"cpus": 1}, {"memory": 1e9}, 0),
        ({"cpus": 2, "gpus": 1}, {"CPU": 16, "GPU": 4}, 4),
        ({"cpus": 8, "gpus": 1}, {"CPU": 16, "GPU": 4}, 2),
        ({"cpus": 1, "gpus": 0.25}, {"CPU": 16, "GPU": 2}, 8),
        ({"cpus": 1, "gpus": 0.4}, {"CPU": 16, "GPU": 2}, 4),  # a share lies on one GPU
        ({"cpus": 1, "gpus": 0.1}, {"CPU": 64, "GPU": 3}, 30),
        ({"cpus": 1, "gpus": 2}, {"CPU": 16, "GPU": 5}, 2),
        ({"cpus": 1, "custom": {"big": 0.5}}, {"CPU": 16, "big": 1}, 2),
        ({"cpus": 1, "custom": {"big": 0.5}}, {"CPU": 16}, 0),
    ],
)
def test_how_many_trials_fit_on_a_node(asked: dict[str, Any], have: dict[str, float], count: int) -> None:
    assert cluster.fitting(ResourceConfig(**asked), have) == count


def nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    listed = [{"Alive": True, "Resources": r} for r in resources] + [{"Alive": False, "Resources": {"CPU": 512}}]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: listed)


def test_a_cluster_that_may_grow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    nodes(monkeypatch, {"CPU": 0}, {"CPU": 8, "GPU": 1})
    one, four = ResourceConfig(cpus=4, gpus=1), ResourceConfig(cpus=4, gpus=4)
    assert (cluster.capacity(one), cluster.most_capacity(one)) == (1, 1)
    with pytest.raises(ConfigError, match=r"asks for 4 CPUs and 4 GPUs, but the largest node has 8 CPUs and 1 GPUs"):
        cluster.check_resources(four)
    # what `ray up` leaves on a head node
    (tmp_path / "ray_bootstrap_config.yaml").write_text(
        "available_node_types: {head: {max_workers: 0, resources: {CPU: 0}}, gpu: {max_workers: 8, resources: {CPU: 8, GPU: 1}}}"
    )
    assert (cluster.capacity(one), cluster.most_capacity(one)) == (1, 8)
    with pytest.raises(ConfigError, match="the largest node has 8 CPUs and 1 GPUs"):
        cluster.check_resources(four)
    monkeypatch.setenv(cluster.GROWTH, json.dumps([[3, {"CPU": 64, "GPU": 4}]]))
    cluster.check_resources(four)
    assert (cluster.capacity(one), cluster.most_capacity(one), cluster.most_capacity(four)) == (1, 12, 3)
    (tmp_path / "ray_bootstrap_config.yaml").write_text("nonsense")
    monkeypatch.delenv(cluster.GROWTH)
    assert cluster.growth() == []


def test_what_a_node_may_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STSSL_CACHE", str(tmp_path / "cache"))
    shards = tmp_path / "shards"
    assert main(["prepare", "eurosat", str(PATCHES), "--out", str(shards)]) == 0
    card, run, here = read_card(shards), tmp_path / "run", preflight._about()
    found = preflight._probe(str(shards), str(run), "mark", here, card)
    assert found["faults"] == [] and (run / "mark").exists()

    def fault(shards: object = shards, run: object = run, driver: Any = here, card: Any = card) -> str:
        (only,) = preflight._probe(str(shards), str(run), "mark", driver, card)["faults"]
        return str(only)

    assert (
        fault(driver=here | {"torch": "1.0"})
        == f"torch is {here['torch']}, and 1.0 at the driver; install the same everywhere"
    )
    assert "stssl's code is" in fault(driver=here | {"stssl's code": "x"})
    assert "cannot read the shards" in fault(shards=tmp_path / "nowhere")
    assert "are others (fingerprint" in fault(card=card.model_copy(update={"fingerprint": "0" * 64}))
    (tmp_path / "file").touch()
    assert "cannot write into the run folder" in fault(run=tmp_path / "file" / "run")
    assert "cache needs" in fault(card=card.model_copy(update={"count": 10**12}))
    monkeypatch.setenv("STSSL_CACHE", str(tmp_path / "file" / "cache"))
    assert "its cache" in fault() and "set STSSL_CACHE to another folder" in fault()


def test_the_cost(search_config: Any, make_trainer: Any) -> None:
    config = search_config(trials=9)
    expected = cost.expected(config)
    ladder = config.ladder
    assert ladder[0] * 9 <= expected.steps <= ladder[-1] * 9
    assert expected.replicates == (config.replicates.top + 1) * config.replicates.seeds * ladder[-1]
    trainer = make_trainer("single")
    assert 0 < cost.seconds_per_step(trainer.recipe, trainer.dataset, ResourceConfig()) < 20


def test_shares_of_gpus() -> None:
    for fine in (0, 0.5, 1, 2):
        ResourceConfig(gpus=fine)
    with pytest.raises(ValueError, match=r"a part of one GPU or a whole number of them, got 1\.5"):
        ResourceConfig(gpus=1.5)


def test_nodes_that_were_promised_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.NODES, "3")
    nodes(monkeypatch, {"CPU": 0})
    monkeypatch.setattr(cluster.time, "sleep", lambda _: nodes(monkeypatch, {"CPU": 0}, {"CPU": 1}, {"CPU": 1}))
    cluster.wait_for_nodes()
    assert cluster.room(ResourceConfig()) == 2
    nodes(monkeypatch, {"CPU": 0})
    monkeypatch.setattr(cluster, "NODES_SECONDS", 0)
    cluster.wait_for_nodes()  # not for ever


def test_a_cluster_without_room_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    resources = ResourceConfig(gpus=1)
    looks = SimpleNamespace(look=lambda: None)
    study = SimpleNamespace(config=SimpleNamespace(resources=resources))
    ticker = driver._Ticker(SimpleNamespace(study=study, run=Folder(tmp_path), look=lambda: None), looks, print)
    nodes(monkeypatch, {"CPU": 0}, {"CPU": 4, "GPU": 1})
    ticker._roomless -= driver.NO_ROOM_SECONDS + 1
    ticker._look()
    nodes(monkeypatch, {"CPU": 0})
    ticker._look()
    ticker._roomless -= driver.NO_ROOM_SECONDS + 1
    monkeypatch.setenv(cluster.GROWTH, json.dumps([[1, {"CPU": 4, "GPU": 1}]]))
    ticker._look()  # the cloud may have none at the moment
    monkeypatch.delenv(cluster.GROWTH)
    ticker._roomless = time.monotonic() - driver.NO_ROOM_SECONDS - 1
    with pytest.raises(
        RunError, match="for 10 minutes there has been no node on which a trial fits; every trial is kept"
    ):
        ticker._look()


def test_nodes_of_a_machine_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*nodes: tuple[str, str], working_dir: str = "gcs://x.zip") -> None:
        alive = [{"Alive": True, "NodeManagerHostname": h, "RayletSocketName": f"{f}/sockets/raylet"} for h, f in nodes]
        monkeypatch.setattr(preflight.ray, "nodes", lambda: alive)
        context = SimpleNamespace(runtime_env={"working_dir": working_dir} if working_dir else {})
        monkeypatch.setattr(preflight.ray, "get_runtime_context", lambda: context)
        preflight._check_folders()

    look(("a", "/tmp/ray/s"), ("b", "/tmp/ray/s"), ("a", "/tmp/other/s"))
    look(("a", "/tmp/ray/s"), ("a", "/tmp/ray/s"), working_dir="")  # no code travels
    with pytest.raises(RunError, match="2 nodes on a share the folder /tmp/ray/s, where each would unpack"):
        look(("a", "/tmp/ray/s"), ("a", "/tmp/ray/s"), ("b", "/tmp/ray/s"))


def test_a_driver_reads_its_code_before_it_connects() -> None:
    """What Ray does to a job's folder afterwards is no matter to it."""
    program = """
import sys, tempfile, shutil, stssl, pathlib
from stssl.search import preflight
preflight.load_code()
package = pathlib.Path(stssl.__file__).parent
names = {".".join(p.relative_to(package.parent).with_suffix("").parts) for p in package.rglob("*.py")}
print(sorted(n for n in names if n.removesuffix(".__init__") not in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_a_cluster_that_does_not_grow_is_told_and_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cluster.GROWTH, json.dumps([[1, {"CPU": 4, "GPU": 1}]]))
    monkeypatch.setattr(driver.autoscaler, "status", lambda: "Recent failures: none left")
    nodes(monkeypatch, {"CPU": 0})
    study = SimpleNamespace(config=SimpleNamespace(resources=ResourceConfig(gpus=1)))
    looks, said = SimpleNamespace(look=lambda: None), list[str]()
    searcher: Any = SimpleNamespace(study=study, run=Folder(tmp_path), look=lambda: None)
    ticker = driver._Ticker(searcher, looks, print, say=said.append)  # type: ignore[arg-type]
    ticker._look()
    assert not said
    for _ in range(2):
        ticker._roomless = time.monotonic() - driver.SAY_SECONDS - 1
        ticker._look()
    assert len(said) == 1 and "for 5 minutes no node has come" in said[0] and "Recent failures: none left" in said[0]
    nodes(monkeypatch, {"CPU": 4, "GPU": 1})
    ticker._look()  # one has come
    nodes(monkeypatch, {"CPU": 0})
    ticker._look()
    assert len(said) == 1
    ticker._roomless = time.monotonic() - driver.NO_GROWTH_SECONDS - 1
    with pytest.raises(
        RunError, match=r"for 30 minutes no node has come.*none left.*python launch.py resume .*submit it again"
    ):
        ticker._look()


def test_a_worker_looks_at_its_node(tmp_path: Path) -> None:
    trial, run = RecipeTrial.__new__(RecipeTrial), tmp_path / "run"
    trial.run_folder = Folder(run)
    dataset: Any = SimpleNamespace(store=SimpleNamespace(card=SimpleNamespace(fingerprint="a" * 64)))
    with pytest.raises(DataError, match=f"{run} is not there; --out must be a folder that all nodes share"):
        trial._check_node("/shards", dataset)
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"data": {"fingerprint": "a" * 64}}))
    trial._check_node("/shards", dataset)
    (run / "manifest.json").write_text(json.dumps({"data": {"fingerprint": "b" * 64}}))
    with pytest.raises(DataError, match=r"others than the driver's \(fingerprint aaaaaaaaaaaa, not bbbb"):
        trial._check_node("/shards", dataset)


def test_shares_of_a_gpu_leave_room_for_cuda() -> None:
    total = 80 << 30
    assert 0.49 < memory_share(0.5, total) < 0.5 and 2 * (memory_share(0.5, total) * total + (600 << 20)) <= total
    assert memory_share(0.1, 4 << 30) == 0.05  # never nothing


def test_a_job_that_was_stopped_is_done(tmp_path: Path) -> None:
    for stop, code in ((False, 130), (True, 0)):
        if stop:
            (tmp_path / "stop").touch()
        with pytest.raises(typer.Exit) as end, _as_asked(Folder(tmp_path)):
            raise typer.Exit(130)
        assert end.value.exit_code == code


@pytest.mark.parametrize(
    ("name", "said"), [("GPU", "set resources.gpus"), ("CPU", "set resources.cpus"), ("memory", "not for here")]
)
def test_rays_own_names_are_no_custom_resources(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ResourceConfig(custom={name: 1})


@pytest.mark.parametrize("text", ["", "nonsense", "null", "[[1]]", '[["a", {}]]', '[[1, {"CPU": "a"}]]'])
def test_a_nonsense_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.GROWTH, text)
    with pytest.raises(ConfigError, match=r"STSSL_CLUSTER_GROWTH=.*expected"):
        cluster.growth()
    monkeypatch.setenv(cluster.NODES, text)
    with pytest.raises(ConfigError, match=r"STSSL_CLUSTER_NODES=.*expected a number"):
        cluster.wait_for_nodes()
