"""The searched keys and the conditions under which each exists; nothing here knows what a recipe is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stssl.errors import ConfigError, did_you_mean, short_repr
from stssl.search.parameter import Parameter, Value

if TYPE_CHECKING:
    import optuna


class ConditionalKeys:
    """Searched keys, those first on which others depend.

    Args:
        parameters: Dotted key to parameter.
        source: File name for messages.

    Raises:
        ConfigError: No keys, or a condition on an unknown key, value, or in a circle.
    """

    def __init__(self, parameters: dict[str, Parameter], source: str) -> None:
        self.source = source
        if not parameters:
            raise ConfigError(f"{source}: space: is empty; name at least one recipe key, such as optimizer.lr")
        for key, parameter in parameters.items():
            for parent, allowed in parameter.when.items():
                self._check_condition(parameters, key, parent, allowed)
        self.parameters = self._parents_first(parameters)

    def _check_condition(self, parameters: dict[str, Parameter], key: str, parent: str, allowed: Any) -> None:
        where = f"{self.source}: space.{key}.when"
        if parent not in parameters:
            raise ConfigError(f"{where}: unknown key '{parent}'; {did_you_mean(parent, set(parameters) - {key})}")
        if parameters[parent].continuous and parent != key:  # else it goes in a circle
            raise ConfigError(
                f"{where}: {parent} is drawn from a continuous range ({parameters[parent].describe()}), which meets no single "
                "value; make it a choice, or give it a step"
            )
        for value in allowed if isinstance(allowed, list) else [allowed]:
            if not parameters[parent].contains(value):
                raise ConfigError(
                    f"{where}: {parent} never is {short_repr(value)}; it is a {parameters[parent].describe()}"
                )

    def _parents_first(self, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        ordered: dict[str, Parameter] = {}
        while len(ordered) < len(parameters):
            ready = [k for k, p in parameters.items() if k not in ordered and all(w in ordered for w in p.when)]
            if not ready:
                circle = ", ".join(k for k in parameters if k not in ordered)
                raise ConfigError(f"{self.source}: space: the conditions of {circle} go in a circle")
            ordered.update((k, parameters[k]) for k in ready)
        return ordered

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
        """A draw: a value, asked of `value_of`, for every key that exists beside those before it."""
        values: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if self.active(key, values):
                values[key] = value_of(key, parameter)
        return values

    def random_draw(self, source: random.Random) -> dict[str, Any]:
        """A random draw, which may have a fault."""
        return self.fill(lambda key, parameter: parameter.draw(source))

    def walk(self, source: random.Random) -> Iterator[dict[str, Any]]:
        """All draws, from a random one on, with one random value of each continuous range."""
        keys = list(self.parameters)

        def below(position: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if position == len(keys):
                yield values
            elif not self.active(keys[position], values):
                yield from below(position + 1, values)
            else:
                for value in self.parameters[keys[position]].walk(source):
                    yield from below(position + 1, {**values, keys[position]: value})

        return below(0, {})

    def draw_with(self, key: str, value: Any, value_of: Callable[[str, list[Value] | None], Any]) -> dict[str, Any]:
        """A draw in which `key` exists and has `value`.

        Args:
            key: A searched key.
            value: One of its values.
            value_of: Chooses each other value: key and those values of it under which `key` exists, None if it may have
                any.

        Raises:
            ConfigError: The key's conditions exclude each other.
        """
        wanted: dict[str, list[Value]] = {key: [value]}
        queue = [key]
        while queue:
            for parent, allowed in self.parameters[queue.pop()].when.items():
                options = allowed if isinstance(allowed, list) else [allowed]
                wanted[parent] = [v for v in options if v in wanted.get(parent, options)]
                if not wanted[parent]:
                    raise ConfigError(f"{self.source}: space.{key}.when: no value of {parent} meets all conditions")
                queue.append(parent)
        return self.fill(lambda name, parameter: value_of(name, wanted.get(name)))
