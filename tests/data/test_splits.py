"""Splits: no place in two of them, balanced, seeded; labels as evenly as they can be."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stssl.config import validate
from stssl.data.dataset import DataConfig, Dataset
from stssl.data.holdout import block_ids
from stssl.data.splits import Split, SplitConfig, make_split
from stssl.data.store import ImageStore
from stssl.data.subsets import LabeledConfig
from stssl.errors import ConfigError, DataError

ALL = LabeledConfig()


def make_store(
    n: int = 400, classes: int = 5, task: str = "single", seed: int = 0, spots: int = 60, **more
) -> ImageStore:
    """Rows around `spots` places; near ones share a class more often than not."""
    random = np.random.default_rng(seed)
    spot = random.integers(0, spots, n)
    centre = random.uniform((-60, -180), (70, 180), (spots, 2))
    place = np.clip(centre[spot] + random.normal(0, 0.05, (n, 2)), (-90, -180), (90, 180)).astype(np.float32)
    labels = np.where(random.random(n) < 0.6, spot % classes, random.integers(0, classes, n))
    if task == "multi":
        labels = (random.random((n, classes)) < np.linspace(0.03, 0.5, classes)).astype(np.int64)
    names = [f"c{i}" for i in range(classes)]
    return ImageStore.from_arrays(
        np.zeros((n, 1, 1, 1), np.uint8), more.pop("labels", labels), place, None, names, task, **more
    )


def check(store: ImageStore, split: Split, config: SplitConfig) -> None:
    blocks = block_ids(store.place.numpy(), config.block_deg)
    parts = (split.unlabeled, split.validation_full, split.test, split.holdout)
    for rows in split:
        assert rows.dtype == np.int64 and (np.diff(rows) > 0).all()
    assert set(split.validation) <= set(split.validation_full)
    for one, two in itertools.combinations(parts, 2):
        assert not set(one) & set(two) and not set(blocks[one]) & set(blocks[two])
    assert set(split.labeled) <= set(split.unlabeled)


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_are_whole_and_balanced(task: str, seed: int) -> None:
    store, config = make_store(2000, task=task, spots=300), SplitConfig(seed=seed)
    split = make_split(store, config, ALL)
    check(store, split, config)
    assert sum(map(len, split[1:4])) == 2000
    hot = store.labels.numpy() if task == "multi" else np.eye(5)[store.labels.numpy()]
    for rows, share in ((split.unlabeled, 0.6), (split.validation, 0.2), (split.test, 0.2)):
        assert len(rows) == pytest.approx(2000 * share, rel=0.1)
        np.testing.assert_allclose(hot[rows].sum(0) / hot.sum(0), share, atol=0.06)


def test_real_patches(store: ImageStore) -> None:
    for seed in range(3):
        split = make_split(store, SplitConfig(seed=seed), LabeledConfig(count=10))
        check(store, split, SplitConfig(seed=seed))
        assert sorted(store.labels[split.labeled].tolist()) == list(range(10))
        assert len(split.validation) == pytest.approx(20, abs=5) and len(split.test) == pytest.approx(20, abs=5)
        assert (
            set(store.labels[split.validation].tolist())
            == set(store.labels[split.unlabeled].tolist())
            == set(range(10))
        )


def test_deterministic_and_seeded() -> None:
    store = make_store()
    splits = [make_split(store, SplitConfig(seed=seed), ALL) for seed in (0, 0, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(splits[0], splits[1], strict=True))
    assert len({tuple(split.validation) for split in splits}) == 3


def test_labeled_seed_leaves_the_rest_alone() -> None:
    store = make_store()
    splits = [make_split(store, SplitConfig(), LabeledConfig(count=20, seed=seed)) for seed in range(4)]
    assert len({tuple(split.labeled) for split in splits}) == 4
    for split in splits:
        assert all(np.array_equal(a, b) for a, b in zip(split[1:], splits[0][1:], strict=True))


def test_block_ids() -> None:
    nan = np.nan
    place = np.array([[0.1, 180], [0.2, -180], [0.1, -179.6], [0.1, 179.9], [nan, 5], [nan, 5], [nan, nan]], np.float32)
    blocks = block_ids(place, 0.5)
    assert blocks[0] == blocks[1] == blocks[2] != blocks[3]
    assert len(set(blocks[3:])) == 4 and blocks.max() == 4


@settings(max_examples=40, deadline=None)
@given(
    place=hnp.arrays(np.float32, (60, 2), elements=st.one_of(st.floats(-90, 90, width=32), st.just(float("nan")))),
    labels=hnp.arrays(np.int64, 60, elements=st.integers(-1, 3)),
    block=st.floats(0.01, 90),
    seed=st.integers(0, 5),
    test=st.sampled_from([0.0, 0.3]),
)
def test_any_places(place: np.ndarray, labels: np.ndarray, block: float, seed: int, test: float) -> None:
    store = ImageStore.from_arrays(np.zeros((60, 1, 1, 1), np.uint8), labels, place, None, "abcd", "single")
    config = SplitConfig(block_deg=block, seed=seed, test=test)
    try:
        split = make_split(store, config, ALL)
    except ConfigError as error:
        assert "data.split" in str(error)
        return
    check(store, split, config)
    assert (
        (labels[split.labeled] >= 0).all() and (labels[split.validation] >= 0).all() and (labels[split.test] >= 0).all()
    )
    assert len(split.test) == 0 or test > 0


def test_unlabeled_rows_train_only() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 400)
    labels[::2] = -1
    store, config = make_store(labels=labels), SplitConfig()
    split = make_split(store, config, ALL)
    check(store, split, config)
    assert (labels[np.concatenate([split.validation, split.test, split.labeled])] >= 0).all()
    assert (labels[split.unlabeled] < 0).sum() > 50
    assert sum(map(len, split[1:])) < 400  # unlabeled neighbours of held-out rows are in no split


def test_by_column() -> None:
    names = ["train", "val", "test", "Training", "validation", "test", "train", None]
    images, labels = np.zeros((8, 1, 1, 1), np.uint8), np.array([0, 1, 0, 1, 0, 1, -1, -1])
    column = SplitConfig(by="column")

    def build(splits: list[str | None] | None, known: np.ndarray = labels) -> ImageStore:
        return ImageStore.from_arrays(images, known, None, None, "ab", "single", splits=splits)

    split = make_split(build(names), column, ALL)
    assert [rows.tolist() for rows in split] == [[0, 3], [0, 3, 6, 7], [1, 4], [2, 5], [1, 4], []]
    with pytest.raises(DataError, match=r"no split column; set data.split.by=blocks"):
        make_split(build(None), column, ALL)
    with pytest.raises(DataError, match=r"'00000001': unknown split 'dev'; known: train"):
        make_split(build(["train", "dev", *names[2:]]), column, ALL)
    with pytest.raises(DataError, match=r"'00000000': labeled, but in no split"):
        make_split(build([None, *names[1:]]), column, ALL)
    with pytest.raises(ConfigError, match="no labeled validation row"):
        make_split(build(["train"] * 8), column, ALL)


@pytest.mark.parametrize("count", [1, 3, 5, 6, 11, 60])
def test_count_is_even(count: int) -> None:
    store = make_store()
    split = make_split(store, SplitConfig(), LabeledConfig(count=count))
    per = torch.bincount(store.labels[split.labeled], minlength=5)
    assert per.sum() == count and per.max() - per.min() <= 1
    more = make_split(store, SplitConfig(), LabeledConfig(count=count + 5))
    assert set(split.labeled) <= set(more.labeled)  # a smaller set is part of a larger one


def test_count_fills_up_from_larger_classes() -> None:
    labels = np.array([0] * 10 + [1] * 300 + [2] * 90)
    store = make_store(classes=3, labels=labels, spots=400)
    split = make_split(store, SplitConfig(), LabeledConfig(count=100))
    per = torch.bincount(store.labels[split.labeled], minlength=3)
    assert per.sum() == 100 and 0 < per[0] == (labels[split.unlabeled] == 0).sum() and abs(per[1] - per[2]) <= 1


def test_per_class_and_fraction() -> None:
    store = make_store()
    split = make_split(store, SplitConfig(), LabeledConfig(per_class=4))
    assert torch.bincount(store.labels[split.labeled]).tolist() == [4] * 5
    n = len(split.unlabeled)
    part = make_split(store, SplitConfig(), LabeledConfig(fraction=0.25))
    whole = torch.bincount(store.labels[split.unlabeled])
    assert len(part.labeled) == round(0.25 * n)
    assert (torch.bincount(store.labels[part.labeled]) - 0.25 * whole).abs().max() <= 2
    assert np.array_equal(make_split(store, SplitConfig(), LabeledConfig(fraction=1.0)).labeled, split.unlabeled)
    assert len(make_split(store, SplitConfig(), LabeledConfig(fraction=0.0001)).labeled) == 1


def test_multi_label_subsets() -> None:
    store = make_store(task="multi", n=1000, spots=200)
    for count in (5, 8, 50):
        split = make_split(store, SplitConfig(), LabeledConfig(count=count))
        assert len(split.labeled) == count and (store.labels[split.labeled].sum(0) >= 1).all()
    split = make_split(store, SplitConfig(), LabeledConfig(per_class=6))
    assert (store.labels[split.labeled].sum(0) >= 6).all() and len(split.labeled) <= 30
    part = make_split(store, SplitConfig(), LabeledConfig(fraction=0.3))
    assert len(part.labeled) == round(0.3 * len(part.unlabeled))
    share = store.labels[part.labeled].sum(0) / store.labels[part.unlabeled].sum(0)
    assert share.min() > 0.25 and share.max() < 0.4


def test_too_much_asked() -> None:
    store = make_store()
    n = len(make_split(store, SplitConfig(), ALL).unlabeled)
    with pytest.raises(ConfigError, match=rf"data.labeled.count: asked for {n + 1} .* training has {n}; lower"):
        make_split(store, SplitConfig(), LabeledConfig(count=n + 1))
    with pytest.raises(
        ConfigError, match=r"data.labeled.per_class: asked for 300 .* of class c0, training has \d+; lower"
    ):
        make_split(store, SplitConfig(), LabeledConfig(per_class=300))
    assert len(make_split(store, SplitConfig(), LabeledConfig(count=n)).labeled) == n


def test_nothing_left() -> None:
    with pytest.raises(
        ConfigError, match=r"no labeled row is left for validation: 50 images lie in 1 blocks .*block_deg"
    ):
        make_split(make_store(50, spots=1), SplitConfig(block_deg=90), ALL)
    with pytest.raises(ConfigError, match=r"data.split"):
        make_split(make_store(50, labels=np.full(50, -1)), SplitConfig(), ALL)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"shards": "x", "split": {"validation": 0.5, "test": 0.5}}, "must sum to less than 1"),
        ({"shards": "x", "split": {"block_deg": 0}}, "split.block_deg"),
        ({"shards": "x", "split": {"by": "block"}}, "did you mean 'blocks'"),
        ({"shards": "x", "labeled": {"count": 1, "fraction": 0.1}}, "only one of count, per_class, fraction"),
        ({"shards": "x", "labeled": {"counts": 1}}, "did you mean 'count'"),
        ({"shards": "x", "bands": []}, "bands"),
    ],
)
def test_bad_configs(data: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(DataConfig, data, "recipe.yaml")


def test_dataset_bands(store: ImageStore) -> None:
    dataset = Dataset(DataConfig(shards="x", bands=("B04", "B8A"), labeled={"per_class": 1}), store)
    assert (dataset.channels, dataset.bands, dataset.task, len(dataset.classes)) == (2, ("B04", "B8A"), "single", 10)
    assert dataset.mean.tolist() == pytest.approx([store.card.mean[3], store.card.mean[12]])
    batch = dataset.batch(torch.tensor([7, 2]))
    np.testing.assert_array_equal(batch.images.numpy(), store.images[[7, 2]][:, [3, 12]])
    assert torch.equal(batch.labels, store.labels[[7, 2]]) and torch.equal(batch.place, store.place[[7, 2]])
    for bands, said in ((("B4",), "no band 'B4'; did you mean 'B04'"), (("B04", "B04"), "twice")):
        with pytest.raises(ConfigError, match=said):
            Dataset(DataConfig(shards="x", bands=bands), store)


def test_iterate(store: ImageStore) -> None:
    dataset = Dataset(DataConfig(shards="x"), store)
    rows = dataset.split.validation
    batches = list(dataset.iterate(rows, 8))
    assert [len(batch.images) for batch in batches[:-1]] == [8] * (len(batches) - 1)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), store.labels[rows])
    assert list(dataset.iterate(rows[:0], 8)) == []


def dated(n: int = 600, seed: int = 1, unknown: float = 0.1) -> ImageStore:
    """Labeled rows all over Europe and the years 2017 and 2018; some places, dates and labels are unknown."""
    random = np.random.default_rng(seed)
    place = random.uniform((36, -10), (70, 30), (n, 2)).astype(np.float32)
    time = 17167 + random.uniform(0, 730, n)
    place[random.random(n) < unknown], time[random.random(n) < unknown] = np.nan, np.nan
    labels = np.where(random.random(n) < unknown, -1, random.integers(0, 4, n))
    return ImageStore.from_arrays(np.zeros((n, 1, 1, 1), np.uint8), labels, place, time, "abcd", "single")


def months_of(store: ImageStore, rows: np.ndarray) -> set[int]:
    days = store.time.numpy()[rows]
    return set((days[np.isfinite(days)].astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 + 1).tolist())


def test_holdout_region_takes_whole_blocks() -> None:
    store = dated()
    config = SplitConfig(block_deg=3, holdout={"region": (2, 45, 11, 52)})
    split = make_split(store, config, ALL)
    check(store, split, config)  # no block is in two of them, the held-out ones included
    lat, lng = store.place.numpy().T
    inside = (lng >= 2) & (lng <= 11) & (lat >= 45) & (lat <= 52)
    known = store.labels.numpy() >= 0
    assert set(np.flatnonzero(inside & known)) <= set(split.holdout)
    for rows in (split.unlabeled, split.validation, split.test):
        assert not inside[rows].any()
    beside = split.holdout[~inside[split.holdout]]
    assert len(beside) and (np.abs(lng[beside] - 6.5) < 4.5 + 3).all()  # what shares a block with the region


def test_holdout_across_the_date_line() -> None:
    place = np.array([[0, 179.5], [0, -179.5], [0, 170], [0, 0], [0, 20], [0, 40], [0, 60]], np.float32)
    store = ImageStore.from_arrays(np.zeros((7, 1, 1, 1), np.uint8), [0] * 7, place, None, "a", "single")
    split = make_split(store, SplitConfig(holdout={"region": (175, -10, -175, 10)}), ALL)
    assert split.holdout.tolist() == [0, 1]


def test_holdout_season_and_time() -> None:
    store = dated()
    split = make_split(store, SplitConfig(holdout={"months": (12, 1, 2)}), ALL)
    assert months_of(store, split.holdout) == {12, 1, 2}
    for rows in (split.unlabeled, split.validation, split.test):
        assert months_of(store, rows) == set(range(3, 12))
    assert np.isfinite(store.time.numpy()[split.holdout]).all()  # what has no date is not held out
    day = np.datetime64("2018-03-01").astype(int)
    later = make_split(store, SplitConfig(holdout={"since": "2018-03-01", "until": "2018-03-31"}), ALL).holdout
    assert len(later) and set(later) == {
        row for row, days in enumerate(store.time.tolist()) if day <= days < day + 31 and store.labels[row] >= 0
    }
    both = make_split(store, SplitConfig(block_deg=3, holdout={"months": (7,), "region": (2, 45, 11, 52)}), ALL)
    assert set(both.holdout) > set(make_split(store, SplitConfig(holdout={"months": (7,)}), ALL).holdout)
    with pytest.raises(ConfigError, match=r"data.split.holdout: no labeled image lies there"):
        make_split(store, SplitConfig(holdout={"since": "2030-01-01"}), ALL)


@pytest.mark.parametrize("test", [0.2, 0])
def test_by_time_holds_out_the_latest_days(test: float) -> None:
    store = dated(2000)
    split = make_split(store, SplitConfig(by="time", validation=0.3, test=test), ALL)
    days = np.floor(store.time.numpy())
    labeled = (store.labels.numpy() >= 0) & np.isfinite(days)
    assert len(split.test) == pytest.approx(test * labeled.sum(), abs=4)
    assert len(split.validation) == pytest.approx(0.3 * labeled.sum(), abs=8)
    assert np.nanmax(days[split.unlabeled]) < days[split.validation].min()
    assert not test or days[split.validation].max() < days[split.test].min()
    assert set(np.flatnonzero(np.isnan(days))) <= set(split.unlabeled)
    one_day = ImageStore.from_arrays(np.zeros((9, 1, 1, 1), np.uint8), [0] * 9, None, np.full(9, 5.5), "a", "single")
    with pytest.raises(ConfigError, match=r"9 images are of 1 days; raise data.split.validation"):
        make_split(one_day, SplitConfig(by="time"), ALL)
    with pytest.raises(ConfigError, match=r"no labeled image has a date; set data.split.by=blocks"):
        make_split(make_store(), SplitConfig(by="time"), ALL)


def test_validation_budget() -> None:
    store = make_store(2000, spots=300)
    whole = make_split(store, SplitConfig(), ALL)
    few = make_split(store, SplitConfig(), ALL, LabeledConfig(per_class=7))
    assert np.bincount(store.labels[few.validation]).tolist() == [7] * 5
    np.testing.assert_array_equal(few.validation_full, whole.validation)
    assert all(np.array_equal(getattr(few, name), getattr(whole, name)) for name in ("labeled", "unlabeled", "test"))
    assert "validation 35" in few.sizes() and "validation_full" in few.sizes() and "_full" not in whole.sizes()
    with pytest.raises(ConfigError, match=r"data.validation_budget.count: .* validation has \d+; lower it"):
        make_split(store, SplitConfig(), ALL, LabeledConfig(count=1900))


@pytest.mark.parametrize(
    ("holdout", "said"),
    [
        ({}, "at least one of region, months, since, until"),
        ({"region": [0, 60, 10, 50]}, r"expected \[west, south, east, north\]"),
        ({"region": [0, 40, 190, 50]}, r"expected \[west, south, east, north\]"),
        ({"months": [0]}, "from 1 to 12"),
        ({"months": list(range(1, 13))}, "at most 11"),
        ({"since": "2020-02-02", "until": "2020-02-01"}, "is after"),
        ({"since": "2020-13-02"}, "since"),
    ],
)
def test_bad_holdouts(holdout: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(DataConfig, {"shards": "x", "split": {"holdout": holdout}}, "recipe.yaml")


@pytest.mark.parametrize("by", ["blocks", "time", "column"])
def test_nothing_labeled_is_said_so(by: str) -> None:
    images, unknown = np.zeros((8, 1, 1, 1), np.uint8), np.full(8, -1)
    store = ImageStore.from_arrays(images, unknown, np.zeros((8, 2)), np.zeros(8), "ab", "single", splits=["train"] * 8)
    with pytest.raises(ConfigError, match="no image has a label"):
        make_split(store, SplitConfig(by=by), ALL)
    with pytest.raises(ConfigError, match=r"data.split.holdout: it takes every labeled image; narrow it"):
        make_split(dated(unknown=0), SplitConfig(by="time", holdout={"since": "2000-01-01"}), ALL)


def test_per_class_where_no_row_shows_any_class() -> None:
    store = make_store(80, task="multi", labels=np.zeros((80, 5)))
    with pytest.raises(ConfigError, match=r"data.labeled.per_class: no image in training shows any class"):
        make_split(store, SplitConfig(), LabeledConfig(per_class=2))
