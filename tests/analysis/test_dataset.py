"""What `inspect` counts and draws."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stssl.analysis.dataset import draw_map, draw_samples, overview
from stssl.data.prepare import prepare
from stssl.data.schema import Sample
from stssl.data.sources.base import Source
from stssl.storage import Folder


class Squares(Source):
    """Images of noise: (labels, lat, lng, days, split) of each."""

    name, licence, attribution = "squares", "none", "nobody"

    def __init__(self, rows: list[tuple], bands: tuple[str, ...] = ("B08",), task: str = "single") -> None:
        self.rows, self.bands, self.task, self.classes = rows, bands, task, ("a", "b", "<c>")
        self.ids = [f"[{index:02d}]" for index in range(len(rows))]

    def read(self, index: int) -> Sample:
        image = np.random.default_rng(index).integers(0, 3000, (len(self.bands), 12, 12)).astype(np.uint16)
        return Sample(self.ids[index], image, *self.rows[index])


DAYS = {month: float(np.datetime64(f"2018-{month:02d}-15").astype(int)) for month in range(1, 13)}


def test_counts(tmp_path: Path) -> None:
    north = [(("a",), 50.0, 8.0, DAYS[month], "train") for month in (1, 3, 5, 6, 8, 9, 11, 12)]
    south = [(("b",), -30.0, 20.0, DAYS[month], "test") for month in (1, 3, 6, 9)]
    unknown = [(None, None, None, DAYS[6], None), (("b",), 50.0, 8.0, None, "validation")]
    card, *_ = prepare(Squares([*north, *south, *unknown]), tmp_path / "shards", rows_per_shard=5)
    view = overview(Folder(tmp_path / "shards"), card)
    assert view.classes == {"a": 8, "b": 5, "<c>": 0} and view.unlabeled == 1
    assert list(view.splits.items()) == [("train", 8), ("validation", 1), ("test", 4)]
    assert view.seasons == {"spring": 3, "summer": 3, "autumn": 3, "winter": 3, "unknown": 2}
    assert (view.placed, view.dated) == (13, 13) and view.months.tolist()[-1] == 0


@pytest.mark.parametrize(
    "bands", [("B08",), ("B02", "B03", "B04", "B08"), ("x", "y", "z"), ("R", "G", "B"), ("x", "y")]
)
@pytest.mark.parametrize("known", [True, False])
def test_pictures_of_anything(tmp_path: Path, bands: tuple[str, ...], known: bool) -> None:
    row = (("a",), 50.0, 8.0, DAYS[6], "train") if known else (None, None, None, None, None)
    card, *_ = prepare(Squares([row] * 3, bands, "multi"), tmp_path / "shards", rows_per_shard=2)
    folder = Folder(tmp_path / "shards")
    draw_map(overview(folder, card), card, tmp_path / "map.png")
    draw_samples(folder, card, tmp_path / "samples.png")
    for name in ("map.png", "samples.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_mathematics_in_names_is_text(tmp_path: Path) -> None:
    row = (("$x_{$",), 50.0, 8.0, DAYS[6], "$\\frac{")
    source = Squares([row] * 3)
    source.classes, source.ids = ("$x_{$", "b"), ["$\\frac$", "$a$", "_b$^$"]
    source.name = "$sqrt_{$"
    card, *_ = prepare(source, tmp_path / "shards")
    draw_map(overview(Folder(tmp_path / "shards"), card), card, tmp_path / "map.png")
    draw_samples(Folder(tmp_path / "shards"), card, tmp_path / "samples.png")
