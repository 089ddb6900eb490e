"""What a search file may write shorter: fixed values, and a plugin with its settings below it.

optimizer.lr: 0.001                      fixed for all trials: it moves to the base recipe
encoding.location:                       encoding.location.name: {choice: [scaled, fourier], when: ...}
  plugin:
    scaled: {}
    fourier: {sigma: {...}}              encoding.location.sigma: {..., when: {encoding.location.name: fourier}}
  when: {framework: teacher_student}
"""

from __future__ import annotations

import re
from typing import Any

from stssl import config as cfg
from stssl.errors import ConfigError, did_you_mean, short_repr, shorten
from stssl.search.keys import plugin_settings, recipe_keys
from stssl.search.parameter import Parameter
from stssl.training.recipe import PLUGINS, Recipe

_WRITTEN = re.compile(rf"^space\.({'|'.join(map(re.escape, PLUGINS))})\.plugin(?:\.[^.]+(?:\.(.+))?)?$")


def flat_key(written: str) -> str:
    """`space.injection.plugin.token.count` to `space.injection.count`, which later checks call it by."""
    found = _WRITTEN.match(written)
    return f"space.{found[1]}.{found[2] or 'name'}" if found else written


def expand(space: dict[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a space in full.

    Args:
        space: As it stands in the file.
        source: The file, for messages.

    Returns:
        The space with one parameter a key, and the fixed values.

    Raises:
        ConfigError: A plugin that there is not, a setting that it has not, or a key given twice.
    """
    flat: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, dict) and "plugin" in value:
            new = _plugins(key, value, f"{source}: space.{key}")
        elif isinstance(value, dict):
            new = {key: value}
        else:
            fixed[key] = _scalar(value, f"{source}: space.{key}")
            continue
        for name in new:
            if name in (flat if key == name else {**flat, **space}):
                raise ConfigError(f"{source}: space.{name}: stands under space.{key} too; remove one of them")
        flat |= new
    for key, value in flat.items():
        when = value.get("when")
        for parent in when if isinstance(when, dict) else ():
            if parent in fixed:
                raise ConfigError(
                    f"{source}: space.{key}.when: {parent} is fixed to {short_repr(fixed[parent])} in this file; write it as "
                    f"{{choice: [{shorten(fixed[parent])}]}} where others depend on it"
                )
    return flat, fixed


def _scalar(value: Any, where: str) -> Any:
    if isinstance(value, list):
        raise ConfigError(
            f"{where}: a list alone says not how to search; write {{choice: {short_repr(value)}}}, or uniform, loguniform, int"
        )
    return value


def _plugins(group: str, value: dict[str, Any], where: str) -> dict[str, Any]:
    """The keys of one group of plugins."""
    known = plugin_settings()
    if group not in known:
        raise ConfigError(f"{where}: has no plugins, write choice; {did_you_mean(str(group), known)}")
    for key in value:
        if key not in ("plugin", "when"):
            raise ConfigError(
                f"{where}: unknown key '{shorten(key)}'; {did_you_mean(shorten(key), ('plugin', 'when'))}"
            )
    plugins = value["plugin"]
    if not isinstance(plugins, dict) or not plugins:
        raise ConfigError(
            f"{where}.plugin: expected names of plugins, each with its settings (got {short_repr(plugins)})"
        )
    users: dict[str, list[str]] = {}
    found: dict[str, tuple[Parameter, dict[str, Any]]] = {}
    for name, settings in plugins.items():
        if name not in known[group]:
            raise ConfigError(f"{where}.plugin.{name}: no such plugin; {did_you_mean(str(name), known[group])}")
        if not isinstance(settings, dict | None):
            raise ConfigError(f"{where}.plugin.{name}: expected its settings, or {{}} (got {short_repr(settings)})")
        for setting, given in (settings or {}).items():
            here = f"{where}.plugin.{name}.{setting}"
            if setting not in known[group][name]:
                raise ConfigError(f"{here}: no such setting; {did_you_mean(str(setting), known[group][name])}")
            data = given if isinstance(given, dict) else {"choice": [_scalar(given, here)]}
            parameter = cfg.validate(Parameter, data, here)
            first = users.setdefault(setting, [])
            if first and found[setting][0] != parameter:
                raise ConfigError(
                    f"{here}: is another range than {group}.plugin.{first[0]}.{setting}; both are the key "
                    f"{group}.{setting}: give both the same range"
                )
            first.append(name)
            found[setting] = (parameter, data)
    choice: dict[str, Any] = {"choice": list(plugins)}
    if "when" in value:
        choice["when"] = value["when"]
    flat = {f"{group}.name": choice}
    for setting, (_, data) in found.items():
        names = users[setting]
        chosen = {f"{group}.name": names[0] if len(names) == 1 else names}
        flat[f"{group}.{setting}"] = data | {"when": chosen | data.get("when", {})}
    return flat


def fix(recipe: dict[str, Any], fixed: dict[str, Any], source: str) -> dict[str, Any]:
    """The base recipe with the fixed values of the space.

    Raises:
        ConfigError: A key that no recipe has.
    """
    known = recipe_keys() | set(PLUGINS)
    for key in fixed:
        if key not in known:
            raise ConfigError(
                f"{source}: space.{shorten(key)}: no key of a recipe; {did_you_mean(shorten(key), known)}"
            )
    return cfg.with_overrides(recipe, fixed, f"{source}: space", PLUGINS)


def check_fixed(recipe: dict[str, Any], fixed: dict[str, Any], source: str) -> None:
    """Check a base recipe, and name the fixed values by where they stand.

    Raises:
        ConfigError: It is no recipe.
    """
    try:
        cfg.validate(Recipe, recipe, f"{source}: recipe")
    except ConfigError as error:
        raise ConfigError("\n".join(_blamed(line, fixed, source) for line in str(error).splitlines())) from None


def _blamed(line: str, fixed: dict[str, Any], source: str) -> str:
    for key in fixed:
        parent, _, leaf = key.rpartition(".")
        group = f"{source}: recipe: {parent}: " if parent else f"{source}: recipe: "
        for start in (f"{source}: recipe: {key}: ", f"{group}unknown key '{leaf}'"):
            if line.startswith(start):
                fault = line.removeprefix(f"{source}: recipe: {key}: ").removeprefix(group)
                return f"{source}: space.{key}: {fault}"
    return line
