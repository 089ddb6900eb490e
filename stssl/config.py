"""Configuration files: strict YAML in, readable YAML out, dotted overrides, a hash.

The classes that are configured own their config classes; this module holds what they share.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import re
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from stssl.errors import ConfigError, StsslError, did_you_mean, short_repr, shorten
from stssl.files import check_file


class Config(BaseModel):
    """Base of all configuration: frozen, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse unknown keys and truth values for numbers, together with whatever else is wrong."""
        if not isinstance(data, Mapping):
            return handler(data)
        known = {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
        faults, rest = [], {}
        for key, value in data.items():
            if key not in known:
                faults.append(
                    _fault("unknown_key", f"unknown key '{shorten(key)}'; {did_you_mean(shorten(key), known)}", data)
                )
            elif isinstance(value, bool) and known[key] in _NUMBERS:  # `lr: yes` is a slip, not 1.0
                faults.append(_fault("number", "input should be a number, not true or false", value, (key,)))
            else:
                rest[key] = value
        if not faults:
            return handler(data)
        try:
            handler(rest)
        except ValidationError as error:
            faults += [
                _fault(f["type"], f["msg"], f["input"], f["loc"], f.get("ctx", {}))
                for f in error.errors(include_url=False)
            ]
        raise ValidationError.from_exception_data(cls.__name__, faults)


_NUMBERS = (int, float, int | None, float | None)


def _fault(
    kind: str, message: str, given: Any, where: tuple[int | str, ...] = (), context: Mapping[str, Any] | None = None
) -> InitErrorDetails:
    """A fault in pydantic's own form."""
    error = PydanticCustomError(kind, "{message}", {**(context or {}), "message": message})  # type: ignore[arg-type]
    return InitErrorDetails(type=error, loc=where, input=given)


ConfigT = TypeVar("ConfigT", bound=Config)


class Loader(yaml.SafeLoader):
    """yaml.safe_load that refuses a repeated key and reads 1e-4 as the number that it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{shorten(key_node.value)}' stands here twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """yaml.safe_dump that quotes what Loader would take for a number."""


# Numbers as YAML 1.2 has them, and 1e-4, which 1.1 takes for text: there 1:30 is 90 and 017 is 15.
_NUMBER = {
    "tag:yaml.org,2002:int": re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"^([-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBER]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBER.items():
    Loader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
    _Dumper.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))

MOST_BYTES = 2 << 20  # of a file
MOST_MARKS = 100_000  # of YAML's punctuation: a second's work for its parser
MOST_NODES = 100_000  # values, with what every alias stands for


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML document, of which there are not too many.

    Raises:
        yaml.YAMLError: The text is not YAML.
        ValueError: It is too large, or its aliases make it so.
    """
    if sum(map(text.count, ",[]{}:\n")) > MOST_MARKS:
        raise ValueError(f"too large: more than {MOST_MARKS:,} lines and entries")
    loader = Loader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    if node is not None and _count(node, {}) > MOST_NODES:
        raise ValueError(f"too large: its aliases (*name) repeat so much that it has more than {MOST_NODES:,} values")
    return node


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, with each alias counted as what it repeats."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise ValueError("an alias (*name) stands within what it repeats")
        return known[id(node)]
    known[id(node)] = 0
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    known[id(node)] = 1 + sum(_count(part, known) for part in below)
    return known[id(node)]


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML safely.

    Args:
        text: The document.
        source: What to call it in an error (a file name or `--set`).

    Raises:
        ConfigError: The text is not YAML, with line and column; or too large.
    """
    try:
        node = compose(text)
        return None if node is None else Loader("").construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{source}{place}: not valid YAML: {shorten(problem)}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # PyYAML's own constructors stumble so: over the date 2020-13-45, `!!int x`, a thousand nested brackets
        raise ConfigError(f"{source}: not valid YAML: {shorten(str(error))}") from None


def read_text(path: Path | str) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: It is missing, cannot be read, is no regular file or too large.
    """
    path = Path(path)
    try:
        check_file(path, MOST_BYTES)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except StsslError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{shorten(str(path))}: no such file, as its name is too long for one") from None
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: The file is missing, unreadable, not YAML, or not a mapping.
    """
    data = parse_yaml(read_text(path), str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {type(data).__name__}")
    return data


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Write a mapping as YAML in the given order of keys."""

    def dump(allow_unicode: bool) -> str:
        return str(yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, width=110))

    text = dump(allow_unicode=True)
    try:
        same = yaml.load(text, Loader) == data
    except yaml.YAMLError:
        same = False
    return text if same else dump(allow_unicode=False)  # PyYAML does not quote some rare line breaks


def validate(model: type[ConfigT], data: Any, source: str) -> ConfigT:
    """Validate data against a config class.

    Args:
        model: The config class.
        data: Parsed YAML.
        source: What to call it in an error (a file name).

    Raises:
        ConfigError: One line for each fault: source, dotted key, what is wrong, the value, what would be right.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, data, source))) from None


def explain(error: ValidationError, data: Any, source: str) -> list[str]:
    """What is wrong with data, a line for each fault; see `validate`."""
    return list(dict.fromkeys(_explain(fault, data, source) for fault in error.errors(include_url=False)))


def _explain(fault: Any, data: Any, source: str) -> str:
    """One readable line for one pydantic fault."""
    path: list[str] = []
    here = data
    for position, step in enumerate(fault["loc"]):
        if (isinstance(here, dict) and step in here) or (
            isinstance(here, list | tuple) and isinstance(step, int) and step < len(here)
        ):
            here = here[step]
        elif position < len(fault["loc"]) - 1 or fault["type"] != "missing":
            continue  # the tag of a union, which is not a key of the file
        path.append(shorten(step))
    where = f"{source}: {'.'.join(path)}: " if path else f"{source}: "
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in ("union_tag_invalid", "literal_error"):
        expected = str(context.get("expected_tags") or context.get("expected"))
        known = [text or number for text, number in re.findall(r"'([^']*)'|(-?\d[\d.]*)", expected)]
        given = shorten(context.get("tag", fault["input"]))
        return f"{where}unknown choice '{given}'; {did_you_mean(given, known)}"
    if kind == "union_tag_not_found":
        return f"{where}the key 'name' is missing"
    if kind == "missing":
        return f"{where}this key is required"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = "" if kind in ("unknown_key", "value_error") else f" (got {short_repr(fault['input'])})"
    return f"{where}{message}{shown}"


def with_overrides(
    data: Mapping[str, Any], overrides: Mapping[str, Any], source: str = "--set", plugins: Collection[str] = ()
) -> dict[str, Any]:
    """Set dotted keys in nested data; the input is left alone.

    A new `x.name` replaces the whole plugin `x`: the settings of the old plugin mean nothing to the new one.

    Args:
        data: Nested mappings.
        overrides: Dotted key to value, for example `{"algorithm.threshold": 0.9}`.
        source: What to call the overrides in an error.
        plugins: The groups that are a choice of plugin, such as `algorithm`.

    Raises:
        ConfigError: A key leads through something that is not a mapping.
    """
    result = copy.deepcopy(dict(data))
    for key in sorted(overrides, key=lambda k: (not k.endswith(".name"), k.count("."))):
        *parents, leaf = key.split(".")
        here: Any = result
        for parent in parents:
            child = here.get(parent)
            if child is None:
                child = here[parent] = {}
            elif isinstance(child, str):  # short form of a plugin: `algorithm: fixmatch`
                child = here[parent] = {"name": child}
            here = child
            if not isinstance(here, dict):
                raise ConfigError(f"{source}: {key}: '{parent}' is a value, not a group of keys")
        if leaf == "name" and ".".join(parents) in plugins and here.get("name") not in (None, overrides[key]):
            here.clear()
        here[leaf] = copy.deepcopy(overrides[key])
    return result


def parse_set(settings: list[str]) -> dict[str, Any]:
    """Parse `--set key=value` options; values are YAML.

    Raises:
        ConfigError: An option without `=`, or a value that is not YAML.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting}: expected key=value, for example --set optimizer.lr=0.001")
        parsed[key.strip()] = parse_yaml(value, f"--set {setting}")
    return parsed


def digest(data: Any) -> str:
    """Twelve hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys, in order."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
