"""The file that a user writes for a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.search.asha import SchedulerConfig
from stssl.search.sampler import SamplerConfig
from stssl.search.space import Parameter
from stssl.training.recipe import PLUGINS


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
        points: More first points: dotted keys and values; what is missing comes from the base recipe.
        space: Dotted recipe key to choice, uniform, loguniform or int.
        note: Printed with the results, for instance what they do not show.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    metric: str = "accuracy"
    trials: int = Field(32, ge=1, le=100_000)
    recipe: dict[str, Any]
    points: tuple[dict[str, Any], ...] = ()
    space: dict[str, Parameter]
    scheduler: SchedulerConfig = SchedulerConfig()
    sampler: SamplerConfig = SamplerConfig()
    replicates: ReplicateConfig = ReplicateConfig()
    resources: ResourceConfig = ResourceConfig()
    note: str = ""

    @classmethod
    def read(cls, path: Path | str, overrides: dict[str, Any] | None = None) -> SearchConfig:
        """Read a search file; a base recipe in a file of its own is read in.

        Raises:
            ConfigError: Names file, key, value and remedy.
        """
        path = Path(path)
        data = cfg.read_yaml(path)
        if isinstance(data.get("recipe"), str):
            data["recipe"] = cfg.read_yaml(path.parent / data["recipe"])
        space_overrides = [key for key in overrides or {} if key.startswith("space.")]
        if space_overrides:
            raise ConfigError(f"--set {space_overrides[0]}: the space is changed in {path}, not on the command line")
        return cfg.validate(
            cls, cfg.with_overrides(data, overrides or {}, plugins=[f"recipe.{p}" for p in PLUGINS]), str(path)
        )

    def dump(self) -> dict[str, Any]:
        """As plain data for YAML; reading it back gives the same search."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=False) | {
            "space": {k: p.model_dump(mode="json", by_alias=True, exclude_none=True) for k, p in self.space.items()}
        }
