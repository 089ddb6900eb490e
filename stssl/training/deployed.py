"""What a training makes for its users: the moving average of the deployed network, asked about any data of the same kind."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from stssl import config as cfg
from stssl.data.augment import Views
from stssl.data.dataset import DataConfig, Dataset
from stssl.data.schema import Batch
from stssl.data.store import ImageStore
from stssl.data.subsets import LabeledConfig
from stssl.errors import CheckpointError, ConfigError, DataError, is_out_of_memory
from stssl.models.teacher_student import Networks, Role
from stssl.training import checkpoint
from stssl.training.evaluate import evaluate
from stssl.training.parts import autocast, networks_of
from stssl.training.recipe import Recipe


class Deployed:
    """A trained network and the data that it is asked about.

    Args:
        recipe: How it was trained.
        dataset: The data.
        networks: The moving average, on the device of `views`.
        views: Scale the pixels as in training.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, networks: Networks, views: Views) -> None:
        self.recipe, self.dataset, self.networks, self.views = recipe, dataset, networks, views

    def evaluate(self, split: str, correction: Tensor | None) -> dict[str, float]:
        """Score it on one split.

        Args:
            split: One of `stssl.data.splits.EVALUATED`; only the end of a search and the user's own command read `test`.
            correction: [1, K] what the algorithm adds to the logits; None = nothing.

        Raises:
            ConfigError: The split is unknown or empty.
            Diverged: The network's output is not finite.
        """
        networks = self.networks.eval()

        def logits(batch: Batch) -> Tensor:
            images, place, days = (t.to(self.views.device) for t in (batch.images, batch.place, batch.time))
            with autocast(self.recipe, self.views.device):
                said = networks(networks.deployed, self.views.normalise(images), place, days).logits
            return said if correction is None else said + correction

        return evaluate(logits, self.dataset, split, parity=self.recipe.parity == "reference")

    def blank(self, networks: Networks, role: Role) -> Tensor:
        """Logits [1, K] of networks in evaluation mode on a white image without place and date."""
        size, value = self.recipe.model.image_size, self.views.white
        if self.recipe.parity == "reference":
            value = 1.0  # published: ones after normalisation, which is a light grey
        white = torch.full((1, self.dataset.channels, size, size), value, device=self.views.device)
        unknown = torch.full((1, 2), torch.nan, device=self.views.device)
        return networks(role, white, unknown, unknown[:, 0].double()).logits


def load(folder: Path, shards: str | None = None, device: str = "cpu") -> tuple[Deployed, Tensor | None]:
    """Load what `train` has left in a folder.

    Args:
        folder: With checkpoint.pt, which holds the recipe too.
        shards: Other data of the same classes and bands; None = the recipe's own.
        device: Where to compute.

    Returns:
        The network, and what its algorithm adds to the logits.

    Raises:
        ConfigError: The recipe or the shards do not fit.
        DataError: The recipe's own shards have changed since.
        CheckpointError: The checkpoint is damaged, or of another version of stssl.
    """
    source = folder / "checkpoint.pt"
    state = checkpoint.load(source, device)
    recipe = cfg.validate(Recipe, json.loads(state["recipe"]), f"{source}: recipe")
    dataset = data_like(
        recipe.data, shards, state["task"], state["classes"], tuple(state["bands"]), state["fingerprint"]
    )
    if shards is None and dataset.store.card.fingerprint != state["fingerprint"]:
        raise DataError(
            f"{recipe.data.shards}: these shards have changed since the training (fingerprint {state['fingerprint'][:12]} "
            f"then, {dataset.store.card.fingerprint[:12]} now); if that is meant, say --shards {recipe.data.shards}"
        )
    networks = networks_of(recipe, dataset.channels, len(dataset.classes), pretrained=False).to(device)
    try:
        networks.load_state_dict(state["ema"])
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{source}: its weights are not those of this version of stssl ({reason})") from None
    mean, std = (torch.tensor(state[key]) for key in ("band_mean", "band_std"))
    views = Views(recipe.views, mean, std, dataset.bands, recipe.model.image_size, torch.device(device))
    return Deployed(recipe, dataset, networks, views), state["correction"]


def data_like(
    config: DataConfig, shards: str | None, task: str, classes: list[str], bands: tuple[str, ...], fingerprint: str
) -> Dataset:
    """The data on which a trained network is scored: its own, or others that it can be asked about.

    Args:
        config: Of the training.
        shards: Other shards; None = those of the training.
        task: Of the training.
        classes: Which the network tells apart, in its order.
        bands: Which it sees, in its order; shards may hold them in another one.
        fingerprint: Of the training's data.

    Raises:
        ConfigError: Other classes or labels of another kind, or a band is missing.
    """
    store = ImageStore.open(shards or config.shards)
    card, where = store.card, shards or config.shards
    if card.task != task:
        labels = {"multi": "several labels", "single": "one label"}
        raise ConfigError(
            f"{where}: {labels[card.task]} per image, but the network was trained on {labels[task]}; use shards of its kind"
        )
    theirs = list(card.classes)
    if theirs != classes:
        pairs = [(a, b) for a, b in zip(theirs, classes, strict=False) if a != b]
        more = f"the first difference: '{pairs[0][0]}' there, '{pairs[0][1]}' here; " if pairs else ""
        raise ConfigError(
            f"{where}: its {len(theirs)} classes are not the {len(classes)} of the network; {more}use shards of the same data set"
        )
    if missing := [band for band in bands if band not in card.bands]:
        raise ConfigError(
            f"{where}: has no band {', '.join(missing)}, which the network was trained on; it has {', '.join(card.bands)}"
        )
    # no choice of training labels, of which these shards may have too few; nor, in other data, of validation labels
    changes = {"bands": bands, "labeled": LabeledConfig()}
    if card.fingerprint != fingerprint:
        changes["validation_budget"] = LabeledConfig()
    return Dataset(config.model_copy(update=changes), store)
