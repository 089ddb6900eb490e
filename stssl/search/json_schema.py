"""JSON Schema (draft 2020-12) of search files and recipes, with which an editor completes and checks them as one types."""

from __future__ import annotations

import re
from typing import Any

from stssl.search.config import SearchConfig
from stssl.search.keys import plugin_settings, recipe_keys
from stssl.search.space import is_fixed
from stssl.training.recipe import Recipe

_DRAFT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
_SCALAR = {"type": ["string", "number", "boolean", "null"]}


def recipe_schema() -> dict[str, Any]:
    """Of a recipe. What a `base` may hold need not be there; a plugin may be a bare name."""
    schema = _DRAFT | _plain(Recipe.model_json_schema())
    schema["properties"] = {
        "base": {"type": "string", "description": "The path of a recipe that this one changes."},
        **schema["properties"],
    }
    whole = {"required": ["data"], "properties": {"data": {"required": ["shards"]}}}
    return schema | {"anyOf": [{"required": ["base"]}, whole]}


def search_schema() -> dict[str, Any]:
    """Of a search file, with all that may be written shorter."""
    recipe, schema = recipe_schema(), _DRAFT | _plain(SearchConfig.model_json_schema())
    defs, properties = schema["$defs"], schema["properties"]
    defs |= recipe.pop("$defs") | {"Recipe": {k: v for k, v in recipe.items() if k != "$schema"}}
    keys = sorted(recipe_keys())
    defs |= {"Key": {"enum": keys}, "Scalar": _SCALAR}
    parameter = defs["Parameter"]
    for name, field in parameter["properties"].items():
        if "anyOf" in field and name != "when":
            parameter["properties"][name] = next(part for part in field["anyOf"] if part != {"type": "null"})
    parameter["properties"]["when"]["propertyNames"] = {"$ref": "#/$defs/Key"}
    parameter["oneOf"] = [{"required": [kind]} for kind in ("choice", "uniform", "loguniform", "int")]
    defs["Searched"] = {"anyOf": [{"$ref": "#/$defs/Parameter"}, {"$ref": "#/$defs/Scalar"}]}
    properties["recipe"] |= {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Recipe"}]}
    del properties["recipe"]["type"], properties["recipe"]["additionalProperties"]
    point = {"type": "object", "propertyNames": {"$ref": "#/$defs/Key"}, "additionalProperties": _SCALAR}
    properties["points"]["items"] = {"anyOf": [{"type": "string"}, point]}
    properties["space"]["properties"] = {
        key: {"$ref": f"#/$defs/{'Scalar' if is_fixed(key) else 'Searched'}"} for key in keys
    } | _groups(parameter)
    properties["space"]["additionalProperties"] = False
    return schema | {"required": ["name", "recipe", "space"]}


def _groups(parameter: dict[str, Any]) -> dict[str, Any]:
    """The keys that choose a plugin: its bare name, or plugins with their settings."""
    searched = {"$ref": "#/$defs/Searched"}
    found = {}
    for group, plugins in plugin_settings().items():
        settings: dict[str, Any] = {
            name: {"type": ["object", "null"], "properties": dict.fromkeys(sorted(keys), searched)}
            | {"additionalProperties": False}
            for name, keys in sorted(plugins.items())
        }
        nested = {
            "type": "object",
            "properties": {
                "plugin": {"type": "object", "minProperties": 1, "properties": settings, "additionalProperties": False},
                "when": parameter["properties"]["when"],
            },
            "required": ["plugin"],
            "additionalProperties": False,
        }
        found[group] = {"anyOf": [{"enum": sorted(plugins)}, nested]}
    return found


def _plain(node: Any) -> Any:
    """Pydantic's schema without titles, without what a base may hold, and with plugins by bare name."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, dict):
        return node
    schema = {k: _plain(v) for k, v in node.items() if k not in ("required", "discriminator") and not _title(k, v)}
    if "discriminator" in node:  # any, not one: settings without a name are those of the base's plugin
        names = sorted(node["discriminator"]["mapping"])
        schema["anyOf"] = [{"enum": names}, *schema.pop("oneOf")]
    if "properties" in schema and "description" in schema:
        _describe(schema)
    return schema


def _title(key: str, value: Any) -> bool:
    return key == "title" and isinstance(value, str)


def _describe(schema: dict[str, Any]) -> None:
    """Give each key what the docstring of its config class says of it."""
    schema["description"], _, attributes = schema["description"].partition("\n\nAttributes:\n")
    for name, text in re.findall(r"^    (\w+): ((?:.|\n {8})+)", attributes, re.MULTILINE):
        schema["properties"][name]["description"] = " ".join(text.split())
