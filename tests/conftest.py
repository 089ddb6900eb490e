"""What many tests need: two tiny data sets, a tiny recipe, and the recorded numbers of the reference implementation."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer

from stssl.config import validate, with_overrides
from stssl.data.dataset import Dataset
from stssl.data.store import ImageStore
from stssl.proxies import exempt_loopback
from stssl.training.recipe import PLUGINS, Recipe
from stssl.training.trainer import Trainer

exempt_loopback()  # servers of tests are on loopback
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported, which any test may do

GOLDENS = Path(__file__).parent / "fixtures" / "goldens"

RECIPE: dict[str, Any] = {
    "data": {"shards": "nowhere", "split": {"block_deg": 5, "validation": 0.25, "test": 0.2}, "labeled": {"count": 14}},
    "framework": "teacher_student",
    "model": {"name": "tiny", "image_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "algorithm": {"name": "fixmatch", "threshold": 0.4},
    "optimizer": {"lr": 0.003, "weight_decay": 0.01},
    "training": {"steps": 6, "eval_interval": 2, "batch_labeled": 6, "batch_unlabeled": 10, "ema_decay": 0.9},
}


def make_store(task: str, rows: int = 72, unknown: bool = True) -> ImageStore:
    """Noise on a colour that tells the class; 3 bands, 3 classes, 16 px.

    Args:
        task: `single` or `multi`.
        rows: How many images.
        unknown: Leave out some places, dates and labels.
    """
    random = np.random.default_rng(7)
    if task == "single":
        labels = np.arange(rows) % 3
        hot = np.eye(3)[labels]
    else:
        hot = (random.random((rows, 3)) < [0.6, 0.5, 0.4]).astype(float)
        labels = hot.copy()
    colour = 1000 + 2000 * hot[:, :, None, None]
    images = np.clip(colour + random.normal(0, 300, (rows, 3, 16, 16)), 0, 65535).astype(np.uint16)
    place = np.stack([random.uniform(-90, 90, rows), random.uniform(-180, 180, rows)], 1)
    time = random.uniform(10_000, 20_000, rows)
    if unknown:
        place[::7], place[3, 1], time[::5] = np.nan, np.nan, np.nan
        labels[::6] = -1
        if task == "multi":
            labels[1::9, 2] = -1
    return ImageStore.from_arrays(images, labels, place, time, ("field", "lake", "town"), task, ("B04", "B03", "B02"))


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_torch() -> Iterator[None]:
    """Threads that wait for each other on a busy machine cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def stores() -> dict[str, ImageStore]:
    """Task to a tiny store with some places, dates and labels missing; not to be changed."""
    return {task: make_store(task) for task in ("single", "multi")}


@pytest.fixture(scope="session")
def whole_stores() -> dict[str, ImageStore]:
    """The same with nothing missing."""
    return {task: make_store(task, unknown=False) for task in ("single", "multi")}


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """Makes the tiny recipe with dotted overrides: `make_recipe({"optimizer.lr": 1e-3})`."""

    def make(overrides: dict[str, Any] | None = None) -> Recipe:
        return validate(Recipe, with_overrides(RECIPE, overrides or {}, plugins=PLUGINS), "recipe.yaml")

    return make


@pytest.fixture(scope="session")
def make_trainer(stores: dict[str, ImageStore], make_recipe: Callable[..., Recipe]) -> Callable[..., Trainer]:
    """Makes a trainer on the CPU: `make_trainer("single", {"framework": "plain"})`."""

    def make(task: str = "single", overrides: dict[str, Any] | None = None, store: ImageStore | None = None) -> Trainer:
        recipe = make_recipe(overrides)
        return Trainer(recipe, Dataset(recipe.data, store or stores[task]))

    return make


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Loads a file of recorded numbers by name: arrays by their names."""

    def load(name: str) -> dict[str, Any]:
        with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    return load


@pytest.fixture(scope="session")
def assert_golden() -> Callable[..., None]:
    """Compares with a recorded value to within 2e-5 · (1 + |value|), the recordings' own tolerance."""

    def check(ours: Any, recorded: Any, what: str = "") -> None:
        ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else ours
        np.testing.assert_allclose(ours, recorded, rtol=2e-5, atol=2e-5, err_msg=what)

    return check


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Compares nested states bit for bit; wall-clock `seconds` may differ."""

    def check(a: Any, b: Any, where: str = "state") -> None:
        assert type(a) is type(b), where
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), where
        elif isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                if key != "seconds":
                    check(a[key], b[key], f"{where}.{key}")
        elif isinstance(a, list | tuple):
            assert len(a) == len(b), where
            for number, pair in enumerate(zip(a, b, strict=True)):
                check(*pair, f"{where}[{number}]")
        else:
            assert a == b or (a != a and b != b), f"{where}: {a} and {b}"

    return check


class Faults:
    """Stands before an S3 application: counts requests, delays them, and answers some of them itself.

    Attributes:
        answer: Of a request: 403 or 503, or None to let it through.
        delay: Seconds before each answer.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app, self.requests, self.delay = app, 0, 0.0
        self.answer: Callable[[dict[str, Any]], int | None] | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> object:
        self.requests += 1
        time.sleep(self.delay)
        code = self.answer(environ) if self.answer else None
        if code is None:
            return self.app(environ, start_response)
        reason = {403: "AccessDenied", 503: "SlowDown"}[code]
        start_response(f"{code} {reason}", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{reason}</Code><Message>no</Message></Error>".encode()]


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    """An S3 server on loopback with the buckets `patches` and `runs`, found through the environment as boto3 finds one."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    faults = server._server.app = Faults(server._server.app)
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", region_name="us-east-1")
        for bucket in ("patches", "runs"):
            client.create_bucket(Bucket=bucket)
        yield faults
    server.stop()


@pytest.fixture
def no_faults(faults: Faults) -> Iterator[None]:
    """Ends the faults after the test."""
    yield
    faults.answer, faults.delay = None, 0.0
