"""The search space: dotted recipe keys, their ranges, and the conditions under which they exist."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stssl import config as cfg
from stssl.errors import ConfigError, StsslError, did_you_mean
from stssl.search.parameter import Parameter, Value
from stssl.training.recipe import PLUGINS, Recipe

if TYPE_CHECKING:
    import optuna

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


class Space:
    """A checked search space over one base recipe.

    Args:
        parameters: Dotted recipe key to parameter.
        base: The base recipe as plain data; keys that are not searched keep its values.
        source: File name for messages.

    Raises:
        ConfigError: Empty, a key that may not be searched, or a condition on an unknown key, value, or in a circle.
    """

    def __init__(self, parameters: dict[str, Parameter], base: dict[str, Any], source: str = "search space") -> None:
        self.base, self.source = base, source
        if not parameters:
            raise ConfigError(f"{source}: space: is empty; name at least one recipe key, such as optimizer.lr")
        for key, parameter in parameters.items():
            for fixed in FIXED:
                if key == fixed or key.startswith(fixed + "."):
                    raise ConfigError(
                        f"{source}: space.{key}: must be the same in all trials; set it in recipe instead"
                    )
            for parent, allowed in parameter.when.items():
                self._check_condition(parameters, key, parent, allowed)
        self.parameters = self._parents_first(parameters)

    def _check_condition(self, parameters: dict[str, Parameter], key: str, parent: str, allowed: Any) -> None:
        where = f"{self.source}: space.{key}.when"
        if parent not in parameters:
            raise ConfigError(f"{where}: unknown key '{parent}'; {did_you_mean(parent, set(parameters) - {key})}")
        for value in allowed if isinstance(allowed, list) else [allowed]:
            if not parameters[parent].contains(value):
                raise ConfigError(f"{where}: {parent} never is {value!r}; it is a {parameters[parent].describe()}")

    def _parents_first(self, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        ordered: dict[str, Parameter] = {}
        while len(ordered) < len(parameters):
            ready = [k for k, p in parameters.items() if k not in ordered and all(w in ordered for w in p.when)]
            if not ready:
                circle = ", ".join(k for k in parameters if k not in ordered)
                raise ConfigError(f"{self.source}: space: the conditions of {circle} go in a circle")
            ordered.update((k, parameters[k]) for k in ready)
        return ordered

    def may_be(self, key: str, values: tuple[Value, ...]) -> bool:
        """Whether a key of the recipe can take one of some values."""
        if key in self.parameters:
            return any(self.parameters[key].contains(value) for value in values)
        return self.base[key] in values

    def active(self, key: str, values: dict[str, Any]) -> bool:
        """Whether a key exists, given the values of the keys before it."""
        for parent, allowed in self.parameters[key].when.items():
            if parent not in values or values[parent] not in (allowed if isinstance(allowed, list) else [allowed]):
                return False
        return True

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Ask Optuna for all keys that exist (define by run)."""
        return self.fill(lambda key, parameter: parameter.suggest(trial, key))

    def fill(self, value_of: Callable[[str, Parameter], Any]) -> dict[str, Any]:
        """A point, its values asked for key by key, those of keys that do not exist left out."""
        values: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if self.active(key, values):
                values[key] = value_of(key, parameter)
        return values

    def unseen(self, seen: list[dict[str, Any]], source: random.Random) -> dict[str, Any] | None:
        """A point that is not among those seen; None when all are."""
        keys = list(self.parameters)

        def walk(position: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if position == len(keys):
                yield values
            elif not self.active(keys[position], values):
                yield from walk(position + 1, values)
            else:
                for value in self.parameters[keys[position]].walk(source):
                    yield from walk(position + 1, {**values, keys[position]: value})

        return next((point for point in walk(0, {}) if point not in seen), None)

    def recipe(self, values: dict[str, Any]) -> Recipe:
        """The recipe of one draw.

        Raises:
            ConfigError: The draw is no valid recipe.
        """
        shown = ", ".join(f"{k}={v}" for k, v in values.items())
        return cfg.validate(
            Recipe, cfg.with_overrides(self.base, values, plugins=PLUGINS), f"{self.source}: recipe with {shown}"
        )

    def fault(self, values: dict[str, Any]) -> str | None:
        """Why a point is no valid recipe; None when it is one."""
        try:
            self.recipe(values)
        except ConfigError as error:
            return str(error)
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
            ConfigError: An unknown key, a value outside the range, or no value at all.
        """
        for key in values:
            if key not in self.parameters:
                raise ConfigError(
                    f"{self.source}: {where}: '{key}' is not searched; {did_you_mean(key, self.parameters)}"
                )
        chosen = {key: value for key, value in values.items() if key.removesuffix(".name") in PLUGINS}
        try:
            flat = cfg.flatten(self.recipe(chosen).dump())
        except ConfigError:  # works, if at all, with the point's other values
            flat = cfg.flatten(Recipe.model_validate(self.base).dump())

        def value_of(key: str, parameter: Parameter) -> Any:
            if key not in values and key not in flat:
                raise ConfigError(
                    f"{self.source}: {where}: no value for {key} here or in the base recipe; {did_you_mean(key, flat)}"
                )
            value = values.get(key, flat.get(key))
            if not parameter.contains(value):
                raise ConfigError(
                    f"{self.source}: {where}: {key} = {value!r} lies outside the space ({parameter.describe()}); "
                    "widen the space or change the value"
                )
            return value

        return self.fill(value_of)

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
            fixed = any(key == f or key.startswith(f + ".") for f in FIXED)
            if not fixed and (key not in wanted or key not in found or wanted[key] != found[key]):
                remedy = (
                    f"make it the same, or add {key} to space" if key not in self.parameters else "widen its `when`"
                )
                raise ConfigError(
                    f"{self.source}: {where}: {key} is {wanted.get(key)!r} there, but {found.get(key)!r} at this point of "
                    f"the space; {remedy}"
                )
        return point

    def check(self, extra: Callable[[Recipe], None] = lambda recipe: None, draws: int = 200) -> None:
        """Check every value of every choice, both ends of every range, and some random draws.

        Args:
            extra: A further check of each recipe, such as against the data.
            draws: How many random draws to try, at most for ten seconds: recipes with many different networks take long.

        Raises:
            ConfigError: Something in the space is no valid recipe: names key, value and fault.
        """
        flat = cfg.flatten(Recipe.model_validate(self.base).dump())
        for key, parameter in self.parameters.items():
            for value in parameter.extremes():
                draw = self._draw_with(key, value, flat)
                try:
                    extra(self.recipe(draw))
                except StsslError as error:
                    fault = str(error).removeprefix(f"{self.source}: ")
                    raise ConfigError(f"{self.source}: space.{key}: {value!r} does not work: {fault}") from None
        random_state = random.Random(0)
        end = time.monotonic() + 10
        for _ in range(draws):
            if time.monotonic() > end:
                break
            extra(self.recipe(self.fill(lambda key, parameter: parameter.draw(random_state))))

    def _draw_with(self, key: str, value: Any, flat: dict[str, Any]) -> dict[str, Any]:
        """A draw in which `key` exists and has `value`, otherwise as near to the base recipe as the space allows."""
        wanted = {key: [value]}
        queue = [key]
        while queue:
            for parent, allowed in self.parameters[queue.pop()].when.items():
                options = allowed if isinstance(allowed, list) else [allowed]
                wanted[parent] = [v for v in options if v in wanted.get(parent, options)]
                if not wanted[parent]:
                    raise ConfigError(f"{self.source}: space.{key}.when: no value of {parent} meets all conditions")
                queue.append(parent)

        def value_of(name: str, parameter: Parameter) -> Any:
            base = flat.get(name)
            if name in wanted:
                return base if base in wanted[name] else wanted[name][0]
            return base if parameter.contains(base) else parameter.extremes()[0]

        return self.fill(value_of)
