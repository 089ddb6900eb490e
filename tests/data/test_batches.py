"""Draws are a pure function of (seed, step), and go through a pool without repeats."""

import copy
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl.data.balance import Balanced, groups
from stssl.data.batches import Batches, positions
from stssl.data.dataset import DataConfig, Dataset
from stssl.data.store import ImageStore
from stssl.errors import ConfigError


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**40), pool=st.integers(1, 30), size=st.integers(1, 70), steps=st.integers(1, 12))
def test_no_repeats_inside_an_epoch(seed: int, pool: int, size: int, steps: int) -> None:
    drawn = np.concatenate([positions(seed, 0, pool, size, step) for step in range(steps)])
    assert len(drawn) == steps * size
    for start in range(0, len(drawn), pool):
        epoch = drawn[start : start + pool]
        assert len(set(epoch)) == len(epoch) and (len(epoch) < pool or sorted(epoch) == list(range(pool)))
    np.testing.assert_array_equal(positions(seed, 0, pool, size, steps - 1), drawn[-size:])  # without what came before


def members_of(sizes: list[int]) -> list[np.ndarray]:
    """Groups of these sizes that share no member: 0 .. n-1, n .. n+m-1, ..."""
    return [np.arange(size) + sum(sizes[:at]) for at, size in enumerate(sizes)]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**40), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), size=st.integers(1, 70),
    steps=st.integers(1, 12),
)  # fmt: skip
def test_class_balanced_draws(seed: int, sizes: list[int], size: int, steps: int) -> None:
    members, sampler = members_of(sizes), Balanced(members_of(sizes), seed)
    each = [sampler.positions(size, step) for step in range(steps)]
    drawn = np.concatenate(each)
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    for start in range(0, len(drawn), len(sizes)):  # every round has every class once
        found = group_of[drawn[start : start + len(sizes)]]
        assert len(set(found)) == len(found)
    for group in members:  # and goes through its images without repeats
        own = drawn[np.isin(drawn, group)]
        for start in range(0, len(own), len(group)):
            epoch = own[start : start + len(group)]
            assert len(set(epoch)) == len(epoch) and (len(epoch) < len(group) or sorted(epoch) == group.tolist())
    again = Balanced(members, seed)
    for step in reversed(range(steps)):  # backward, by a sampler that has seen nothing
        np.testing.assert_array_equal(again.positions(size, step), each[step])
    np.testing.assert_array_equal(Balanced(members, seed).positions(size, steps - 1), each[-1])


def test_class_balanced_draws_of_a_very_uneven_pool() -> None:
    """Beyond the first block of orders, with one image beside ten thousand."""
    members = members_of([1, 3, 10_000])
    sampler = Balanced(members, 0)
    drawn = np.concatenate([sampler.positions(90, step) for step in range(400)])
    counts = np.bincount(drawn, minlength=10_004)
    assert counts[0] == 12_000 and counts[1:4].tolist() == [4000] * 3
    assert counts[4:].sum() == 12_000 and set(counts[4:].tolist()) == {1, 2}
    rounds = np.searchsorted([1, 4], drawn, side="right").reshape(-1, 3)
    assert len(np.unique(rounds, axis=0)) == 6  # each order of the three occurs
    assert not np.array_equal(drawn[:300], drawn[3072:3372])  # another block, other orders
    assert not np.array_equal(drawn[:90], Balanced(members, 1).positions(90, 0))


def test_groups() -> None:
    single = torch.tensor([2, -1, 0, 2, -1, 7])
    assert [group.tolist() for group in groups(single, "single")] == [[2], [0, 3], [5]]
    multi = torch.tensor([[1.0, 0, 1], [0, 0, 0], [-1, -1, -1], [-1, 0, -1], [-1, -1, 1]])
    assert [group.tolist() for group in groups(multi, "multi")] == [
        [0],
        [0, 4],
        [1, 3],
    ]  # the last: none of the classes
    for nothing, task in ((torch.full((3,), -1), "single"), (torch.full((3, 2), -1.0), "multi")):
        with pytest.raises(
            ConfigError, match="labeled_sampling: class_balanced: no labeled image has a known label; use"
        ):
            groups(nothing, task)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(1, 30), classes=st.integers(1, 5))
def test_class_balanced_multi_label(seed: int, rows: int, classes: int) -> None:
    """Whatever shows several classes is drawn for each of them; what says nothing is never drawn."""
    labels = torch.randint(-1, 2, (rows, classes), generator=torch.Generator().manual_seed(seed)).float()
    labels[0, 0] = 1
    members = groups(labels, "multi")
    assert set(np.concatenate(members)) == set(np.flatnonzero((labels >= 0).any(1)))
    drawn = np.bincount(Balanced(members, seed).positions(len(members) * 60, 3), minlength=rows)
    expected = np.zeros(rows)
    for group in members:
        expected[group] += 60 / len(group)
    assert (np.abs(drawn - expected) <= len(members)).all()  # exact but for the ends of each group's epoch


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


def test_class_balanced_batches(store: ImageStore) -> None:
    uneven = Dataset(DataConfig(shards="x", bands=("B04",), labeled={"count": 11}), store)
    classes = uneven.store.labels[uneven.split.labeled].unique()
    batches = Batches(uneven, 3 * len(classes), 16, 3, "cpu", balanced=True)
    for step in (0, 5, 2):
        labeled, unlabeled = batches.draw(step)
        assert torch.equal(*torch.broadcast_tensors(torch.bincount(labeled.labels)[classes], torch.tensor([3])))
        rows = uneven.split.labeled[labeled.member.numpy()]
        assert torch.equal(uneven.store.labels[rows], labeled.labels)
        uniform = Batches(uneven, 7, 16, 3, "cpu").draw(step)[1]
        assert unlabeled is not None and uniform is not None and torch.equal(unlabeled.labels, uniform.labels)


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
