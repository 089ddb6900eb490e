"""The trainer: one recipe on one device, or on those of a team.

All randomness of a step is a function of (seed, step), and the batches are too. So a checkpoint holds no
generator, evaluation in between disturbs nothing, and a resumed run is the uninterrupted run bit for bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from stssl.algorithms.base import Logits, Seen, Targets
from stssl.algorithms.distillation import distillation_loss
from stssl.data.augment import Views
from stssl.data.batches import Batches
from stssl.data.dataset import Dataset
from stssl.data.schema import Batch
from stssl.errors import CheckpointError, ConfigError, is_out_of_memory
from stssl.models.injection.base import Outputs
from stssl.models.teacher_student import Role
from stssl.training import checkpoint
from stssl.training.deployed import Deployed
from stssl.training.evaluate import Diverged
from stssl.training.optim import lr_factor, make_optimizer
from stssl.training.parts import algorithm_of, autocast, networks_of
from stssl.training.quality import judge
from stssl.training.recipe import Recipe
from stssl.training.team import Team

# Streams of random numbers: the first number of each seed key, since zeros at its end would not tell keys apart.
WEIGHTS, STEP, VIEWS = 1, 2, 3


def seed_everything(*key: int) -> None:
    """Seed torch's global generators from a tuple of numbers."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


class _Weak(NamedTuple):
    """Weak views, and what the network that makes the targets says about them."""

    images: Tensor  # [U, C, H, W]
    of: Batch
    outputs: Outputs
    labeled: Tensor | None  # [B, K] logits on weak views of labeled images, where they were asked for
    blank: Tensor | None  # [1, K]


class Trainer:
    """Trains one recipe.

    Args:
        recipe: What to train.
        dataset: Opened with the recipe's own `data`.
        device: Where to train; a team's own devices go before it.
        team: With which other processes.

    Attributes:
        step: Finished optimizer steps.
        history: One entry for each evaluation interval, oldest first.
        networks: The networks that learn; `ema.module` is their moving average, which is evaluated.

    Raises:
        ConfigError: The recipe does not fit the data.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, device: torch.device | str = "cpu", team: Team | None = None
    ) -> None:
        self.recipe, self.dataset, self.team = recipe, dataset, team
        self.device = team.device if team else torch.device(device)
        dataset.settle(self.device)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.algorithm = algorithm_of(recipe, dataset).to(self.device)
        seed_everything(WEIGHTS, recipe.seed)
        self.networks = networks_of(recipe, dataset.channels, len(dataset.classes)).to(self.device)
        self.ema = ModelEmaV3(self.networks, decay=recipe.training.ema_decay, exclude_buffers=True)
        if team:
            team.tell("make", recipe.dump())
            team.join(self.networks, self.ema.module)
        parity = recipe.parity == "reference"
        self.optimizer = make_optimizer(
            self.networks, recipe.optimizer, parity and recipe.framework == "teacher_student"
        )
        self.views = Views(recipe.views, dataset.mean, dataset.std, dataset.bands, recipe.model.image_size, self.device)
        self.deployed = Deployed(recipe, dataset, self.ema.module, self.views)
        unlabeled = recipe.training.batch_unlabeled if self.algorithm.uses_unlabeled else 0
        order = 0 if parity else recipe.seed  # published: every run in the same order
        balanced = recipe.training.labeled_sampling == "class_balanced"
        self.batches = Batches(dataset, recipe.training.batch_labeled, unlabeled, order, self.device, balanced)
        self._hidden = torch.as_tensor(~np.isin(dataset.split.unlabeled, dataset.split.labeled)).to(self.device)
        self._sums: dict[str, tuple[Tensor | float, Tensor | float]] = {}

    def train(self, until_step: int, on_step: Callable[[int], None] | None = None) -> dict[str, float]:
        """Train up to a step.

        Args:
            until_step: The step to end at, at most `training.steps`.
            on_step: Called with the number of finished steps after each one.

        Returns:
            Means over these steps of every loss, and of the share of pseudo-labels believed (`mask_rate`); precision and
            recall over all pseudo-labels of these steps (see `judge`), where any were believed or any label is known.

        Raises:
            Diverged: A loss is not finite.
        """
        if until_step > self.recipe.training.steps:
            raise ConfigError(f"step {until_step} is beyond training.steps {self.recipe.training.steps}")
        if self.team:
            self.team.tell("train", until_step)
        self._sums, first = {}, self.step
        while self.step < until_step:
            self._train_step()
            if on_step:
                on_step(self.step)
            if self.step % 100 == 0 or self.step == until_step:  # a look costs a synchronisation on a GPU
                for name, (total, _) in self._sums.items():
                    if not math.isfinite(float(total)):
                        raise Diverged(f"{name} became {float(total)} between steps {first} and {self.step}")
        return self.record()

    def record(self) -> dict[str, float]:
        """What `train` has noted since it began; what is of nothing is left out."""
        return {name: float(total) / float(of) for name, (total, of) in self._sums.items() if float(of) > 0}

    def _train_step(self) -> None:
        recipe, step = self.recipe, self.step
        seed_everything(STEP, recipe.seed, step)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * lr_factor(step, recipe.training.steps, recipe.optimizer.warmup_steps)
        labeled, unlabeled = self.batches.draw(step)
        keys = [(VIEWS, recipe.seed, step, view) for view in range(4)]
        images, n = [], len(labeled.labels)  # n: labeled images, in one view or two
        if self.algorithm.uses_labeled_strong:
            images, n = [*self.views.pair(labeled.images, keys[0], keys[3])], 2 * n
        else:
            images = [self.views.weak(labeled.images, keys[0])]
        place, days = [labeled.place] * len(images), [labeled.time] * len(images)
        weak: _Weak | None = None
        with autocast(recipe, self.device):
            if unlabeled is not None:
                weak_images, strong_images = self.views.pair(unlabeled.images, keys[1], keys[2])
                weak = self._ask(weak_images, unlabeled, images[0], labeled)
                images.append(strong_images)
                place.append(unlabeled.place)
                days.append(unlabeled.time)
            self.networks.train()
            everything = torch.cat(images), torch.cat(place), torch.cat(days)
            outputs = {role: self.networks(role, *everything) for role in self.networks.roles}
        said = {role: self._said(output.logits, len(labeled.labels), n) for role, output in outputs.items()}
        targets = None
        if weak is not None and unlabeled is not None:
            known = said[self.networks.roles[0]].labeled.detach() if weak.labeled is None else weak.labeled
            seen = Seen(weak.outputs.logits, known, labeled.labels, unlabeled.member, labeled.member, weak.blank)
            targets = self.algorithm.believe(seen, step)
            self._judge(targets, said, unlabeled)
        loss = torch.zeros((), device=self.device)
        for role, logits in said.items():
            for name, value in self.algorithm.losses(logits, labeled.labels, targets, role, step).items():
                self._note(f"{role}/{name}", value)
                loss = loss + value
        if self.networks.distilled and not self.algorithm.warming_up(step):
            distilled = self._distillation(outputs, n, weak)
            self._note("student/distillation", distilled)
            loss = loss + recipe.distillation.weight_at(step) * distilled
        self._note("loss", loss)
        self.optimizer.zero_grad()
        loss.backward()
        if self.team:
            self.team.average(self.networks)
        self.optimizer.step()
        self.ema.update(self.networks)
        self.step += 1

    @torch.no_grad()
    def _ask(self, images: Tensor, unlabeled: Batch, first: Tensor, labeled: Batch) -> _Weak:
        """Ask the network that makes the targets about weak views: of unlabeled images, and of labeled ones (`first`)."""
        role, as_it_trains = self.networks.roles[0], self.recipe.training.target_source == "online_train"
        source = self.ema.module if self.recipe.training.target_source == "ema" else self.networks
        blank = self.deployed.blank(source.eval(), role) if self.algorithm.uses_blank else None
        source.train(as_it_trains)
        outputs, known = source(role, images, unlabeled.place, unlabeled.time), None
        if self.algorithm.uses_labeled and not as_it_trains:  # else what it says in learning serves
            known = source(role, first, labeled.place, labeled.time).logits
        return _Weak(images, unlabeled, outputs, known, blank)

    def _judge(self, targets: Targets, said: dict[Role, Logits], unlabeled: Batch) -> None:
        """Put on record how many pseudo-labels are believed, and how right they are."""
        self._note("mask_rate", targets.weights.mean())
        strong = {str(role): logits.strong for role, logits in said.items() if logits.strong is not None}
        hidden = self._hidden[unlabeled.member]
        for name, (right, of) in judge(targets, strong, unlabeled.labels, hidden, self.dataset.task).items():
            self._note(name, right, of)

    def _said(self, logits: Tensor, labeled: int, taught: int) -> Logits:
        """Logits [labeled, maybe labeled strong, maybe unlabeled strong] by what they are about."""
        strong = logits[taught:] if len(logits) > taught else None
        return Logits(logits[:labeled], strong, logits[labeled:taught] if taught > labeled else None)

    def _distillation(self, outputs: dict[Role, Outputs], n: int, weak: _Weak | None) -> Tensor:
        """How far the student is from the teacher on the chosen views.

        Args:
            outputs: Of both networks, on n views of labeled images and the strong views of unlabeled ones.
            n: How many views are of labeled images.
            weak: The teacher's on the weak views, which the student sees for this alone.
        """
        config, match = self.recipe.distillation, self.networks.to_match
        views, rows = config.views.split("+"), {"labeled": slice(None, n), "strong": slice(n, None)}
        student: list[Tensor] = []
        teacher: list[Tensor] = []
        with autocast(self.recipe, self.device):
            both = match("student", outputs["student"]), match("teacher", outputs["teacher"])
            for view in views:
                if view != "weak":
                    student.append(both[0][rows[view]])
                    teacher.append(both[1][rows[view]])
                elif weak is not None:
                    student.append(match("student", self.networks("student", weak.images, weak.of.place, weak.of.time)))
                    teacher.append(match("teacher", weak.outputs))
        pair = torch.cat(student), torch.cat(teacher)
        assert self.networks.distilled is not None
        loss = config.loss_of(self.networks.distilled)
        return distillation_loss(*pair, loss, self.dataset.task, config.temperature)

    def _note(self, name: str, value: Tensor, of: Tensor | float = 1.0) -> None:
        """Add to the interval's record; it shows the sum of the values over the sum of what they are `of`."""
        total, count = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = total + value.detach(), count + of

    def evaluate(self, split: str = "validation") -> dict[str, float]:
        """Score the deployed network's moving average on one split.

        Args:
            split: One of `stssl.data.splits.EVALUATED`; only the end of a search and the user's own command read `test`.
        """
        if self.team:
            self.team.tell("evaluate", split)
        return self.deployed.evaluate(split, self.correction())

    @torch.no_grad()
    def correction(self) -> Tensor | None:
        """What the algorithm adds to the deployed network's logits, [1, K]; None = nothing."""
        if not self.algorithm.uses_blank:
            return None
        with autocast(self.recipe, self.device):
            blank = self.deployed.blank(self.deployed.networks.eval(), self.deployed.networks.deployed)
        return self.algorithm.correction(blank, self.step)

    def run_interval(
        self, on_step: Callable[[int], None] | None = None, splits: tuple[str, ...] = ("validation",)
    ) -> dict[str, Any]:
        """Train one evaluation interval, evaluate, and add the result to the history.

        Args:
            on_step: See `train`.
            splits: What to evaluate on.

        Returns:
            The new entry: step, seconds, train (means of the losses), and the scores on each split by its name.
        """
        start = time.perf_counter()
        losses = self.train(min(self.step + self.recipe.training.eval_interval, self.recipe.training.steps), on_step)
        scores = {split: self.evaluate(split) for split in splits}
        seconds = time.perf_counter() - start
        self.history.append({"step": self.step, "seconds": seconds, "train": losses, **scores})
        return self.history[-1]

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.step >= self.recipe.training.steps

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs; tensors and plain values only."""
        return {
            "recipe": json.dumps(self.recipe.dump()),
            "digest": self.recipe.digest(),
            "fingerprint": self.dataset.store.card.fingerprint,
            "task": self.dataset.task,
            "classes": list(self.dataset.classes),
            "bands": list(self.dataset.bands),
            "band_mean": self.dataset.mean.tolist(),
            "band_std": self.dataset.std.tolist(),
            "step": self.step,
            "networks": self.networks.state_dict(),
            "ema": self.ema.module.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "correction": self.correction(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any], source: str = "checkpoint") -> None:
        """Go on from a state.

        Raises:
            CheckpointError: The state belongs to another recipe, other data or another version of stssl.
        """
        card = self.dataset.store.card
        checkpoint.check(state, self.recipe.dump(), self.recipe.digest(), card.fingerprint, source)
        try:
            self.networks.load_state_dict(state["networks"])
            self.ema.module.load_state_dict(state["ema"])
            self.algorithm.load_state_dict(state["algorithm"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.history = state["step"], list(state["history"])
        except (KeyError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{source}: its parts are not those of this version of stssl ({reason}); use another output folder"
            ) from error
        if self.team:
            self.team.hand_over(state)
