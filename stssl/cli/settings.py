"""The settings of a config class: their types, limits and defaults, as data and in words."""

from __future__ import annotations

import json
from typing import Any

import yaml

_TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "object": "mapping", "array": "list"}
_BOUNDS = {  # of JSON Schema: which end, and whether the end itself is excluded
    "minimum": ("low", False),
    "exclusiveMinimum": ("low", True),
    "maximum": ("high", False),
    "exclusiveMaximum": ("high", True),
}


def parameters(config: Any) -> list[dict[str, Any]]:
    """All settings of a config class but `name`, as pydantic enforces them."""
    from pydantic_core import to_jsonable_python

    schema = config.model_json_schema()
    found = []
    for field_name, field in config.model_fields.items():
        key = field.alias or field_name
        if key != "name":
            default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            limits = limits_of(schema["properties"][key], schema.get("$defs", {}))
            required = {"required": field.is_required(), "default": to_jsonable_python(default)}
            found.append({"name": key, **limits, **required})
    return found


def limits_of(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Type, choices and bounds from JSON Schema; those of the elements for a list, choices of the keys for a mapping."""
    schema = {**defs[schema["$ref"].rsplit("/", 1)[1]], **schema} if "$ref" in schema else schema
    if "anyOf" in schema:
        parts = [limits_of(part, defs) for part in schema["anyOf"] if part.get("type") != "null"]
        same = all({**part, "type": ""} == {**parts[0], "type": ""} for part in parts)
        limits = parts[0] if same else {**limits_of({}, defs), "either": parts}
        kind = " or ".join(dict.fromkeys(part["type"] for part in parts))
        return {**limits, "type": kind, "nullable": len(parts) < len(schema["anyOf"])}
    limits = {
        "type": _TYPES.get(schema.get("type", ""), "any"),
        "nullable": False,
        "choices": schema.get("enum", [schema["const"]] if "const" in schema else None),
        **{"low": None, "high": None, "low_exclusive": False, "high_exclusive": False},
        "either": None,  # the limits of each type, where they differ
    }
    for word, (end, exclusive) in _BOUNDS.items():
        if word in schema:
            limits |= {end: schema[word], f"{end}_exclusive": exclusive}
    elements = schema.get("prefixItems") or [schema.get("items") or {}]
    if schema.get("type") == "array":
        inner = limits_of({"anyOf": elements} if len(elements) > 1 else elements[0], defs)
        limits = {**inner, "nullable": False, "type": f"list of {_with_null(inner)}"}
    elif isinstance(schema.get("additionalProperties"), dict):
        inner = limits_of(schema["additionalProperties"], defs)
        keys = schema.get("propertyNames", {}).get("enum")
        limits |= {"type": f"mapping to {_with_null(inner)}", "choices": keys}
    return limits


def _with_null(limits: dict[str, Any]) -> str:
    return limits["type"] + (" or null" if limits["nullable"] else "")


def row(parameter: dict[str, Any]) -> tuple[str, str, str]:
    """Setting, default and what is legal, for people."""
    default = "required" if parameter["required"] else f"= {_yaml(parameter['default'])}"
    return parameter["name"], default, _legal(parameter)


def _legal(p: dict[str, Any]) -> str:
    """Limits in words."""
    null = ["null"] if p["nullable"] else []
    if p["either"]:
        return " or ".join([*map(_legal, p["either"]), *null])
    scalar = p["type"] in ("int", "float", "str", "bool")
    choices = ["true", "false"] if p["type"] == "bool" else [_yaml(choice) for choice in p["choices"] or ()]
    legal = ", ".join(choices + null) if choices and scalar else " or ".join([p["type"], *null])
    if choices and not scalar:
        legal += f": {', '.join(choices)}"
    low, high = (None if p[end] is None else _yaml(p[end]) for end in ("low", "high"))
    if low and high and (p["low_exclusive"] or p["high_exclusive"]):
        legal += f" in {'(' if p['low_exclusive'] else '['}{low}, {high}{')' if p['high_exclusive'] else ']'}"
    elif low and high:
        legal += f", {low} to {high}"
    elif low:
        legal += f", {'above' if p['low_exclusive'] else 'at least'} {low}"
    elif high:
        legal += f", {'below' if p['high_exclusive'] else 'at most'} {high}"
    return legal


def _yaml(value: Any) -> str:
    """As one writes it in a recipe, on one line."""
    text: str = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
    quoted = text.startswith("['")
    return json.dumps(value, ensure_ascii=False) if quoted and isinstance(value, str) else text.strip()[1:-1]
