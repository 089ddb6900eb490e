"""The simulator: real places and dates, images that are a function of their number, and looks that metadata explain."""

import pickle
from datetime import date

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from stssl.config import validate
from stssl.data import tables
from stssl.data.sources._simulated_fields import gaussian_field, season_index, soil_index, sun_at_noon
from stssl.data.sources.simulated import BANDS, COVERS, HOLDOUT_MONTHS, HOLDOUT_REGION, Simulated, SimulatedConfig
from stssl.errors import ConfigError

Array = NDArray[np.float64]
NAMES = [cover.name for cover in COVERS]


def make(**settings: object) -> Simulated:
    return Simulated(validate(SimulatedConfig, settings, "test"))


def days(text: str) -> float:
    return float((date.fromisoformat(text) - date(1970, 1, 1)).days)


def same(one: object, two: object) -> bool:
    return pickle.dumps(one) == pickle.dumps(two)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_images_are_a_function_of_seed_and_number(task: str) -> None:
    source, fewer, copy = make(task=task), make(task=task, images=60), pickle.loads(pickle.dumps(make(task=task)))
    first = [source.read(index) for index in range(60)]
    assert all(same(first[index], source.read(index)) for index in reversed(range(60)))
    assert all(same(first[index], fewer.read(index)) for index in range(60))
    assert all(same(first[index], copy.read(index)) for index in (3, 59))
    other = make(task=task, images=60, seed=1)
    assert not any(np.array_equal(first[index].image, other.read(index).image) for index in range(60))
    assert len({sample.image.tobytes() for sample in first}) == 60


def test_what_a_sample_is() -> None:
    source = make(images=50, size=20, classes=3)
    assert source.name == "simulated" and "simulated" in source.licence and "simulated" in source.attribution
    assert source.classes == ("cropland", "meadow", "broad-leaved forest") and source.bands == BANDS
    assert len(source) == 50 and source.ids == sorted(set(source.ids)) and source.ids[7] == "simulated-000007"
    assert list(source.files(0)) == []
    samples = [source.read(index) for index in range(50)]
    assert [sample.id for sample in samples] == source.ids
    assert {sample.image.shape for sample in samples} == {(4, 20, 20)}
    assert {sample.image.dtype.name for sample in samples} == {"uint16"}
    assert {sample.labels for sample in samples} == {(name,) for name in source.classes}
    assert {sample.split for sample in samples} == {None}
    assert len(pickle.dumps(make(images=4000))) < 1e6  # it goes to every worker


def test_the_folder_means_nothing() -> None:
    assert make(root="a", images=5).head() == make(root="b", images=5).head() != make(images=6).head()


def test_places_and_dates_are_real() -> None:
    source = make(images=2000)
    samples = [source.read(index) for index in range(2000)]
    bigearthnet = tables.read("bigearthnet_v1_590326")
    dates = {text: days(text) for text in bigearthnet["date"].unique().to_pylist()}
    near = bigearthnet.filter(np.isin(bigearthnet["lat"].to_numpy(), [sample.lat for sample in samples]))
    rows = zip(*(near[name].to_pylist() for name in ("lat", "lng", "date")), strict=True)
    patches = {(lat, lng, dates[text]) for lat, lng, text in rows}
    eurosat = tables.read("eurosat_27000")
    others = set(zip(eurosat["lat"].to_pylist(), eurosat["lng"].to_pylist(), strict=True))
    drawn = [sample for sample in samples if (sample.lat, sample.lng, sample.time) not in patches]
    assert 900 < len(drawn) < 1100  # the other half is BigEarthNet's, whose places keep their dates
    assert all((sample.lat, sample.lng) in others and sample.time in dates.values() for sample in drawn)


def test_classes_are_balanced_unless_asked() -> None:
    even = make(images=6000)
    np.testing.assert_allclose(np.bincount(even.covers[:, 0]) / 6000, 1 / 6, atol=0.02)
    conifers, settlement = NAMES.index("coniferous forest"), NAMES.index("settlement")

    def gap(source: Simulated) -> float:
        lat, cover = source.place[:, 0], source.covers[:, 0]
        return float(lat[cover == conifers].mean() - lat[cover == settlement].mean())

    assert abs(gap(even)) < 1.2
    assert gap(make(images=6000, prior=0.3)) > 3
    assert gap(make(images=6000, prior=1.0)) > 8


def test_several_covers() -> None:
    source = make(images=900, task="multi", classes=8, noise=0.1, strength_place=0.0, strength_season=0.0)
    samples = [source.read(index) for index in range(900)]
    labels = [sample.labels for sample in samples]
    assert all(names and list(names) == sorted(set(names), key=NAMES.index) for names in labels)
    np.testing.assert_allclose(np.bincount([len(names) for names in labels if names])[1:] / 900, 1 / 3, atol=0.06)
    for sample in samples:  # water is black in the near infrared, and nothing else is
        parts = len(sample.labels or ())
        dark = (sample.image[3] < 600).mean()
        assert dark == pytest.approx(1 / parts if "water" in (sample.labels or ()) else 0, abs=0.15)
    assert {len(make(images=20, task="multi", classes=2).read(index).labels or ()) for index in range(20)} == {1, 2}


def test_what_is_not_told() -> None:
    full, source = make(images=1000), make(images=1000, unlabeled=0.5, missing_place=0.2, missing_time=0.1)
    pairs = [(full.read(index), source.read(index)) for index in range(1000)]
    assert all(np.array_equal(a.image, b.image) for a, b in pairs)  # the look knows what is not told
    assert all(b.labels in (None, a.labels) for a, b in pairs)
    assert all((b.lat, b.lng) in ((None, None), (a.lat, a.lng)) and b.time in (None, a.time) for a, b in pairs)
    shares = np.mean([(b.labels is None, b.lat is None, b.time is None) for _, b in pairs], axis=0)
    np.testing.assert_allclose(shares, (0.5, 0.2, 0.1), atol=0.05)
    nothing = make(images=5, unlabeled=1, missing_place=1, missing_time=1).read(4)
    assert nothing[2:] == (None,) * 5


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ({"strength_place": 1.5}, "strength_place: input should be less than or equal to 1 .got 1.5"),
        ({"strength_season": -0.1}, "strength_season: input should be greater than or equal to 0"),
        ({"strength": 0.5}, r"unknown key 'strength'; did you mean 'strength_\w+'"),
        ({"classes": 9}, "classes: input should be less than or equal to 8"),
        ({"images": 0}, "images: input should be greater than or equal to 1"),
        ({"task": "both"}, "task: unknown choice 'both'"),
        ({"noise": float("nan")}, "noise: input should be a finite number"),
        ({"unlabeled": "half"}, "unlabeled: input should be a valid number"),
    ],
)
def test_bad_settings(setting: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        make(**setting)


def test_seasons() -> None:
    summer, winter = days("2017-06-28"), days("2018-01-05")
    place = np.array([50.0, 66.0]), np.array([11.0, 25.0])
    assert season_index(*place, np.array(summer))[0] > 0.95 and season_index(*place, np.array(winter))[0] < -0.95
    august = np.array([days("2017-08-12")])
    assert season_index(place[0][:1], place[1][:1], august) < -0.7  # held out: dry
    madrid = np.array([40.0]), np.array([-4.0])
    assert season_index(*madrid, np.array([winter])) > 0.9 > 0.8 > -0.8 > season_index(*madrid, np.array([summer]))
    assert sun_at_noon(np.array([68.0]), np.array([days("2017-12-21")])) == 0
    assert sun_at_noon(np.array([0.0]), np.array([days("2018-03-22")])) == pytest.approx(1, abs=1e-4)


def test_no_jumps() -> None:
    lng = np.arange(-25, 45, 0.02)
    for lat in (36.5, 40.0, 43.5):
        assert np.abs(np.diff(soil_index(np.full_like(lng, lat), lng))).max() < 0.05
    lat = np.arange(25, 70, 0.02)
    assert (
        np.abs(np.diff(season_index(lat, np.full_like(lat, -6.0), np.full_like(lat, days("2018-05-15"))))).max() < 0.05
    )
    time = np.arange(days("2017-01-01"), days("2019-01-01"))
    steps = np.abs(np.diff(season_index(np.full_like(time, 52.0), np.full_like(time, 15.0), time)))
    assert steps.max() < 1 and (steps > 0.1).sum() <= 16  # turning takes days, four times in two years


def test_texture_is_what_its_formula_says() -> None:
    random = np.random.default_rng(0)
    fields = np.stack([gaussian_field(3.0, 48, random) for _ in range(400)])
    assert fields.std() == pytest.approx(1, abs=0.03)
    assert (fields[:, :, 3:] * fields[:, :, :-3]).mean() == pytest.approx(np.exp(-0.5), abs=0.03)


def test_vegetation_follows_the_season() -> None:
    """The vegetation index of cropland rises to summer and that of water does not; at strength 0 nothing moves."""

    def summer_less_winter(name: str, strength: float) -> float:
        source = make(images=4000, strength_season=strength, size=8)
        month = source.time.astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 + 1
        there = (source.covers[:, 0] == NAMES.index(name)) & ~held_out(source)
        index = {}
        for season, months in (("summer", (5, 6)), ("winter", (12, 1, 2))):
            images = [source.read(row).image.astype(float).mean((1, 2)) for row in np.flatnonzero(there)[:200]]
            ndvi = [(nir - red) / (nir + red) for _, _, red, nir in images]
            index[season] = np.mean(np.array(ndvi)[np.isin(month[there][:200], months)])
        return float(index["summer"] - index["winter"])

    assert summer_less_winter("cropland", 1.0) > 0.3
    assert abs(summer_less_winter("cropland", 0.0)) < 0.08
    assert abs(summer_less_winter("water", 1.0)) < 0.1


def held_out(source: Simulated) -> NDArray[np.bool_]:
    """What `data.split.holdout` would take out."""
    west, south, east, north = HOLDOUT_REGION
    lat, lng = source.place.T
    month = source.time.astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 + 1
    return ((lat > south) & (lat < north) & (lng > west) & (lng < east)) | np.isin(month, HOLDOUT_MONTHS)


def describe(image: NDArray[np.uint16]) -> Array:
    """Mean, spread and roughness at two scales of each band: what a small network finds first."""
    x = image / 10_000
    near, far = np.abs(np.diff(x)), np.abs(x[..., 3:] - x[..., :-3])
    return np.concatenate([x.mean((1, 2)), x.std((1, 2)), near.mean((1, 2)), far.mean((1, 2))])


def accuracies(seed: int, strength_place: float, strength_season: float) -> dict[str, float]:
    """Accuracy of an image-only classifier and one with metadata, in distribution and held out."""
    source = make(images=2500, seed=seed, strength_place=strength_place, strength_season=strength_season)
    looks = np.stack([describe(source.read(index).image) for index in range(len(source))])
    angle = 2 * np.pi * source.time / 365.25
    metadata = np.column_stack([source.place, np.cos(angle), np.sin(angle)])
    label, shifted = source.covers[:, 0], held_out(source)
    known = ~shifted & (np.random.default_rng(seed).random(len(source)) < 0.7)
    scores = {}
    for name, features in (("image", looks), ("both", np.hstack([looks, metadata])), ("metadata", metadata)):
        trees = ExtraTreesClassifier(60, min_samples_leaf=2, max_features=None, random_state=seed)
        trees.fit(features[known], label[known])
        scores[name] = trees.score(features[~known & ~shifted], label[~known & ~shifted])
        scores[f"{name} held out"] = trees.score(features[shifted], label[shifted])
    return scores


@pytest.mark.parametrize("seed", [0, 1])
def test_metadata_help_and_mislead(seed: int) -> None:
    plain, confounded = accuracies(seed, 0.0, 0.0), accuracies(seed, 1.0, 1.0)
    assert plain["image"] > 0.88 and plain["image held out"] > 0.88  # nothing to explain, nothing shifts
    assert abs(plain["both"] - plain["image"]) < 0.03
    assert confounded["image"] < plain["image"] - 0.15
    assert confounded["both"] > confounded["image"] + 0.08
    assert plain["metadata"] < 0.25 and confounded["metadata"] < 0.25  # by themselves they tell nothing
    lost = {name: confounded[name] - confounded[f"{name} held out"] for name in ("image", "both")}
    assert lost["both"] > lost["image"] + 0.1
    assert confounded["both held out"] < confounded["image held out"]


@pytest.mark.parametrize("strengths", [(1.0, 0.0), (0.0, 1.0)])
def test_each_strength_by_itself(strengths: tuple[float, float]) -> None:
    scores = accuracies(2, *strengths)
    assert scores["both"] > scores["image"] + 0.03
