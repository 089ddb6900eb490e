"""The recipe: one full configuration of one training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stssl import config as cfg
from stssl import plugins
from stssl.algorithms.base import Algorithm
from stssl.data.augment import ViewConfig
from stssl.data.dataset import DataConfig
from stssl.encodings.encoder import EncoderConfig
from stssl.errors import ConfigError, is_out_of_memory, short_repr
from stssl.lines import located
from stssl.models.backbone import ModelConfig, batch_norm, skeleton
from stssl.models.distillation import DistillationConfig
from stssl.models.pairs import check_injection, resolve_distillation
from stssl.models.teacher_student import AnyInjection, Framework
from stssl.training.optim import OptimizerConfig

if TYPE_CHECKING:
    AnyAlgorithm = Any
else:
    AnyAlgorithm = plugins.choice_of("stssl.algorithms", Algorithm, "fixmatch")


WARMUPS = (  # what begins at these steps must begin within the training
    "distillation.rampup_steps", "optimizer.warmup_steps", "algorithm.warmup_steps", "algorithm.debias_start",
)  # fmt: skip
PLUGINS = ("algorithm", "injection", "encoding.location", "encoding.time")  # keys of a recipe that choose a plugin


class TrainingConfig(cfg.Config):
    """How long and on how much. Steps are optimizer steps.

    `steps` is also the horizon of the learning rate, wherever a search stops the training. `target_source` is the
    network whose weak logits make the targets: as it trains, with stochastic depth and metadata dropout at work
    (online_train, published), the same weights without (online_eval), or their moving average (ema).
    `labeled_sampling` goes through the labeled images (uniform) or through their classes, so that each is drawn equally
    often (class_balanced); the class frequencies that algorithms use are those of the labeled images either way.
    """

    steps: int = Field(64_000, ge=1, le=10**9)
    eval_interval: int = Field(2_000, ge=1, le=10**9)
    batch_labeled: int = Field(64, ge=1, le=65_536)
    batch_unlabeled: int = Field(448, ge=1, le=65_536)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    target_source: Literal["online_train", "online_eval", "ema"] = "online_train"
    labeled_sampling: Literal["uniform", "class_balanced"] = "uniform"

    @model_validator(mode="after")
    def _fits(self) -> TrainingConfig:
        if self.steps % self.eval_interval:
            raise ValueError(f"steps {self.steps} must be a multiple of eval_interval {self.eval_interval}")
        return self


class Recipe(cfg.Config):
    """One full configuration; the defaults are the published ones for BigEarthNet where there are any.

    Attributes:
        seed: Seeds weights, batches, views and stochastic depth.
        parity: `reference` repeats what the published implementation does and should not; docs/method.md lists it.
    """

    data: DataConfig
    views: ViewConfig = ViewConfig()
    framework: Framework = "teacher_student"
    encoding: EncoderConfig = EncoderConfig()
    model: ModelConfig = ModelConfig()
    injection: AnyInjection = {"name": "token"}
    algorithm: AnyAlgorithm = {"name": "fixmatch"}
    distillation: DistillationConfig = DistillationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    parity: Literal["corrected", "reference"] = "corrected"
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.framework != "plain" and self.encoding.empty:
            raise ValueError(
                f"framework '{self.framework}' needs metadata, but encoding.location and encoding.time are both none; "
                "choose an encoding or framework: plain"
            )
        backbone = skeleton(self.model)  # a structure that cannot work is a fault of the recipe
        batch = "batch_unlabeled" if self._draws_unlabeled() else "batch_labeled"
        if getattr(self.training, batch) < 2 and batch_norm(backbone):
            raise ValueError(
                f"training.{batch}: model '{self.model.name}' has batch norm, which cannot train on 1 image at a time; "
                "use 2 or more"
            )
        if self.framework != "plain":
            check_injection(self.model, self.injection)
        if self.framework == "teacher_student" and self.distillation.weight > 0:
            resolve_distillation(self.model, self.injection, self.distillation)
            views = self.distillation.views
            if views in ("strong", "weak") and not self._draws_unlabeled():
                raise ValueError(
                    f"distillation.views: {views} views are of unlabeled images, of which algorithm "
                    f"'{self.algorithm.name}' draws none; use views: labeled"
                )
        for key in WARMUPS:
            part, name = key.split(".")
            if (value := getattr(getattr(self, part), name, 0)) >= self.training.steps:
                raise ValueError(f"{key} {value} must be below training.steps {self.training.steps}")
        return self

    def _draws_unlabeled(self) -> bool:
        return bool(plugins.find("stssl.algorithms", Algorithm)[self.algorithm.name].uses_unlabeled)

    @classmethod
    def read(cls, path: Path | str, overrides: dict[str, Any] | None = None) -> Recipe:
        """Read a recipe from YAML; its key `base` may name a recipe that it changes.

        Raises:
            ConfigError: The file or an override does not fit; the text names file, key, value and remedy.
        """
        with located(path, overrides or ()):
            data = cfg.with_overrides(read_data(path), overrides or {}, plugins=PLUGINS)
            return cfg.validate(cls, data, str(path))

    def dump(self) -> dict[str, Any]:
        """As plain data for YAML or JSON."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Hash of all that changes the result; where shards and images lie does not."""
        data = self.dump()
        del data["data"]["shards"], data["data"]["residency"]
        return cfg.digest(data)

    def replicate(self, number: int) -> Recipe:
        """The same recipe with another seed and another labeled subset; validation and test stay.

        Args:
            number: 1 for the first replicate.
        """
        data = self.dump()
        data["seed"] = (data["seed"] + 1000 * number) % 2**31
        data["data"]["labeled"]["seed"] += 1000 * number
        return Recipe.model_validate(data)


_BASES = 20


def read_data(path: Path | str) -> dict[str, Any]:
    """Read a recipe as plain data, with what its `base` says filled in.

    Raises:
        ConfigError: A file is missing or no YAML, the bases go in a circle, or there are too many.
    """
    return on_base(cfg.read_yaml(path), path)


def on_base(data: Mapping[str, Any], source: Path | str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Put a recipe's data on top of the recipe that its key `base` names, which may have a base of its own.

    Keys replace those of the base one by one; as with `--set`, another plugin's name drops the settings of the old one.

    Args:
        data: Nested mappings.
        source: The file that they come from; `base` is a path from its folder.
        seen: The files on the way here.

    Raises:
        ConfigError: A base that is no path, cannot be read, or stands on itself or on too many others.
    """
    if "base" not in data:
        return dict(data)
    own, base = {key: value for key, value in data.items() if key != "base"}, data["base"]
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{source}: base: expected the path of a recipe (got {short_repr(base)})")
    path, here = Path(source).parent / base, (*seen, Path(source).resolve())
    try:
        there, found = path.resolve(), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{source}: base: expected the path of a recipe (got {short_repr(base)}: {error})") from None
    if there in here:
        circle = " -> ".join(file.name for file in (*here[here.index(there) :], path))
        raise ConfigError(f"{source}: base: goes in a circle ({circle}); remove one of these lines")
    if len(here) > _BASES:
        raise ConfigError(
            f"{source}: base: this is the end of a chain of more than {_BASES}; write some of these recipes as one"
        )
    if not found:
        what = "is no file" if path.exists() else "no such file"
        raise ConfigError(f"{source}: base: {path}: {what}; the path is taken from the folder of {source}")
    below = on_base(cfg.read_yaml(path), path, here)
    return cfg.with_overrides(below, cfg.flatten(own), str(source), PLUGINS)
