"""What a search will cost, estimated before it starts."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import torch

from stssl.data.dataset import Dataset
from stssl.errors import RunError
from stssl.search.asha import Scheduler
from stssl.search.config import ResourceConfig, SearchConfig
from stssl.search.rungs import Rungs
from stssl.training.evaluate import Diverged
from stssl.training.recipe import Recipe
from stssl.training.team import team_for
from stssl.training.trainer import Trainer

TIMED_STEPS, TIMED_SECONDS = 5, 20.0


class Cost(NamedTuple):
    """What is to be expected.

    Attributes:
        steps: Training steps of all trials, if at each rung one in `reduction_factor` goes on.
        replicates: Those of the replicates, if none is given up.
    """

    steps: float
    replicates: int


def expected(config: SearchConfig) -> Cost:
    """Count the training steps of a search that has not begun."""
    ladder = config.ladder
    scheduler = Scheduler(config.scheduler, ladder)
    steps = scheduler.remaining_steps(Rungs(scheduler.brackets), config.trials)
    return Cost(steps, (config.replicates.top + 1) * config.replicates.seeds * ladder[-1])


def seconds_per_step(recipe: Recipe, dataset: Dataset, resources: ResourceConfig) -> float:
    """Train a few steps of a recipe and an evaluation's share of one.

    Args:
        recipe: Which one.
        dataset: Its data.
        resources: Of a trial; without a GPU on this machine, its CPUs alone.

    Returns:
        Seconds, the median of TIMED_STEPS or as many as fit into TIMED_SECONDS, after one to warm up. Evaluations are in it.
    """
    torch.set_num_threads(resources.cpus)
    device = "cuda" if resources.gpus and torch.cuda.is_available() else "cpu"
    team = team_for(resources.gpus, resources.cpus)
    try:
        return _timed(Trainer(recipe, dataset, device, team), device == "cuda")
    except (Diverged, RuntimeError, MemoryError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"the base recipe does not train on {device}: {first}") from None
    finally:
        if team:
            team.close()


def _timed(trainer: Trainer, cuda: bool) -> float:
    recipe = trainer.recipe
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) <= TIMED_STEPS and (len(taken) < 2 or time.perf_counter() - begun < TIMED_SECONDS):
        start = time.perf_counter()
        trainer.train(min(trainer.step + 1, recipe.training.steps))
        if cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    start = time.perf_counter()
    trainer.evaluate("validation")
    evaluation = time.perf_counter() - start
    return median(taken[1:]) + evaluation / recipe.training.eval_interval
