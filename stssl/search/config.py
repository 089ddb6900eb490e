"""The file that a user writes for a search.

What only shows a search comes by here too, so what knows torch is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from stssl import config as cfg
from stssl import lines
from stssl.errors import ConfigError
from stssl.search.asha import SchedulerConfig, rungs
from stssl.search.parameter import Parameter
from stssl.search.samplers.base import SamplerConfig
from stssl.storage import is_uri


class ReplicateConfig(cfg.Config):
    """The `top` recipes and the base recipe are trained again in full, with `seeds` seeds and labeled subsets.

    Attributes:
        top: How many recipes beside the base recipe.
        seeds: How many replicates of each.
        race: Give up on the way those that a paired test has shown to be weaker. A study that compares all wants false.
    """

    top: int = Field(2, ge=1, le=100)
    seeds: int = Field(3, ge=2, le=100)
    race: bool = True


class ResourceConfig(cfg.Config):
    """What one trial takes, and how often it is tried again.

    Attributes:
        cpus: Threads of its training.
        gpus: A part of one, whose memory is then divided, or several.
        custom: Ray's own resources, such as `{"accelerator_type:A100": 0.001}` or what `ray start --resources` gave a node.
        retries: How often it goes on after its worker, node or disk failed.
        code_retries: How often it goes on after it raised or hung; another time it is given up.
        hang_minutes: A training step or an evaluation that takes longer hangs.
    """

    cpus: int = Field(1, ge=1, le=4096)
    gpus: float = Field(0, ge=0, le=4096)
    custom: dict[str, Annotated[float, Field(gt=0, le=1e9)]] = {}
    retries: int = Field(2, ge=0, le=1000)
    code_retries: int = Field(0, ge=0, le=1000)
    hang_minutes: float = Field(60, ge=0.01, le=60 * 24 * 30)

    @field_validator("gpus")
    @classmethod
    def _whole_or_a_part(cls, gpus: float) -> float:
        if 0 < gpus < 0.0001:
            raise ValueError(f"0, or 0.0001 at least, which is Ray's smallest part, got {gpus:g}")
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"a part of one GPU or a whole number of them, got {gpus:g}")
        return gpus

    @field_validator("custom")
    @classmethod
    def _not_those_of_ray(cls, custom: dict[str, float]) -> dict[str, float]:
        keys = {"CPU": "resources.cpus", "GPU": "resources.gpus"}
        for name, amount in custom.items():
            if name.upper() in keys or name in ("memory", "object_store_memory", ""):
                raise ValueError(
                    f"'{name}' is not for here{f'; set {keys[name.upper()]}' if name.upper() in keys else ''}"
                )
            if amount < 0.0001:
                raise ValueError(f"'{name}': 0.0001 at least, which is Ray's smallest part, got {amount:g}")
        return custom

    def cost(self, seconds: float) -> float:
        """What so many seconds of a trial cost: GPU seconds, or seconds where trials have no GPU."""
        return seconds * (self.gpus or 1)


def located(path: Path | str, overrides: Collection[str] = ()) -> AbstractContextManager[None]:
    """Add line numbers to errors about a search file; `overrides` are the keys given on the command line."""
    from stssl.search import shorthand

    return lines.located(path, overrides, shorthand.flat_key)


class SearchConfig(cfg.Config):
    """A search space with all that a search needs.

    Attributes:
        name: Names the run folder.
        metric: What is optimised, on validation; see `stssl.training.evaluate.METRICS`. `holdout/` before it: on the
            region and the months that are held out.
        second_metric: A second objective; the search then looks for the Pareto front, and the best replicated recipe is
            still the best by `metric`.
        trials: How many recipes are tried.
        budget_hours: No new trial once all have cost so many GPU hours (hours of training where trials have no GPU);
            what has begun goes on, and replicates come on top.
        recipe: The base recipe: inline, or the path of a file beside this one. It is the first point.
        points: More first points: dotted keys and values, where what is missing comes from the base recipe; or, in the
            file, the path of a recipe that differs from the base recipe in what is searched alone, or of the run folder of an
            earlier search, for its winner.
        warm_start: Run folders of earlier searches on the same data, whose trials the sampler is told of.
        space: Dotted recipe key to choice, uniform, loguniform or int; in the file, shorter forms too, see
            `stssl.search.shorthand`.
        constraints: Comparisons of keys that every recipe must meet; see `stssl.search.constraints`.
        note: Printed with the results, for instance what they do not show.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    metric: str = "accuracy"
    second_metric: str | None = None
    trials: int = Field(32, ge=1, le=100_000)
    budget_hours: float | None = Field(None, ge=1e-6, le=1e9)
    recipe: dict[str, Any]
    points: tuple[dict[str, Any], ...] = Field((), max_length=1000)
    warm_start: tuple[str, ...] = Field((), max_length=100)
    space: dict[str, Parameter] = Field(max_length=500)
    constraints: tuple[str, ...] = Field((), max_length=200)
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
        with located(path, overrides or ()):
            return cls._read(Path(path), overrides or {})

    @classmethod
    def _read(cls, path: Path, overrides: dict[str, Any]) -> SearchConfig:
        from stssl.search import shorthand
        from stssl.training.recipe import PLUGINS, on_base, read_data

        data = cfg.read_yaml(path)
        if isinstance(data.get("recipe"), str):
            data["recipe"] = read_data(path.parent / data["recipe"])
        elif isinstance(data.get("recipe"), dict):
            data["recipe"] = on_base(data["recipe"], path)
        if isinstance(data.get("warm_start"), list):  # like points, from the folder of the file
            here = lambda w: str(path.parent / w) if isinstance(w, str) and not is_uri(w) else w  # noqa: E731
            data["warm_start"] = [here(w) for w in data["warm_start"]]
        fixed: dict[str, Any] = {}
        if isinstance(data.get("space"), dict):
            data["space"], fixed = shorthand.expand(data["space"], str(path))
        if fixed and isinstance(data.get("recipe"), dict):
            data["recipe"] = shorthand.fix(data["recipe"], fixed, str(path))
        for key in overrides:
            if key == "space" or key.startswith("space."):
                raise ConfigError(f"--set {key}: the space is changed in {path}, not on the command line")
        data = cfg.with_overrides(data, overrides, plugins=[f"recipe.{p}" for p in PLUGINS])
        points = data["points"] if isinstance(data.get("points"), list) else []
        named = {i: p for i, p in enumerate(points) if isinstance(p, str)}
        if named:
            data["points"] = [{} if i in named else p for i, p in enumerate(points)]
        config = cfg.validate(cls, data, str(path))
        if fixed:
            own = {key: value for key, value in fixed.items() if f"recipe.{key}" not in overrides}
            shorthand.check_fixed(config.recipe, own, str(path))
        return config._with_named_points(named, path) if named else config

    def _with_named_points(self, named: dict[int, str], path: Path) -> SearchConfig:
        """The same search with the recipes read in that some points name."""
        from stssl.search.space import Space
        from stssl.training.recipe import Recipe

        base = cfg.validate(Recipe, self.recipe, f"{path}: recipe").dump()
        space = Space(self.space, base, str(path), self.constraints)
        points = list(self.points)
        for i, name in named.items():
            file = _recipe_file(path.parent / name, f"{path}: points[{i}]")
            points[i] = space.point_of(Recipe.read(file), f"points[{i}]: {name}")
        return self.model_copy(update={"points": tuple(points)})

    @property
    def ladder(self) -> list[int]:
        """The rungs; the last one is the full length."""
        match self.recipe.get("training"):
            case {"steps": int(steps), "eval_interval": int(interval)}:
                return rungs(self.scheduler, steps, interval)
        from stssl.training.recipe import Recipe

        training = cfg.validate(Recipe, self.recipe, "recipe").training
        return rungs(self.scheduler, training.steps, training.eval_interval)

    def dump(self) -> dict[str, Any]:
        """As plain data for YAML; reading it back gives the same search."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=False) | {
            "space": {k: p.model_dump(mode="json", by_alias=True, exclude_none=True) for k, p in self.space.items()}
        }


def _recipe_file(place: Path, where: str) -> Path:
    """The recipe that a point names: a file, or the winner in the run folder of an earlier search."""
    if not place.is_dir():
        return place
    winner = place / "best" / "recipe.yaml"
    if not winner.is_file():
        there = ", ".join(sorted(p.name for p in place.iterdir())[:10]) or "nothing"
        raise ConfigError(
            f"{where}: {place} holds no best/recipe.yaml, but {there}; name the run folder of a finished search (finish "
            f"it with: python launch.py resume {place}), or the file of a recipe"
        )
    return winner
