"""How fast data reaches a network, beside what people write today: `python benchmarks/data.py --out data.json`.

Everything is measured side by side in one run, in turn, and the medians and ranges of the repetitions are printed as JSON:

- `reads`: images a second in batches of 64. Today: a torch Dataset that opens three 120 x 120 band GeoTIFFs a sample with
  rasterio, served by a DataLoader with two workers. Ours: batches from the memory-mapped store.
- `views`: unlabeled images with a weak and a strong view a second, at 128 px. Today: torchvision transforms, sample by
  sample, in the same DataLoader. Ours: batches from the store and their views in two processes at the same time, one
  thread each, as two trials of a search have them; the sum of both.
- `gather`: bytes a second that random images are copied from the store with, beside numpy's copy of as many bytes.
- `prepare`: seconds to write shards from the GeoTIFFs, beside the seconds to read the same GeoTIFFs with rasterio.
- `memory`: what a process that draws batches holds, at 1, 10 and 100 times the size of the data set.

The images are the real BigEarthNet patches of `tests/fixtures`, copied under many names, so all files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torchvision.transforms import v2

from stssl.data.augment import ViewConfig, Views
from stssl.data.batches import Batches
from stssl.data.dataset import DataConfig, Dataset
from stssl.data.prepare import prepare
from stssl.data.schema import Sample
from stssl.data.sources.base import Source
from stssl.data.sources.bigearthnet_v1 import BigEarthNetV1, BigEarthNetV1Config
from stssl.data.store import ImageStore, gather

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "tests" / "fixtures" / "bigearthnet_v1"
BANDS = ("B04", "B03", "B02")
BATCH, UNLABELED, SIZE = 64, 448, 128
MEAN, STD = (590.24, 614.22, 429.94), (675.89, 582.88, 572.42)  # of the bands above over BigEarthNet


class Today(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Three GeoTIFFs a sample, transformed one by one: the pipeline that a paper's repository has."""

    def __init__(self, folders: list[Path], views: bool) -> None:
        self.folders, self.views = folders, views
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (MEAN, STD))
        self.low, self.scale = mean - 2 * std, 4 * std
        shared = [
            v2.Resize(SIZE), v2.RandomCrop(SIZE, padding=16, padding_mode="reflect"),
            v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(),
        ]  # fmt: skip
        last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
        self.weak = v2.Compose([*shared, *last])
        self.strong = v2.Compose([*shared, v2.RandAugment(3, 5), *last])

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Any:
        image = read_bands(self.folders[index])
        if not self.views:
            return torch.from_numpy(image.astype(np.int32))
        unit = ((image - self.low) / self.scale).clip(0, 1)
        picture = torch.from_numpy((unit * 255).astype(np.uint8))
        return self.weak(picture), self.strong(picture)


def read_bands(folder: Path) -> np.ndarray:
    """[3, 120, 120] uint16."""
    bands = []
    for band in BANDS:
        with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
            bands.append(file.read(1))
    return np.stack(bands)


def copies(target: Path, count: int) -> list[Path]:
    """Real patches under `count` names that no patch of BigEarthNet has: places and dates are those of their own files."""
    real = sorted(path for path in PATCHES.rglob("S2*") if path.is_dir() and list(path.glob("*_B04.tif")))
    for number in range(count):
        source = real[number % len(real)]
        name = f"{source.name.rsplit('_', 2)[0]}_{1000 + number // 100}_{number % 100}"
        (target / name).mkdir(parents=True)
        for file in (*(f"{source.name}_{band}.tif" for band in BANDS), f"{source.name}_labels_metadata.json"):
            shutil.copy(source / file, target / name / file.replace(source.name, name))
    return sorted(target.iterdir())


def today(folders: list[Path], views: bool, count: int) -> float:
    """Images a second of the DataLoader, without its start."""
    loader = torch.utils.data.DataLoader(
        Today(folders, views), BATCH, shuffle=True, num_workers=2, prefetch_factor=4, persistent_workers=True
    )
    batches = iter(loader)
    next(batches)
    start, seen = time.perf_counter(), 0
    for batch in batches:
        seen += BATCH if len(batch) == BATCH or views else 0
        if seen >= count:
            break
    rate = seen / (time.perf_counter() - start)
    del batches, loader
    return rate


def ours_read(dataset: Dataset, count: int) -> float:
    """Images a second in batches of 64."""
    batches = Batches(dataset, BATCH, 0, 0, "cpu")
    batches.draw(0)
    steps = count // BATCH
    start = time.perf_counter()
    for step in range(1, steps + 1):
        batches.draw(step)
    return steps * BATCH / (time.perf_counter() - start)


def ours_views(shards: Path, cache: Path) -> float:
    """Unlabeled images a second with their weak and strong views, in batches of 448, of two processes together."""
    start = time.time() + 12  # both have imported torch by then
    command = [sys.executable, str(Path(__file__).resolve()), "--views", str(shards), str(cache), str(start)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return sum(float(child.communicate()[0]) for child in children)


def views_child(shards: str, cache: str, start: str, seconds: float = 4) -> None:
    """One of the two processes: prints its images a second."""
    torch.set_num_threads(1)
    dataset = opened(Path(shards), Path(cache))
    batches = Batches(dataset, BATCH, UNLABELED, 0, "cpu")
    views = Views(ViewConfig(), dataset.mean, dataset.std, dataset.bands, SIZE)
    steps = 0

    def step() -> None:
        nonlocal steps
        _, unlabeled = batches.draw(steps)
        assert unlabeled is not None
        views.pair(unlabeled.images, (0, steps), (1, steps))
        steps += 1

    step()
    if time.time() > float(start):
        raise SystemExit("this machine is too busy: the two processes did not begin together")
    time.sleep(float(start) - time.time())
    begin, first = time.perf_counter(), steps
    while time.perf_counter() < begin + seconds:
        step()
    print((steps - first) * UNLABELED / (time.perf_counter() - begin))


def opened(shards: Path, cache: Path) -> Dataset:
    """The data set; its few places make few blocks."""
    config = DataConfig(shards="", split={"block_deg": 0.02, "validation": 0.34, "test": 0})  # type: ignore[arg-type]
    return Dataset(config, ImageStore.open(shards, cache))


def gather_rates(dataset: Dataset) -> tuple[float, float]:
    """Bytes a second: random images from the store, and numpy's copy of the same amount."""
    images, out = dataset.store.images, dataset.buffer(UNLABELED, pinned=False)
    assert out is not None
    random = np.random.default_rng(0)
    source, target = np.ones(out.numel(), np.uint16), np.empty(out.numel(), np.uint16)
    spent = [0.0, 0.0]
    for _ in range(20):
        rows = torch.from_numpy(random.integers(0, len(images), UNLABELED))
        start = time.perf_counter()
        gather(images, rows, None, out)
        middle = time.perf_counter()
        np.copyto(target, source)
        spent[0] += middle - start
        spent[1] += time.perf_counter() - middle
    return 20 * source.nbytes / spent[0], 20 * source.nbytes / spent[1]


def in_turn(repeats: int, **measured: Callable[[], float]) -> dict[str, Any]:
    """Median and range of each, measured in turn."""
    values: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(repeats):
        for name, measure in measured.items():
            values[name].append(measure())
    return {name: spread(found) for name, found in values.items()}


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(result: dict[str, Any], over: str, under: str) -> dict[str, Any]:
    """The result with the ratio of two medians."""
    return {**result, "ratio": result[over]["median"] / result[under]["median"]}


class Noise(Source):
    """Random images of 3 x 32 x 32."""

    name, task, classes, bands = "noise", "single", ("a", "b"), BANDS
    licence = attribution = "none"

    def __init__(self, count: int) -> None:
        self.ids = [f"{index:07d}" for index in range(count)]

    def read(self, index: int) -> Sample:
        image = np.random.default_rng(index).integers(0, 4000, (3, 32, 32)).astype(np.uint16)
        lat, lng = index % 1200 / 10 - 60, index // 1200 % 3000 / 10 - 150
        return Sample(self.ids[index], image, ("ab"[index % 2],), lat, lng, 17000.0 + index % 700, None)


def child(shards: str, cache: str) -> None:
    """Draw batches with views, then tell what this process holds."""
    torch.set_num_threads(1)
    config = DataConfig(shards=shards, split={"block_deg": 1}, labeled={"count": 200})  # type: ignore[arg-type]
    dataset = Dataset(config, ImageStore.open(shards, cache))
    batches = Batches(dataset, BATCH, UNLABELED, 0, "cpu")
    views = Views(ViewConfig(), dataset.mean, dataset.std, dataset.bands, 32)
    for step in range(30):
        labeled, unlabeled = batches.draw(step)
        assert unlabeled is not None
        for images in (labeled.images, unlabeled.images):
            views.pair(images, (0, step), (1, step))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["RssAnon"].split()[0]) * 1024)


def memory(work: Path, base: int, repeats: int) -> dict[str, Any]:
    """Private memory of a process at 1, 10 and 100 times the size; the store is built by another one."""
    result = {}
    for factor in (1, 10, 100):
        shards, cache = work / f"noise{factor}", work / "cache"
        prepare(Noise(base * factor), shards)
        ImageStore.open(shards, cache)
        held = [
            float(
                subprocess.check_output(
                    [sys.executable, str(Path(__file__).resolve()), "--child", str(shards), str(cache)]
                )
            )
            for _ in range(repeats)
        ]
        pixels = base * factor * 3 * 32 * 32 * 2
        result[f"{base * factor} images, {pixels / 2**20:.0f} MiB"] = {
            key: round(value / 2**20, 1) for key, value in spread(held).items()
        }
    return {"private_MiB": result}


def main() -> None:
    """Measure all, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--views", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child or arguments.views:
        child(*arguments.child) if arguments.child else views_child(*arguments.views)
        return
    repeats, count = arguments.repeats, arguments.patches
    work = Path(tempfile.mkdtemp(prefix="stssl-benchmark-"))
    try:
        folders = copies(work / "BigEarthNet-v1.0", count)
        source = BigEarthNetV1(BigEarthNetV1Config(root=str(work / "BigEarthNet-v1.0")))
        turn = iter(range(10**6))

        def seconds_to_prepare() -> float:
            start = time.perf_counter()
            prepare(source, work / f"shards{next(turn)}")
            return time.perf_counter() - start

        def seconds_to_read() -> float:
            start = time.perf_counter()
            for folder in folders:
                read_bands(folder)
            return time.perf_counter() - start

        seconds_to_read()  # the page cache
        result: dict[str, Any] = {
            "machine": {"cpus": os.cpu_count(), "torch": torch.__version__, "images": count, "repeats": repeats},
            "prepare": ratios(in_turn(repeats, prepare=seconds_to_prepare, read=seconds_to_read), "prepare", "read"),
        }
        shards, cache = work / "shards0", work / "cache"
        dataset = opened(shards, cache)
        result["reads"] = ratios(
            in_turn(repeats, ours=lambda: ours_read(dataset, 20_000), today=lambda: today(folders, False, count // 2)),
            "ours",
            "today",
        )
        result["views"] = ratios(
            in_turn(repeats, ours=lambda: ours_views(shards, cache), today=lambda: today(folders, True, count // 3)),
            "ours",
            "today",
        )
        rates = [gather_rates(dataset) for _ in range(repeats)]
        result["gather"] = ratios(
            {name: spread([rate[at] for rate in rates]) for at, name in enumerate(("gather", "memcpy"))},
            "gather",
            "memcpy",
        )
        result["memory"] = memory(work, 1000, repeats)
    finally:
        shutil.rmtree(work)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
