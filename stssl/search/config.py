"""The file that a user writes for a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.search.asha import SchedulerConfig
from stssl.search.parameter import Parameter
from stssl.search.sampler import SamplerConfig
from stssl.search.space import Space
from stssl.training.recipe import PLUGINS, Recipe, on_base, read_data


class ReplicateConfig(cfg.Config):
    """The `top` recipes are trained again in full, each with `seeds` seeds and labeled subsets of their own."""

    top: int = Field(2, ge=1, le=100)
    seeds: int = Field(3, ge=2, le=100)


class ResourceConfig(cfg.Config):
    """What one trial takes, and how often it is tried again when its worker or node dies."""

    cpus: int = Field(1, ge=1)
    gpus: float = Field(0, ge=0)
    retries: int = Field(2, ge=0)


class SearchConfig(cfg.Config):
    """A search space with all that a search needs.

    Attributes:
        name: Names the run folder.
        metric: What is optimised, on validation; see `stssl.training.evaluate.METRICS`.
        trials: How many recipes are tried.
        recipe: The base recipe: inline, or the path of a file beside this one. It is the first point.
        points: More first points: dotted keys and values, where what is missing comes from the base recipe; or, in the
            file, the path of a recipe that differs from the base recipe in what is searched alone.
        space: Dotted recipe key to choice, uniform, loguniform or int.
        constraints: Comparisons of keys that every recipe must meet; see `stssl.search.constraints`.
        note: Printed with the results, for instance what they do not show.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    metric: str = "accuracy"
    trials: int = Field(32, ge=1, le=100_000)
    recipe: dict[str, Any]
    points: tuple[dict[str, Any], ...] = ()
    space: dict[str, Parameter]
    constraints: tuple[str, ...] = ()
    scheduler: SchedulerConfig = SchedulerConfig()
    sampler: SamplerConfig = SamplerConfig()
    replicates: ReplicateConfig = ReplicateConfig()
    resources: ResourceConfig = ResourceConfig()
    note: str = ""

    @classmethod
    def read(cls, path: Path | str, overrides: dict[str, Any] | None = None) -> SearchConfig:
        """Read a search file; recipes in files of their own are read in.

        Raises:
            ConfigError: Names file, key, value and remedy.
        """
        path = Path(path)
        data = cfg.read_yaml(path)
        if isinstance(data.get("recipe"), str):
            data["recipe"] = read_data(path.parent / data["recipe"])
        elif isinstance(data.get("recipe"), dict):
            data["recipe"] = on_base(data["recipe"], path)
        space_overrides = [key for key in overrides or {} if key.startswith("space.")]
        if space_overrides:
            raise ConfigError(f"--set {space_overrides[0]}: the space is changed in {path}, not on the command line")
        data = cfg.with_overrides(data, overrides or {}, plugins=[f"recipe.{p}" for p in PLUGINS])
        points = data["points"] if isinstance(data.get("points"), list) else []
        named = {i: p for i, p in enumerate(points) if isinstance(p, str)}
        if named:
            data["points"] = [{} if i in named else p for i, p in enumerate(points)]
        config = cfg.validate(cls, data, str(path))
        if not named:
            return config
        space = Space(
            config.space, cfg.validate(Recipe, config.recipe, f"{path}: recipe").dump(), str(path), config.constraints
        )
        read = {i: space.point_of(Recipe.read(path.parent / p), f"points[{i}]: {p}") for i, p in named.items()}
        return config.model_copy(update={"points": tuple(read.get(i, p) for i, p in enumerate(config.points))})

    def dump(self) -> dict[str, Any]:
        """As plain data for YAML; reading it back gives the same search."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=False) | {
            "space": {k: p.model_dump(mode="json", by_alias=True, exclude_none=True) for k, p in self.space.items()}
        }
