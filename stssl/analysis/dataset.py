"""What is in some shards, for people: counts, a map of places, a sheet of samples with their views."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from stssl.data.augment import ViewConfig, Views
from stssl.data.cache import pixel_bytes
from stssl.data.parquet import place_tensor, time_tensor
from stssl.data.schema import Card
from stssl.data.shards import read_columns, read_part
from stssl.errors import DataError
from stssl.files import atomic_path
from stssl.storage import Folder

SEASONS = ("spring", "summer", "autumn", "winter")
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")  # colour-blind safe
_TRUE_COLOUR = (("B04", "B03", "B02"), ("R", "G", "B"))
_ORDER = {"train": 0, "validation": 1, "test": 2}
_SAMPLES, _ABREAST, _SHARDS = 8, 2, 4  # images on the sheet, how many side by side, and from how many shards


class Overview(NamedTuple):
    """Counts over all rows.

    Attributes:
        classes: Images of each class.
        unlabeled: Images without a label.
        splits: Images in each of the authors' splits.
        seasons: Images of each season at their place, and of "unknown" ones.
        placed: Images with a place.
        dated: Images with a date.
        place: [N, 2] float32 degrees (latitude, longitude), NaN = unknown.
        months: [N] month of the year, 0 = unknown.
        split_of: [N] the split of each image, "" without one.
    """

    classes: dict[str, int]
    unlabeled: int
    splits: dict[str, int]
    seasons: dict[str, int]
    placed: int
    dated: int
    place: NDArray[np.float32]
    months: NDArray[np.int64]
    split_of: NDArray[np.str_]


def overview(folder: Folder, card: Card) -> Overview:
    """Count what is in some shards; pixels are not read.

    Raises:
        DataError: A shard is missing or damaged.
    """
    rows = read_columns(folder, ["labels", "lat", "lng", "time", "split"])
    labels = rows["labels"]
    found = Counter(
        {str(pair["values"]): pair["counts"] for pair in pc.value_counts(pc.list_flatten(labels)).to_pylist()}
    )
    place, days = place_tensor(rows["lat"], rows["lng"]).numpy(), time_tensor(rows["time"]).numpy()
    split_of = np.asarray(pc.fill_null(rows["split"], "").to_pylist(), dtype=np.str_)
    splits = Counter(split_of.tolist())
    dated = np.isfinite(days)
    dates = np.where(dated, days, 0).astype("datetime64[D]").astype("datetime64[M]")
    months = np.where(dated, dates.astype(int) % 12 + 1, 0)
    return Overview(
        {name: found[name] for name in card.classes},
        labels.null_count,
        {name: splits[name] for name in sorted(splits, key=lambda name: (_ORDER.get(name, 3), name)) if name},
        _seasons(months, place[:, 0]),
        int(np.isfinite(place).all(1).sum()),
        int(dated.sum()),
        place,
        months,
        split_of,
    )


def _seasons(months: NDArray[np.int64], lat: NDArray[np.float32]) -> dict[str, int]:
    """Meteorological seasons: spring is March to May north of the equator, September to November south of it."""
    known = (months > 0) & np.isfinite(lat)
    season = ((months - 3) // 3 + np.where(lat < 0, 2, 0)) % 4
    counts = np.bincount(season[known], minlength=4)
    return {**dict(zip(SEASONS, counts.tolist(), strict=True)), "unknown": int((~known).sum())}


def draw_map(view: Overview, card: Card, path: Path) -> None:
    """A PNG: every place, by split, and how many images each month has."""
    plt = _pyplot()
    dated = view.months > 0
    figure, axes = plt.subplots(1, 2 if dated.any() else 1, figsize=(11 if dated.any() else 7.5, 6), layout="constrained",
                                width_ratios=[2.2, 1] if dated.any() else None, squeeze=False)  # fmt: skip
    axis = axes[0, 0]
    known = np.isfinite(view.place).all(1)
    groups = list(view.splits) or [""]
    size = float(np.clip(4000 / max(1, known.sum()), 0.3, 14))
    for name, colour in zip(groups, _COLOURS, strict=False):
        rows = known & (view.split_of == name)
        label = f"{name or 'images'} ({rows.sum():,})"
        axis.scatter(
            view.place[rows, 1], view.place[rows, 0], s=size, color=colour, label=label, linewidths=0, alpha=0.6
        )
    if known.any():
        middle = float(np.clip(np.median(view.place[known, 0]), -80, 80))
        axis.set_aspect(1 / np.cos(np.radians(middle)))  # a degree of longitude is as long as it is there
    else:
        axis.text(0.5, 0.5, "no image has a place", ha="center", transform=axis.transAxes)
    axis.grid(color="#ddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set(xlabel="longitude (degrees)", ylabel="latitude (degrees)")
    axis.set_title(f"{card.name}: {known.sum():,} of {card.count:,} images have a place", fontsize=10, loc="left")
    if known.any():
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.09), ncols=4, frameon=False, fontsize=8, markerscale=3)
    if dated.any():
        counts = np.bincount(view.months, minlength=13)[1:]
        axes[0, 1].bar(range(1, 13), counts, color=_COLOURS[0])
        axes[0, 1].set_xticks(range(1, 13), list("JFMAMJJASOND"))
        axes[0, 1].set(xlabel="month", ylabel="images")
        axes[0, 1].set_title(f"{dated.sum():,} have a date", fontsize=10, loc="left")
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    _save(plt, figure, path)


def draw_samples(folder: Folder, card: Card, path: Path) -> None:
    """A PNG: some images as stored, a weak and two strong views of each, as the published recipe makes them.

    Raises:
        DataError: A shard is missing or damaged.
    """
    images, titles = _some_images(folder, card)
    bands, name = _colour_bands(card)
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (card.mean, card.std))
    views = Views(ViewConfig(), mean, std, card.bands, card.shape[1], "cpu")
    columns = {
        f"stored ({name})": views.normalise(images),
        "weak view": views.weak(images, (0,)),
        "strong view": views.strong(images, (0,)),
        "another strong view": views.strong(images, (1,)),
    }
    plt = _pyplot()
    rows, views_each = -(-len(images) // _ABREAST), len(columns)
    figure, axes = plt.subplots(
        rows,
        _ABREAST * views_each,
        figsize=(1.9 * _ABREAST * views_each, 2.0 * rows + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for column, (title, made) in enumerate(columns.items()):
        pictures = (made[:, bands] * 0.25 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        for number, picture in enumerate(pictures):
            axis = axes[number // _ABREAST, number % _ABREAST * views_each + column]
            axis.imshow(
                picture if len(bands) == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            if number < _ABREAST:
                axis.set_title(title, fontsize=10)
            if column == 0:
                axis.set_ylabel(titles[number], fontsize=7)
    _save(plt, figure, path)


def _some_images(folder: Folder, card: Card) -> tuple[torch.Tensor, list[str]]:
    """A few images from shards that lie far apart, of different labels where there are, and their titles."""
    shards = [card.shards[at] for at in sorted({*np.linspace(0, len(card.shards) - 1, _SHARDS).round().astype(int)})]
    images, titles = [], []
    for number, shard in enumerate(shards):
        want = _SAMPLES // len(shards) + (number < _SAMPLES % len(shards))
        rows = read_part(folder, shard, ["id", "image", "labels"], group=0)
        if set(pc.unique(pc.binary_length(rows["image"])).to_pylist()) != {pixel_bytes(card) // card.count}:
            raise DataError(
                f"{folder.show(shard.file)}: damaged: its images are not {card.shape}; see `inspect --verify`"
            )
        labels = [", ".join(names) if names else "no label" for names in rows["labels"].to_pylist()]
        first = {name: at for at, name in reversed(list(enumerate(labels)))}  # of each label, the first
        rest = np.linspace(0, len(labels) - 1, min(want, len(labels))).round().astype(int).tolist()
        for at in list(dict.fromkeys([*sorted(first.values()), *rest]))[:want]:
            data = np.frombuffer(rows["image"][at].as_py(), np.dtype(card.dtype).newbyteorder("<"))
            images.append(data.astype(card.dtype).reshape(card.shape))
            titles.append(f"{_short(rows['id'][at].as_py())}\n{_short(labels[at])}")
    return torch.from_numpy(np.stack(images)), titles


def _colour_bands(card: Card) -> tuple[list[int], str]:
    """Which bands make a picture, and what to call it."""
    for names in _TRUE_COLOUR:
        if set(names) <= set(card.bands):
            return [card.bands.index(name) for name in names], "true colour"
    if len(card.bands) >= 3:
        return [0, 1, 2], ", ".join(card.bands[:3])
    return [0], card.bands[0]


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _pyplot() -> Any:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["text.parse_math"] = False  # a class or an image may be called `$x$`
    return pyplot


def _save(plt: Any, figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
