"""Shards written by the workers of a real Ray cluster on this machine."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stssl.data.prepare import prepare
from stssl.data.schema import Sample
from stssl.data.shards import PROGRESS, verify
from stssl.data.sources.base import Source
from stssl.errors import DataError


class Numbers(Source):
    """Random images; some of them do something to the worker that reads them."""

    name, task, classes, bands, licence, attribution = "numbers", "single", ("a", "b"), ("x",), "", ""

    def __init__(self, count: int, fatal: Path | None = None, damaged: int = -1, sleep: float = 0) -> None:
        self.ids = [f"s{index:03d}" for index in range(count)]
        self.fatal, self.damaged, self.sleep = fatal, damaged, sleep

    def read(self, index: int) -> Sample:
        time.sleep(self.sleep)
        if index == self.damaged:
            raise DataError(f"s{index:03d}.tif: damaged")
        if index == 17 and self.fatal is not None and not self.fatal.exists():
            self.fatal.write_text(str(os.getpid()))
            os._exit(1)
        image = np.random.default_rng(index).integers(0, 255, (1, 8, 8)).astype(np.uint8)
        return Sample(self.ids[index], image, ("ab"[index % 2],), float(index % 90), 0.0, 17000.0, None)


@pytest.fixture(scope="module")
def on_ray() -> Iterator[object]:
    from stssl.search import ray_environment

    ray_environment.prepare(None)
    from stssl.data import parallel
    from stssl.search import cluster

    with cluster.connected(None, 2):
        import ray

        ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))  # workers do not have the tests
        yield parallel.on_ray


def test_same_bytes(on_ray, tmp_path: Path) -> None:
    alone, *_ = prepare(Numbers(40), tmp_path / "alone", rows_per_shard=7)
    seen: list[int] = []
    spread, *_ = prepare(
        Numbers(40), tmp_path / "ray", rows_per_shard=7, spread=on_ray, on_progress=lambda *now: seen.append(now[1])
    )
    assert spread == alone == verify(tmp_path / "ray")  # the SHA-256 of every shard included
    assert seen[:2] == [40, 0] and seen[1:] == sorted(seen[1:]) and seen[-1] == 40 and len(seen) > 3


def test_a_worker_that_dies_is_replaced(on_ray, tmp_path: Path) -> None:
    fatal = tmp_path / "fatal"
    card, *_ = prepare(Numbers(40, fatal), tmp_path / "out", rows_per_shard=7, spread=on_ray)
    assert fatal.exists() and int(fatal.read_text()) != os.getpid()
    assert verify(tmp_path / "out") == card and card.count == 40
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith((".", PROGRESS))]


def test_a_damaged_image_is_named_and_what_is_done_is_kept(on_ray, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^s030.tif: damaged$"):
        prepare(Numbers(40, damaged=30), tmp_path / "out", rows_per_shard=5, spread=on_ray)
    kept = len(list((tmp_path / "out").glob("part-*.parquet")))
    assert 1 <= kept <= 7
    card, _, skipped = prepare(
        Numbers(40, damaged=30), tmp_path / "out", rows_per_shard=5, spread=on_ray, on_error="skip"
    )
    assert card.count == 39 and [entry.id for entry in skipped] == ["s030"]


def test_target_that_cannot_be_written(on_ray, tmp_path: Path) -> None:
    def lose_the_folder(task, jobs, on_rows):
        (tmp_path / "out").rmdir()
        (tmp_path / "out").write_text("a file")
        yield from on_ray(task, jobs, on_rows)

    with pytest.raises(DataError, match=r"out: cannot be written: .*run the same again"):
        prepare(Numbers(20), tmp_path / "out", rows_per_shard=5, spread=lose_the_folder)
