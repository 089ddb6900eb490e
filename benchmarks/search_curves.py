"""Record the learning curves that `benchmarks/search.py` replays: `python benchmarks/search_curves.py --out CURVES`.

A full factorial grid of 216 recipes is trained in full on simulated land cover, each once, on the CPU with one thread. Validation
accuracy at each rung is written down, one JSON line a training, as soon as it has ended. Finished ones are not trained
again, so an interrupted recording goes on; about 35 minutes of one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from stssl import config as cfg
from stssl.data.dataset import Dataset
from stssl.data.prepare import prepare
from stssl.data.sources.simulated import Simulated, SimulatedConfig
from stssl.training.recipe import PLUGINS, Recipe
from stssl.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
CURVES = Path(__file__).with_name("search_curves.jsonl")
RUNGS = (10, 30, 90, 270)
BASE: dict[str, Any] = {
    "data.split": {"by": "blocks", "block_deg": 0.5, "validation": 0.35, "test": 0.1},
    "data.labeled.per_class": 20, "algorithm.threshold": 0.95, "algorithm.unlabeled_weight": 0.3, "model.image_size": 16,
    "model.depth": 2, "views.strong_ops": 2, "optimizer.warmup_steps": 10, "training.steps": RUNGS[-1],
    "training.eval_interval": RUNGS[0], "training.batch_labeled": 16, "training.batch_unlabeled": 16,
}  # fmt: skip
GRID: dict[str, list[Any]] = {
    "framework": ["plain", "teacher_student"],
    "optimizer.lr": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
    "algorithm.threshold": [0.5, 0.95],
    "algorithm.unlabeled_weight": [0.3, 3.0],
    "training.ema_decay": [0.9, 0.99, 0.998],
}


def base_recipe(shards: str) -> dict[str, Any]:
    """The recipe that all trainings share."""
    base = cfg.read_yaml(ROOT / "search_spaces" / "recipes" / "simulated.yaml")
    return cfg.with_overrides(base, {**BASE, "data.shards": shards})


def points() -> list[dict[str, Any]]:
    """All points of the grid, in an order of which every part is like the whole."""
    found = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    random.Random(0).shuffle(found)
    return found


def main() -> None:
    """Record what is not on record yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CURVES)
    parser.add_argument("--shards", type=Path, default=ROOT / "runs" / "data" / "search-curves")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.shards.exists():
        prepare(Simulated(SimulatedConfig(images=4_000, strength_place=0.5, strength_season=0.5)), given.shards)
    base = base_recipe(str(given.shards))
    dataset = Dataset.open(Recipe.model_validate(base).data)
    done = [json.loads(line)["params"] for line in given.out.read_text().splitlines()] if given.out.exists() else []
    for point in points():
        if point in done:
            continue
        start = time.perf_counter()
        trainer = Trainer(Recipe.model_validate(cfg.with_overrides(base, point, plugins=PLUGINS)), dataset)
        accuracy = []
        for rung in RUNGS:
            trainer.train(rung)
            accuracy.append(round(trainer.evaluate()["accuracy"], 5))
        line = {"params": point, "accuracy": accuracy, "seconds": round(time.perf_counter() - start, 2)}
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
