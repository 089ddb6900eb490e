"""The real patches, prepared once, and small sources made of arrays."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from stssl.config import Config
from stssl.data.prepare import prepare
from stssl.data.schema import Card, Sample
from stssl.data.sources.base import Source
from stssl.data.sources.eurosat import EuroSAT, EuroSATConfig
from stssl.data.store import ImageStore
from stssl.errors import DataError

ROOT = Path(__file__).parents[2]


class ListSource(Source):
    """Samples at hand, as a source."""

    Config = Config
    name = "list"
    licence = "none"
    attribution = "nobody"

    def __init__(self, samples: Sequence[Sample], task: str = "single", mark: str = "1") -> None:
        self.all, self.mark = list(samples), mark
        self.ids = [sample.id for sample in self.all]
        self.task, self.classes = task, ("a", "b", "c")
        self.bands = tuple(f"B{i}" for i in range(len(samples[0].image))) if samples else ("B0",)

    def stamp(self, index: int) -> str:
        return self.mark

    def read(self, index: int) -> Sample:
        sample = self.all[index]
        if isinstance(sample.image, str):
            raise DataError(f"{sample.id}.tif: {sample.image}")
        return sample


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are small, and threads that wait for each other on a busy machine cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def patches() -> Path:
    """The folder of class folders of the 103 real patches."""
    return ROOT / "data" / "eurosat_ms_103" / "EuroSAT_MS"


@pytest.fixture(scope="session")
def eurosat(patches: Path) -> EuroSAT:
    return EuroSAT(EuroSATConfig(root=str(patches)))


@pytest.fixture(scope="session")
def prepared(eurosat: EuroSAT, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """Shards of the real patches; not to be changed."""
    folder = tmp_path_factory.mktemp("shards") / "eurosat"
    return folder, prepare(eurosat, folder, rows_per_shard=40).card


@pytest.fixture(scope="session")
def store(prepared: tuple[Path, Card], tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore.open(prepared[0], tmp_path_factory.mktemp("cache"))


@pytest.fixture
def small() -> Callable[..., ListSource]:
    """Makes a source of `n` random 2 x 4 x 4 images."""

    def make(n: int = 10, mark: str = "1", seed: int = 0) -> ListSource:
        random = np.random.default_rng(seed)
        samples = [
            Sample(
                f"s{i:03d}",
                random.integers(0, 65536, (2, 4, 4)).astype(np.uint16),
                ("abc"[i % 3],) if i % 4 else None,
                float(i % 90),
                float(-i % 90),
                17000.25 + i if i % 2 else None,
                "train" if i < n // 2 else "test",
            )
            for i in range(n)
        ]
        return ListSource(samples, mark=mark)

    return make


@pytest.fixture
def list_source() -> type[ListSource]:
    return ListSource
