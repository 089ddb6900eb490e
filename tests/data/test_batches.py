"""Draws are a pure function of (seed, step), and go through a pool without repeats."""

import copy
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl.data.batches import Batches, positions
from stssl.data.dataset import DataConfig, Dataset
from stssl.data.store import ImageStore


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**40), pool=st.integers(1, 30), size=st.integers(1, 70), steps=st.integers(1, 12))
def test_no_repeats_inside_an_epoch(seed: int, pool: int, size: int, steps: int) -> None:
    drawn = np.concatenate([positions(seed, 0, pool, size, step) for step in range(steps)])
    assert len(drawn) == steps * size
    for start in range(0, len(drawn), pool):
        epoch = drawn[start : start + pool]
        assert len(set(epoch)) == len(epoch) and (len(epoch) < pool or sorted(epoch) == list(range(pool)))
    np.testing.assert_array_equal(positions(seed, 0, pool, size, steps - 1), drawn[-size:])  # without what came before


@pytest.fixture
def dataset(store: ImageStore) -> Dataset:
    return Dataset(DataConfig(shards="x", bands=("B04", "B03", "B02"), labeled={"count": 10}), store)


def ids(dataset: Dataset, rows: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(place) for place in dataset.store.place[rows].tolist()}


def test_draw_is_pure(dataset: Dataset) -> None:
    first, again = (Batches(dataset, 8, 16, 3, "cpu") for _ in range(2))
    forward = [copy.deepcopy(first.draw(step)) for step in range(12)]
    backward = [copy.deepcopy(again.draw(step)) for step in reversed(range(12))][::-1]
    for one, two in zip(forward, backward, strict=True):
        for a, b in zip(one, two, strict=True):
            assert all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in zip(a[1:], b[1:], strict=True))
            np.testing.assert_array_equal(a.images.numpy(), b.images.numpy())


def test_pools_and_shapes(dataset: Dataset) -> None:
    labeled, unlabeled = Batches(dataset, 24, 63, 0, "cpu").draw(5)  # a batch larger than the pool of 10
    assert labeled.images.shape == (24, 3, 64, 64) and labeled.images.dtype == torch.uint16
    assert unlabeled is not None and unlabeled.labels.shape == (63,) and unlabeled.time.dtype == torch.float64
    assert {tuple(place) for place in labeled.place.tolist()} <= ids(dataset, dataset.split.labeled)
    assert {tuple(place) for place in unlabeled.place.tolist()} <= ids(dataset, dataset.split.unlabeled)
    assert Batches(dataset, 4, 0, 0, "cpu").draw(0)[1] is None


def test_seed_and_pool_matter(dataset: Dataset) -> None:
    draws = [Batches(dataset, 8, 8, seed, "cpu").draw(0)[0].labels.tolist() for seed in range(4)]
    assert len(set(map(tuple, draws))) > 1
    assert not np.array_equal(positions(0, 0, 50, 50, 0), positions(0, 1, 50, 50, 0))
    assert not np.array_equal(positions(0, 0, 50, 50, 0), positions(0, 0, 50, 50, 1))


def test_the_next_batch_is_fetched_meanwhile(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[int, str]] = []
    batches = Batches(dataset, 8, 16, 0, "cpu")
    fetch = batches._fetch
    monkeypatch.setattr(
        batches, "_fetch", lambda step: (fetched.append((step, threading.current_thread().name)), fetch(step))[1]
    )
    batches.draw(0)
    while len(fetched) < 2:
        time.sleep(0.001)  # nobody has asked for step 1
    assert fetched == [(0, "MainThread"), (1, "batches_0")]
    kept = [tensor.clone() for tensor in batches.draw(1)[0]]
    expected = Batches(dataset, 8, 16, 0, "cpu").draw(1)[0]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(kept, expected, strict=True))
    batches.draw(7)  # another step than the one that was fetched
    assert [step for step, name in fetched if name == "MainThread"] == [0, 7]


def test_a_fault_of_the_thread_reaches_the_caller(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(dataset, 8, 16, 0, "cpu")
    fetch = batches._fetch

    def fail(step: int) -> object:
        if step == 1:
            raise OSError("the disk is gone")
        return fetch(step)

    monkeypatch.setattr(batches, "_fetch", fail)
    batches.draw(0)
    with pytest.raises(OSError, match="the disk is gone"):
        batches.draw(1)
    monkeypatch.setattr(batches, "_fetch", fetch)
    assert batches.draw(1)[0].images.shape[0] == 8  # and it goes on once the disk is back
