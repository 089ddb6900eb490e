"""What an algorithm costs beside the networks: `python benchmarks/algorithms.py --out algorithms.json`.

For the published settings of both data sets (BigEarthNet: ViT-S/16 at 128 px, 43 classes, 64 labeled and 448 unlabeled
images a step; EuroSAT: ViT-S/2 at 32 px, 10 classes, 8 and 8), on random images:

- `step_s`: a whole training step of teacher and student with FixMatch, as the trainer does it.
- `algorithm_ms`: targets, and the losses of both networks with their gradients down to the logits, at the published batch; CAP
  with its queue full.
- `share`: the second over the first. Both are measured in turn, several times, in one process.
- `state_MiB`: the buffers that an algorithm keeps, with pools as large as the published ones (1 % of 269,695 images
  labeled; 40 of 16,200).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stssl import plugins
from stssl.algorithms.base import Algorithm, Logits, Seen, Setting
from stssl.data.dataset import Dataset
from stssl.data.schema import Task
from stssl.data.store import ImageStore
from stssl.errors import ConfigError
from stssl.models.teacher_student import Role
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer

ROOT = Path(__file__).parents[1] / "search_spaces" / "recipes"
POOLS = {"bigearthnet": (2_697, 269_695), "eurosat": (40, 16_200)}  # labeled, unlabeled
CALLS = 10  # of an algorithm for each training step


def trainer_of(name: str, device: str) -> Trainer:
    """The published recipe on random images."""
    multi = name == "bigearthnet"
    rows, classes, size = 600, (43 if multi else 10), (120 if multi else 64)
    random = np.random.default_rng(0)
    images = random.integers(0, 4000, (rows, 3, size, size), dtype=np.uint16)
    labels = (random.random((rows, classes)) < 0.07).astype(float) if multi else np.arange(rows) % classes
    place = np.stack([random.uniform(36, 70, rows), random.uniform(-9, 31, rows)], 1)
    names = tuple(f"class {k}" for k in range(classes))
    task: Task = "multi" if multi else "single"
    bands = ("B04", "B03", "B02")
    store = ImageStore.from_arrays(images, labels, place, random.uniform(17_300, 17_700, rows), names, task, bands)
    changes = {"data.split": {"by": "blocks", "block_deg": 1}, "data.labeled": {"count": 100 if multi else 40}}
    recipe = Recipe.read(ROOT / f"{name}.yaml", changes)
    return Trainer(recipe, Dataset(recipe.data, store), device)


class Costs:
    """One algorithm at the published batch.

    Raises:
        ConfigError: The algorithm is not for this task.
    """

    def __init__(self, name: str, trainer: Trainer, pools: tuple[int, int]) -> None:
        plugin = plugins.find("stssl.algorithms", Algorithm)[name]
        base, (labeled, unlabeled) = trainer.algorithm.setting, pools
        setting: Setting = base._replace(labeled=labeled, unlabeled=unlabeled)
        self.device, training = trainer.device, trainer.recipe.training
        self.algorithm: Algorithm = plugin(plugin.Config(), setting).to(self.device)
        self.random = torch.Generator().manual_seed(0)
        self.labeled, self.unlabeled = training.batch_labeled, training.batch_unlabeled
        self.y = trainer.batches.draw(0)[0].labels
        if name == "cap":
            while self.algorithm.state_dict()["count"] < self.algorithm.config.queue_size:
                self.algorithm.believe(self._seen(), 0)

    def _logits(self, rows: int) -> torch.Tensor:
        logits = 2 * torch.randn(rows, self.algorithm.classes, generator=self.random) - 2
        return logits.to(self.device)

    def _seen(self) -> Seen:
        setting = self.algorithm.setting
        rows = torch.randint(setting.unlabeled, (self.unlabeled,), generator=self.random).to(self.device)
        labeled_rows = torch.randint(setting.labeled, (self.labeled,), generator=self.random).to(self.device)
        weak, labeled, blank = (self._logits(n) for n in (self.unlabeled, self.labeled, 1))
        return Seen(weak, labeled, self.y, rows, labeled_rows, blank)

    def milliseconds(self) -> float:
        """Of one step's targets and losses, with gradients."""
        algorithm, seen = self.algorithm, self._seen()
        strong = self.unlabeled if algorithm.uses_unlabeled else 0
        pairs: dict[Role, Logits] = {}
        roles: tuple[Role, ...] = ("teacher", "student")
        for role in roles:
            parts = [self._logits(n).requires_grad_() for n in (self.labeled, strong, self.labeled)]
            labeled_strong = parts[2] if algorithm.uses_labeled_strong else None
            pairs[role] = Logits(parts[0], parts[1] if strong else None, labeled_strong)
        synchronise(self.device)
        start = time.perf_counter()
        targets = algorithm.believe(seen, 0) if algorithm.uses_unlabeled else None
        losses = [
            loss
            for role, logits in pairs.items()
            for loss in algorithm.losses(logits, self.y, targets, role, 0).values()
        ]
        torch.stack(losses).sum().backward()
        synchronise(self.device)
        return 1000 * (time.perf_counter() - start)

    def mebibytes(self) -> float:
        """Of its state."""
        return sum(b.numel() * b.element_size() for b in self.algorithm.buffers()) / 2**20


def synchronise(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: list[float], digits: int) -> dict[str, float]:
    """Median and range."""
    return {
        key: round(of(values), digits) for key, of in (("median", statistics.median), ("least", min), ("most", max))
    }


def measure(name: str, steps: int, device: str) -> dict[str, Any]:
    """All algorithms on one data set."""
    trainer, costs = trainer_of(name, device), {}
    for algorithm in plugins.find("stssl.algorithms", Algorithm):
        try:
            costs[algorithm] = Costs(algorithm, trainer, POOLS[name])
        except ConfigError:
            continue
    step_s: list[float] = []
    algorithm_ms: dict[str, list[float]] = {algorithm: [] for algorithm in costs}
    for number in range(steps + 1):
        start = time.perf_counter()
        trainer.train(trainer.step + 1)
        synchronise(trainer.device)
        seconds = time.perf_counter() - start
        times = {key: [cost.milliseconds() for _ in range(CALLS)] for key, cost in costs.items()}
        if number:  # the first round warms everything up
            step_s.append(seconds)
            for algorithm, some in times.items():
                algorithm_ms[algorithm] += some
    typical = statistics.median(step_s)
    return {
        "step_s": spread(step_s, 4),
        "algorithms": {
            key: {
                "algorithm_ms": spread(values, 3),
                "share": round(statistics.median(values) / 1000 / typical, 6),
                "state_MiB": round(costs[key].mebibytes(), 3),
            }
            for key, values in algorithm_ms.items()
        },
    }


def main() -> None:
    """Measure all, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=3, help="training steps measured (a minute or two each on two cores)"
    )
    parser.add_argument("--data", choices=POOLS, action="append", help="one data set alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{os.cpu_count()} CPU cores"
    result: dict[str, Any] = {"device": device, "torch": torch.__version__, "steps": arguments.steps}
    for name in arguments.data or POOLS:
        result[name] = measure(name, arguments.steps, arguments.device)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
