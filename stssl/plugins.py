"""Plugins by file name: a new module in a plugin package is all that it takes to add one.

A plugin module is named like its plugin. It holds one class that derives from the package's base
class, and that class names its configuration in `Config`, whose field `name` is the literal plugin
name. Modules whose name starts with an underscore and `base` are not plugins.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from typing import Annotated, Any, Union

from pydantic import BaseModel, BeforeValidator, Field

from stssl.errors import short_repr


@functools.cache
def find(package: str, base: type) -> dict[str, Any]:
    """Import all plugin modules of a package.

    Args:
        package: Dotted name of the package, such as `stssl.algorithms`.
        base: The base class; a module without a class of its own that derives from it is skipped.

    Returns:
        Plugin name to plugin class, sorted by name.

    Raises:
        TypeError: A module's plugin and its `Config.name` do not agree (a programmer's mistake).
    """
    found: dict[str, Any] = {}
    member: Any
    for info in sorted(pkgutil.iter_modules(importlib.import_module(package).__path__), key=lambda m: m.name):
        if info.name.startswith("_") or info.name == "base" or info.ispkg:
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ == module.__name__ and issubclass(member, base) and "Config" in vars(member):
                if member.Config.model_fields["name"].default != info.name:
                    raise TypeError(f"{module.__name__}: {member.__name__}.Config.name must be '{info.name}'")
                found[info.name] = member
    return found


def choice_of(package: str, base: type, default: str | None = None) -> Any:
    """The pydantic type of "one of these plugins": a union told apart by `name`.

    A bare string is short for `{name: string}`; settings without a name are those of the default.
    """
    configs = tuple(plugin.Config for plugin in find(package, base).values())

    def full(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict | BaseModel):
            raise ValueError(f"expected a name, or a mapping with a name and settings, got {short_repr(value)}")
        if isinstance(value, dict) and not isinstance(
            value.get("name", ""), str
        ):  # pydantic would write it out in full
            raise ValueError(f"expected the name of a plugin under `name`, got {short_repr(value['name'])}")
        return {"name": default, **value} if default and isinstance(value, dict) else value

    named = BeforeValidator(full)
    if len(configs) == 1:  # a union of one is no union: pydantic would drop the discriminator
        return Annotated[configs[0], named]
    return Annotated[Union[configs], Field(discriminator="name"), named]  # noqa: UP007


def build(package: str, base: type, config: Any, *args: Any) -> Any:
    """Make the plugin that `config` names; further arguments go to its constructor."""
    return find(package, base)[config.name](config, *args)
