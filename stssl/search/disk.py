"""How much room the weights of a search take, told before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from stssl.data.dataset import Dataset
from stssl.errors import RunError
from stssl.search.asha import Scheduler
from stssl.search.config import SearchConfig
from stssl.storage import Folder
from stssl.training.parts import networks_of
from stssl.training.recipe import Recipe


class Need(NamedTuple):
    """What the weights of a search take, in bytes.

    Attributes:
        least: Of the trials that run, and of the replicates: without these a search cannot go on.
        most: With the trials that are paused or trained in full.
    """

    least: int
    most: int


def need(config: SearchConfig, dataset: Dataset, running: int) -> Need:
    """Estimate what the weights take, from the base recipe's networks.

    Args:
        config: The search.
        dataset: Its data.
        running: How many trials run at a time.
    """
    recipe = Recipe.model_validate(config.recipe)
    networks = networks_of(recipe, dataset.channels, len(dataset.classes), pretrained=False)
    size = 4 * sum(p.numel() * p.element_size() for p in networks.parameters())  # with their average, and AdamW's two
    count = running + (config.replicates.top + 1) * config.replicates.seeds
    kept = Scheduler(config.scheduler, config.ladder).most_kept(config.trials)
    return Need(count * size, (count + kept) * size)


def check(folder: Folder | Path, needed: Need) -> str:
    """Compare the need with what is free.

    Returns:
        A note if there may be too little; empty if there is enough.

    Raises:
        RunError: There is certainly too little.
    """
    path = Folder(folder).path
    if path is None:
        return ""  # a bucket has room
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    gigabytes = lambda size: f"{size / 1e9:.3g} GB"  # noqa: E731
    if free < needed.least:
        raise RunError(
            f"{folder}: the weights of this search need about {gigabytes(needed.least)} at the least, and {gigabytes(free)} are "
            "free there; make room, choose another --out, or lower replicates.top or replicates.seeds"
        )
    if free < needed.most:
        return (
            f"the weights of this search may take {gigabytes(needed.most)}, and {gigabytes(free)} are free in {there}; when the "
            "disk is full, the search stops and can be resumed"
        )
    return ""
