"""The search space: searched keys over a base recipe, and the recipes that its draws make."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from typing import Any

from pydantic import ValidationError

from stssl import config as cfg
from stssl.errors import ConfigError, did_you_mean, short_repr, shorten
from stssl.search import coverage
from stssl.search.conditions import ConditionalKeys
from stssl.search.constraints import Constraint
from stssl.search.keys import recipe_keys
from stssl.search.parameter import Parameter, Value
from stssl.training.recipe import PLUGINS, Recipe

# Changing these from trial to trial would compare trials on different problems or rungs.
FIXED = (
    "data.shards",
    "data.split",
    "data.labeled",
    "data.validation_budget",
    "data.residency",
    "training.steps",
    "training.eval_interval",
    "seed",
)
_RANDOM, _FAULTS = 500, 1000  # how many random draws, and how many faulty points, are tried in search of an unseen one


def is_fixed(key: str) -> bool:
    """Whether a key must be the same in all trials."""
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED)


class Space(ConditionalKeys):
    """A checked search space over one base recipe.

    Args:
        parameters: Dotted recipe key to parameter.
        base: The base recipe as plain data; keys that are not searched keep its values.
        source: File name for messages.
        constraints: What every draw must meet, see `stssl.search.constraints`.

    Raises:
        ConfigError: Empty, a key that may not be searched, a condition on an unknown key, value, or in a circle, or a
            constraint that cannot be read or names no key of a recipe.
    """

    def __init__(
        self,
        parameters: dict[str, Parameter],
        base: dict[str, Any],
        source: str = "search space",
        constraints: Sequence[str] = (),
    ) -> None:
        for key in parameters:
            if is_fixed(key):
                raise ConfigError(f"{source}: space.{key}: must be the same in all trials; set it in recipe instead")
        super().__init__(parameters, source)
        self.base = base
        self.constraints = [self._constraint(text, f"constraints[{i}]") for i, text in enumerate(constraints)]

    def _constraint(self, text: str, where: str) -> Constraint:
        try:
            constraint = Constraint(text, where)
        except ConfigError as error:
            raise ConfigError(f"{self.source}: {error}") from None
        known = recipe_keys() | cfg.flatten(self.base).keys()
        for name in sorted(constraint.names - known):
            raise ConfigError(
                f"{self.source}: {where}: unknown key '{shorten(name)}' (a word, if you mean one, stands in quotes); "
                f"{did_you_mean(name, known)}"
            )
        return constraint

    def may_be(self, key: str, values: tuple[Value, ...]) -> bool:
        """Whether a key of the recipe can take one of some values."""
        if key in self.parameters:
            return any(self.parameters[key].contains(value) for value in values)
        return self.base[key] in values

    def unseen(self, seen: Container[dict[str, Any]], source: random.Random) -> dict[str, Any] | None:
        """A point without a fault that is not among those seen.

        Returns:
            None when all are seen. A space of which nearly all is faulty is not looked through to its end.
        """
        faults = 0
        for point in self.walk(source):
            if point in seen:
                continue
            if self.fault(point) is None:
                return point
            faults += 1
            if faults == _FAULTS:
                break
        # The walk takes one value of a continuous range, which the others may not fit.
        draws = (self.random_draw(source) for _ in range(_RANDOM if faults else 0))
        return next((point for point in draws if point not in seen and self.fault(point) is None), None)

    def recipe(self, values: dict[str, Any]) -> Recipe:
        """The recipe of one draw.

        Raises:
            ConfigError: The draw is no valid recipe, or does not meet a constraint.
        """
        shown = ", ".join(f"{k}={v}" for k, v in values.items())
        where = f"{self.source}: recipe with {shown}"
        if broken := self.broken(values):
            raise ConfigError(f"{where}: {broken[1]}")
        return cfg.validate(Recipe, cfg.with_overrides(self.base, values, plugins=PLUGINS), where)

    def broken(self, values: dict[str, Any]) -> tuple[Constraint, str] | None:
        """The first constraint that a draw does not meet, and why."""
        if not self.constraints:
            return None
        data = cfg.with_overrides(self.base, values, plugins=PLUGINS)
        broken = self._broken(data)  # before the recipe is made: a constraint may rule out what makes none
        if broken:
            return broken
        try:
            return self._broken(Recipe.model_validate(data).dump())  # with the defaults of the draw's plugins
        except ValidationError:
            return None

    def _broken(self, recipe: dict[str, Any]) -> tuple[Constraint, str] | None:
        flat = cfg.flatten(recipe)
        return next(((c, fault) for c in self.constraints if (fault := c.fault(flat))), None)

    def fault(self, values: dict[str, Any]) -> str | None:
        """One line on why a draw is no valid recipe or does not meet a constraint; None if neither is so."""
        try:
            self.recipe(values)
        except ConfigError as error:
            return str(error).splitlines()[0].removeprefix(f"{self.source}: ")
        return None

    def base_point(self) -> dict[str, Any]:
        """The base recipe as a point of the space, where its values lie in the ranges.

        Raises:
            ConfigError: The base recipe lies outside the space, or lacks a searched key.
        """
        flat = cfg.flatten(Recipe.model_validate(self.base).dump())
        return self.point({key: flat[key] for key in self.parameters if key in flat}, "recipe")

    def point(self, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Complete a first point with the base recipe's values and check it.

        Args:
            values: Dotted key to value; keys that its own conditions switch off are dropped. The settings of a plugin
                that the base recipe has not are that plugin's own defaults.
            where: For messages: where the point stands.

        Raises:
            ConfigError: An unknown key, a value outside the range, no value at all, or a constraint that is not met.
        """
        for key in values:
            if key not in self.parameters:
                raise ConfigError(
                    f"{self.source}: {where}: '{shorten(key)}' is not searched; {did_you_mean(key, self.parameters)}"
                )
        chosen = {key: value for key, value in values.items() if key.removesuffix(".name") in PLUGINS}
        try:
            data = cfg.with_overrides(self.base, chosen, plugins=PLUGINS)
            flat = cfg.flatten(Recipe.model_validate(data).dump())
        except ValidationError:  # works, if at all, with the point's other values
            flat = cfg.flatten(Recipe.model_validate(self.base).dump())

        def value_of(key: str, parameter: Parameter) -> Any:
            if key not in values and key not in flat:
                raise ConfigError(
                    f"{self.source}: {where}: no value for {key} here or in the base recipe; {did_you_mean(key, flat)}"
                )
            value = values.get(key, flat.get(key))
            if not parameter.contains(value):
                raise ConfigError(
                    f"{self.source}: {where}: {key} = {short_repr(value)} lies outside the space ({parameter.describe()}); "
                    "widen the space or change the value"
                )
            return value

        point = self.fill(value_of)
        if broken := self.broken(point):
            raise ConfigError(f"{self.source}: {broken[1]} ({where}); change the value or the constraint")
        return point

    def point_of(self, recipe: Recipe, where: str) -> dict[str, Any]:
        """A recipe as a point of the space.

        What must be the same in all trials (`FIXED`) is that of the base recipe, whatever this one says.

        Args:
            recipe: It may differ from the base recipe in what is searched alone: a sampler cannot learn from a recipe
                that it could not have drawn.
            where: For messages: where the recipe is named.

        Raises:
            ConfigError: It lies outside the space.
        """
        wanted = cfg.flatten(recipe.dump())
        point = self.point({key: wanted[key] for key in self.parameters if key in wanted}, where)
        found = cfg.flatten(self.recipe(point).dump())
        for key in {**wanted, **found}:
            if not is_fixed(key) and (key not in wanted or key not in found or wanted[key] != found[key]):
                remedy = (
                    f"make it the same, or add {key} to space" if key not in self.parameters else "widen its `when`"
                )
                raise ConfigError(
                    f"{self.source}: {where}: {key} is {short_repr(wanted.get(key))} there, but {short_repr(found.get(key))} at "
                    f"this point of the space; {remedy}"
                )
        return point

    def has(self, params: dict[str, Any]) -> bool:
        """Whether these are a point of this space: all keys that exist, and values in their ranges."""
        active = {key for key in self.parameters if self.active(key, params)}
        return active == set(params) and all(self.parameters[key].contains(value) for key, value in params.items())

    def inside(self, recipe: dict[str, Any]) -> dict[str, Any] | None:
        """A recipe of another search as a point of this space; None if it lies outside, or is of another version."""
        try:
            return self.point_of(Recipe.model_validate(recipe), "recipe")
        except ValueError:  # ConfigError and pydantic's own are of its kind
            return None

    def check(self, extra: Callable[[Recipe], None] = lambda recipe: None, draws: int = 200) -> None:
        """Check every value of every choice, both ends of every range, and some random draws.

        Args:
            extra: A further check of each recipe, such as against the data.
            draws: How many random draws to try, at most for ten seconds: recipes with many different networks take long.

        Raises:
            ConfigError: Something in the space is no valid recipe, or constraints leave too little of it: names key,
                value and fault.
        """
        coverage.check_values(self, extra)
        coverage.check_draws(self, extra, draws)
