"""What a training makes for its users: the moving average of the deployed network, with what its algorithm adds to the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stssl import plugins
from stssl.algorithms.base import Algorithm
from stssl.data.augment import Views
from stssl.data.dataset import Dataset
from stssl.data.schema import Batch
from stssl.data.store import ImageStore
from stssl.data.subsets import LabeledConfig
from stssl.errors import CheckpointError, ConfigError, StsslError
from stssl.models.teacher_student import Networks, Role
from stssl.training import checkpoint
from stssl.training.evaluate import evaluate
from stssl.training.parts import algorithm_of, autocast, networks_of
from stssl.training.recipe import Recipe


class Deployed:
    """A trained network and the data that it is asked about.

    Args:
        recipe: How it was trained.
        dataset: The data.
        networks: The moving average, on the device of `views`.
        views: Scale the pixels as in training.
        algorithm: Of the training; None if it does not correct logits.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, networks: Networks, views: Views, algorithm: Algorithm | None
    ) -> None:
        self.recipe, self.dataset, self.networks, self.views = recipe, dataset, networks, views
        self.algorithm = algorithm if algorithm is not None and algorithm.uses_blank else None

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Score it on one split.

        Args:
            split: One of `stssl.data.splits.EVALUATED`; only the end of a search and the user's own command read `test`.
            step: Number of finished optimizer steps.
        """
        networks, correction = self.networks.eval(), self.correction(step)

        def logits(batch: Batch) -> Tensor:
            images, place, days = (t.to(self.views.device) for t in (batch.images, batch.place, batch.time))
            with autocast(self.recipe, self.views.device):
                said = networks(networks.deployed, self.views.normalise(images), place, days).logits
            return said if correction is None else said + correction

        return evaluate(logits, self.dataset, split, parity=self.recipe.parity == "reference")

    @torch.no_grad()
    def correction(self, step: int) -> Tensor | None:
        """What the algorithm adds to the logits, [1, K]; None = nothing."""
        if self.algorithm is None:
            return None
        with autocast(self.recipe, self.views.device):
            blank = self.blank(self.networks.eval(), self.networks.deployed)
        return self.algorithm.correction(blank, step)

    def blank(self, networks: Networks, role: Role) -> Tensor:
        """Logits [1, K] of networks in evaluation mode on a white image without place and date."""
        size, value = self.recipe.model.image_size, self.views.white
        if self.recipe.parity == "reference":
            value = 1.0  # published: ones after normalisation, which is a light grey
        white = torch.full((1, self.dataset.channels, size, size), value, device=self.views.device)
        unknown = torch.full((1, 2), torch.nan, device=self.views.device)
        return networks(role, white, unknown, unknown[:, 0].double()).logits


def load(folder: Path, shards: str | None = None, device: str = "cpu") -> tuple[Deployed, int]:
    """Load what `train` has left in a folder.

    Args:
        folder: With recipe.yaml and checkpoint.pt.
        shards: Other data of the same classes and bands; None = the recipe's own.
        device: Where to compute.

    Returns:
        The network, and how many steps it was trained.

    Raises:
        ConfigError: The recipe or the shards do not fit.
        CheckpointError: The checkpoint is damaged, or of another recipe, other data or another version of stssl.
    """
    recipe, source = Recipe.read(folder / "recipe.yaml"), folder / "checkpoint.pt"
    state = checkpoint.load(source, device)
    store = ImageStore.open(shards or recipe.data.shards)
    fingerprint = state.get("fingerprint") if shards else store.card.fingerprint  # with --shards other data are meant
    checkpoint.check(state, recipe.dump(), recipe.digest(), str(fingerprint), str(source))
    try:
        return _assembled(recipe, store, state, shards, device), state["step"]
    except StsslError:
        raise
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{source}: its parts are not those of this version of stssl ({' '.join(str(error).split())}); train again"
        ) from error


def _assembled(recipe: Recipe, store: ImageStore, state: dict[str, Any], shards: str | None, device: str) -> Deployed:
    if list(store.card.classes) != state["classes"]:
        raise ConfigError(
            f"{shards}: its classes ({', '.join(store.card.classes[:4])}, ...) are not those of the training "
            f"({', '.join(state['classes'][:4])}, ...); use shards of the same data set"
        )
    # bands by name, as shards may order them otherwise; and no choice of training labels, of which these may have too few
    changes = {"bands": tuple(state["bands"]), "labeled": LabeledConfig()}
    if shards:
        changes["validation_budget"] = LabeledConfig()  # of the recipe's own data
    dataset = Dataset(recipe.data.model_copy(update=changes), store)
    networks = networks_of(recipe, dataset.channels, len(dataset.classes), pretrained=False).to(device)
    networks.load_state_dict(state["ema"])
    algorithm = None
    if plugins.find("stssl.algorithms", Algorithm)[recipe.algorithm.name].uses_blank:
        algorithm = algorithm_of(recipe, dataset).to(device)
        algorithm.load_state_dict(state["algorithm"])
    mean, std = (torch.tensor(state[key]) for key in ("band_mean", "band_std"))
    views = Views(recipe.views, mean, std, dataset.bands, recipe.model.image_size, torch.device(device))
    return Deployed(recipe, dataset, networks, views, algorithm)
