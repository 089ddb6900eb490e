"""How many trials fit, now and on a cluster as large as it may grow; what a node may say at the preflight; the cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stssl.cli.app import main
from stssl.data.shards import read_card
from stssl.errors import ConfigError
from stssl.search import cluster, cost, preflight
from stssl.search.config import ResourceConfig

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
