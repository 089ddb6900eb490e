"""Scoring a checkpoint of the reference project on prepared shards, with pixels scaled as it scales them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stssl import config as cfg
from stssl.data.augment import Views
from stssl.data.dataset import Dataset
from stssl.data.schema import Batch
from stssl.data.store import ImageStore
from stssl.data.subsets import LabeledConfig
from stssl.errors import ConfigError
from stssl.reference import config as reference
from stssl.reference.checkpoint import load
from stssl.reference.recipe import check_data, recipe_data
from stssl.training.evaluate import evaluate as score
from stssl.training.recipe import Recipe


class Pixels(NamedTuple):
    """How the reference scales the pixels of three bands: (x - mean) / std, in stored units, after it has cut them.

    Attributes:
        mean: Of each band.
        std: Of each band.
        most: Brighter pixels count as this bright.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    most: float | None = None


PIXELS: dict[tuple[str, ...], Pixels] = {
    # the statistics of all BigEarthNet 1.0 that its own tools publish; cut at two standard deviations, as `Views` does
    ("B04", "B03", "B02"): Pixels(
        (590.23569706, 614.21682446, 429.9430203), (675.88746967, 582.87945694, 572.41639287)
    ),
    # EuroSAT's JPEGs: x / 255, then (y - 0.5) / 0.5, which stays within what `Views` cuts
    ("R", "G", "B"): Pixels((127.5,) * 3, (127.5,) * 3),
}
# EuroSAT's GeoTIFFs, of which the JPEGs are made by x / 2750 · 255, cut at 255
GEOTIFF = Pixels((1375.0,) * 3, (1375.0,) * 3, most=2750.0)


def evaluate(
    checkpoint: Path,
    config: Path,
    split: str,
    shards: str | None = None,
    role: Literal["teacher", "student"] | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """Score the moving average of a reference checkpoint.

    The logits are those of the reference for the same pixels; the scores are ours (`f1_macro_reference` is as the reference
    cuts F1). Its pixels differ a little: it rounds a scaled JPEG to whole numbers, and EuroSAT's GeoTIFFs were never JPEGs.

    Args:
        checkpoint: `model_best.pth` or `latest_model.pth`.
        config: The YAML file that it was trained with.
        split: One of `stssl.data.splits.EVALUATED`.
        shards: The prepared data; by default those of the published recipes.
        role: The network to score; by default the one that the reference scores.
        device: Where to compute.

    Raises:
        ConfigError: The YAML file, the shards, the split or the role do not fit.
        CheckpointError: The checkpoint does not fit.
    """
    theirs = reference.read(config)
    recipe = cfg.validate(Recipe, recipe_data(theirs, shards), f"{config}, read as a recipe")
    store = ImageStore.open(recipe.data.shards)
    bands: tuple[str, ...] = recipe.data.bands or ()
    if bands == ("R", "G", "B") and "R" not in store.card.bands:
        bands = ("B04", "B03", "B02")
    # evaluation needs no choice of training labels, of which these shards may have too few
    dataset = Dataset(recipe.data.model_copy(update={"bands": bands, "labeled": LabeledConfig()}), store)
    check_data(theirs, dataset, config)
    pixels = GEOTIFF if theirs.dataset == "eurosat" and bands != ("R", "G", "B") else PIXELS[bands]
    loaded = load(checkpoint, recipe, dataset.channels, len(dataset.classes))
    networks = loaded.networks.to(device)
    chosen = role or networks.deployed
    if chosen not in networks.roles:
        raise ConfigError(
            f"--role {chosen}: algorithm {theirs.algorithm} has no {chosen}; it has a {' and a '.join(networks.roles)}"
        )
    mean, std = torch.tensor(pixels.mean), torch.tensor(pixels.std)
    views = Views(recipe.views, mean, std, dataset.bands, recipe.model.image_size, device)
    blank = loaded.blank.to(device) if loaded.blank is not None else 0.0

    def logits(batch: Batch) -> Tensor:
        images, place, days = (t.to(device) for t in (batch.images, batch.place, batch.time))
        if pixels.most is not None:
            images = images.float().clamp(max=pixels.most)
        return networks(chosen, views.normalise(images), place, days).logits - blank

    return score(logits, dataset, split, parity=True)
