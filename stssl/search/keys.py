"""Which dotted keys a recipe can have at all: those of its parts and of every plugin."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, get_args

from stssl.config import Config
from stssl.training.recipe import PLUGINS, Recipe


def _configs(annotation: Any) -> list[type[Config]]:
    """The config classes in a type: itself, or those of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [config for part in get_args(annotation) for config in _configs(part)]


def _walk(config: type[Config], prefix: str) -> Iterator[tuple[str, str | None]]:
    for name, field in config.model_fields.items():
        key, parts = f"{prefix}{field.alias or name}", _configs(field.annotation)
        if not parts or type(None) in get_args(field.annotation):
            yield key, None
        for part in parts:
            plugin = part.model_fields["name"].default if key in PLUGINS else None
            for below, owner in _walk(part, f"{key}."):
                yield below, owner or plugin


@functools.cache
def recipe_keys() -> frozenset[str]:
    """All of them, `encoding.location.sigma` and `algorithm.name` among them."""
    return frozenset(key for key, _ in _walk(Recipe, ""))


@functools.cache
def plugin_settings() -> dict[str, dict[str, frozenset[str]]]:
    """For each key that chooses a plugin, such as `encoding.location`: plugin name to its settings."""
    found: dict[str, dict[str, set[str]]] = {group: {} for group in PLUGINS}
    for key, plugin in _walk(Recipe, ""):
        group = next((g for g in PLUGINS if key.startswith(f"{g}.")), None)
        if group and plugin:
            found[group].setdefault(plugin, set()).add(key.removeprefix(f"{group}."))
    return {g: {name: frozenset(keys - {"name"}) for name, keys in found[g].items()} for g in found}
