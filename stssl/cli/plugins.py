"""`plugins`: what can be chosen in a recipe or a search space, and within which limits."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from typing import Annotated, Any

import typer
import yaml
from rich.text import Text

from stssl.cli.common import out

# A sentence ends at a full stop, unless it is that of an abbreviation or initial, or no sentence begins after it.
_END = re.compile(r"(?<!\bal)(?<!\be\.g)(?<!\bi\.e)(?<!\b[A-Z])\.(?=\s+[^\s\da-z(]|\s*$)")
_TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "object": "mapping", "array": "list"}
_BOUNDS = {  # of JSON Schema: which end, and whether the end itself is excluded
    "minimum": ("low", False),
    "exclusiveMinimum": ("low", True),
    "maximum": ("high", False),
    "exclusiveMaximum": ("high", True),
}


def plugins(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND or NAME",
            show_default=False,
            help="Only these: source, encoding, encoding.location, encoding.time, injection, algorithm, or a plugin's name.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what can be chosen (sources, encodings, injection points, algorithms), with settings, limits and papers.

    In a recipe: `algorithm: {name: fixmatch, threshold: 0.9}`; in a search space: `algorithm.name` and
    `algorithm.threshold`; a source and its settings: `prepare eurosat ROOT --set split=none`.

    Examples: `python launch.py plugins injection`, `python launch.py plugins fixmatch`
    """
    from stssl.errors import ConfigError, did_you_mean

    kinds = _kinds()
    names = {name for found in kinds.values() for name in found}
    words = {word for kind in kinds for word in (kind, *kind.split("."))}
    if which is not None and which not in names | words:
        raise ConfigError(f"no plugin or kind of plugin is called '{which}'; {did_you_mean(which, names | words)}")
    chosen = {
        kind: {name: plugin for name, plugin in found.items() if which in (None, name, kind, *kind.split("."))}
        for kind, found in kinds.items()
    }
    if as_json:
        print(json.dumps([_describe(kind, n, plugin) for kind, found in chosen.items() for n, plugin in found.items()]))
        return
    blocks = [(kind, found) for kind, found in chosen.items() if found]
    for number, (kind, found) in enumerate(blocks):
        if number:
            out.print()
        _show(kind, found, whole=which in names)


def _kinds() -> dict[str, dict[str, Any]]:
    """All plugins: kind to name to class. A kind is the key that chooses it in a recipe, or `source`."""
    from stssl.algorithms.base import Algorithm
    from stssl.data.sources.base import Source
    from stssl.encodings.base import LocationEncoding, TimeEncoding
    from stssl.models.injection.base import Injection
    from stssl.plugins import find

    return {
        "source": find("stssl.data.sources", Source),
        "encoding.location": find("stssl.encodings.location", LocationEncoding),
        "encoding.time": find("stssl.encodings.time", TimeEncoding),
        "injection": find("stssl.models.injection", Injection),
        "algorithm": find("stssl.algorithms", Algorithm),
    }


def _describe(kind: str, name: str, plugin: Any) -> dict[str, Any]:
    """A plugin as plain data."""
    text = inspect.cleandoc(plugin.__doc__ or "")
    return {
        "kind": kind,
        "name": name,
        "key": None if kind == "source" else kind,
        "default": name == _default(kind),
        "summary": _sentence(_module_text(plugin)),
        "source": _paper(text) or _paper(_module_text(plugin)),
        "parameters": _parameters(plugin.Config),
    }


def _default(kind: str) -> str | None:
    """The plugin that a recipe has if it says nothing; no source is one."""
    from stssl.training.recipe import PLUGINS, Recipe

    if kind not in PLUGINS:
        return None
    config: Any = Recipe
    for key in kind.split("."):
        field = config.model_fields[key]
        config = field.annotation
    name: str = field.default["name"]
    return name


def _sentence(text: str) -> str:
    """The first sentence, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    end = _END.search(paragraph)
    return paragraph[: end.end()] if end else paragraph


def _paper(text: str) -> str | None:
    """What stands after `Source:`."""
    _, mark, rest = text.partition("Source:")
    return _sentence(rest).removesuffix(".") if mark else None


def _module_text(plugin: Any) -> str:
    return inspect.cleandoc(getattr(inspect.getmodule(plugin), "__doc__", None) or "")


def _parameters(config: Any) -> list[dict[str, Any]]:
    """All settings of a config class but `name`, as pydantic enforces them."""
    from pydantic_core import to_jsonable_python

    schema = config.model_json_schema()
    found = []
    for field_name, field in config.model_fields.items():
        key = field.alias or field_name
        if key != "name":
            default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            limits = _limits(schema["properties"][key], schema.get("$defs", {}))
            required = {"required": field.is_required(), "default": to_jsonable_python(default)}
            found.append({"name": key, **limits, **required})
    return found


def _limits(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Type, choices and bounds from JSON Schema; those of the elements for a list, choices of the keys for a mapping."""
    schema = {**defs[schema["$ref"].rsplit("/", 1)[1]], **schema} if "$ref" in schema else schema
    if "anyOf" in schema:
        parts = [_limits(part, defs) for part in schema["anyOf"] if part.get("type") != "null"]
        same = all({**part, "type": ""} == {**parts[0], "type": ""} for part in parts)
        limits = parts[0] if same else {**_limits({}, defs), "either": parts}
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
        inner = _limits({"anyOf": elements} if len(elements) > 1 else elements[0], defs)
        limits = {**inner, "nullable": False, "type": f"list of {_with_null(inner)}"}
    elif isinstance(schema.get("additionalProperties"), dict):
        inner = _limits(schema["additionalProperties"], defs)
        keys = schema.get("propertyNames", {}).get("enum")
        limits |= {"type": f"mapping to {_with_null(inner)}", "choices": keys}
    return limits


def _with_null(limits: dict[str, Any]) -> str:
    return limits["type"] + (" or null" if limits["nullable"] else "")


def _show(kind: str, found: dict[str, Any], whole: bool) -> None:
    """Print the plugins of one kind; if `whole`, with all that is written about them."""
    entries = {name: _describe(kind, name, plugin) for name, plugin in found.items()}
    rows = {name: [_row(p) for p in entry["parameters"]] for name, entry in entries.items()}
    keys, defaults = (max((len(row[i]) for some in rows.values() for row in some), default=0) for i in range(2))
    titles = {name: f"{name} (default)" if entry["default"] else name for name, entry in entries.items()}
    use = "prepare NAME ROOT --set SETTING=VALUE" if kind == "source" else f"keys: {kind}.name, {kind}.SETTING"
    out.print(Text.assemble((kind, "bold"), (f"  {use}", "dim")))
    for name, entry in entries.items():
        summary, paper = entry["summary"], entry["source"] or ""
        if whole:
            paper = "" if "Source:" in (found[name].__doc__ or "") else paper
        title = f"  {titles[name]:{max(map(len, titles.values()))}}  "
        _put(Text(title, style="cyan"), (summary, ""), (paper, "dim"))
        if whole:
            _tell(found[name])
        for key, default, legal in rows[name]:
            _put(Text.assemble(f"    {key:{keys}}  ", (f"{default:{min(defaults, 34)}}  ", "green")), (legal, ""))
        if whole and not rows[name]:
            out.print("    no settings")


def _put(head: Text, *texts: tuple[str, str]) -> None:
    """Print texts in their styles to the right of `head`."""
    for text, style in texts:
        for line in textwrap.wrap(text, max(20, out.width - len(head)), break_long_words=False):
            out.print(Text.assemble(head, (line, style)))
            head = Text(" " * len(head))


def _tell(plugin: Any) -> None:
    """Print what is written about a plugin and its settings, those included that it shares with others."""
    from stssl.config import Config

    texts = [plugin.__doc__ or ""]
    for config in plugin.Config.__mro__[: plugin.Config.__mro__.index(Config)]:
        text = config.__doc__ or ""
        if config is plugin.Config or "Attributes:" in text:
            texts.append(text)
    for text in filter(None, texts):
        out.print()
        for line in _reflow(inspect.cleandoc(text), min(out.width, 112) - 4):
            out.print(f"    {line}".rstrip(), markup=False)
    out.print()


def _row(parameter: dict[str, Any]) -> tuple[str, str, str]:
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


def _reflow(text: str, width: int) -> list[str]:
    """Wrap a docstring anew: prose and listed settings flow, indented formulas keep their lines."""
    lines: list[str] = []
    for line in text.splitlines():
        last = lines[-1] if lines else ""
        indent, before = (len(some) - len(some.lstrip()) for some in (line, last))
        flows = (indent == before == 0 and not line.startswith(("-", "|"))) or indent > before > 0
        if line.strip() and last.strip() and flows:
            lines[-1] = f"{last} {line.strip()}"
        else:
            lines.append(line.rstrip())
    wrapped: list[str] = []
    for line in lines:
        hang = " " * (len(line) - len(line.lstrip()) + (4 if line.startswith(" ") else 0))
        wrapped += textwrap.wrap(line, width, subsequent_indent=hang, break_long_words=False) or [""]
    return wrapped
