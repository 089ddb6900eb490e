"""Line numbers in errors: `search.yaml: space.lr: ...` becomes `search.yaml, line 12: space.lr: ...`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from stssl.config import compose, read_text
from stssl.errors import StsslError

# `points[2]: optimizer.lr = 2 lies outside` and `recipe: optimizer.lr: too large`: a key, and perhaps one below it.
_KEYS = re.compile(r"(?P<key>[\w.+-]+(?:\[\d+\])?)(?:: (?P<below>[\w.+-]+))?(?=[: ]|$)")
_UNKNOWN = re.compile(r"(?P<groups>(?:\S+: )*)unknown key '(?P<key>[^']+)'")


@contextmanager
def located(
    source: Path | str, overrides: Collection[str] = (), known_as: Callable[[str], str] = str
) -> Iterator[None]:
    """Add the line to what is said about a key of a YAML file.

    Args:
        source: The file, as errors name it.
        overrides: Keys that do not come from the file, but from the command line.
        known_as: From a dotted key as it stands in the file to what errors call it.
    """
    try:
        yield
    except StsslError as error:
        lines = _lines(Path(source), known_as)
        text = "\n".join(_located(line, str(source), lines, overrides) for line in str(error).split("\n"))
        raise type(error)(text) from None


def _lines(path: Path, known_as: Callable[[str], str]) -> dict[str, int]:
    """Dotted key of a file to the line where it stands; entries of lists as `points[2]` and `points.2`."""
    try:
        root = compose(read_text(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    found: dict[str, int] = {}
    seen: set[int] = set()  # an alias may lead back to where one is, or to the same again and again

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = f"{prefix}.{key.value}" if prefix else str(key.value)
                for name in (below, known_as(below)):
                    found.setdefault(name, key.start_mark.line + 1)
                walk(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                found[f"{prefix}[{number}]"] = found[f"{prefix}.{number}"] = value.start_mark.line + 1
                walk(value, f"{prefix}[{number}]")

    walk(root, "")
    return found


def _located(text: str, source: str, lines: dict[str, int], overrides: Collection[str]) -> str:
    """One line of an error, with the line number of the longest key in it that the file has."""
    if not text.startswith(f"{source}: "):
        return text
    fault = text.removeprefix(f"{source}: ")
    for keys in _candidates(fault):
        if any(keys == key or keys.startswith((f"{key}.", f"{key}[")) for key in overrides):
            return text
        if keys in lines:
            return f"{source}, line {lines[keys]}: {fault}"
    for keys in _candidates(fault):
        while keys := keys[: max(keys.rfind("."), keys.rfind("["), 0)]:
            if keys in lines and not _on_a_base(keys, lines):
                return f"{source}, line {lines[keys]}: {fault}"
    return text


def _candidates(fault: str) -> list[str]:
    """Keys that a fault may be about, the likeliest first."""
    unknown, found = _UNKNOWN.match(fault), _KEYS.match(fault)
    keys = [unknown["groups"].replace(": ", ".") + unknown["key"]] if unknown else []
    if found and not fault.startswith("recipe with "):
        keys += [f"{found['key']}.{found['below']}"] * bool(found["below"]) + [found["key"]]
    return keys


def _on_a_base(key: str, lines: dict[str, int]) -> bool:
    """Whether what is not in the file below this key may stand in the `base` of its mapping."""
    parts = key.split(".")
    return any(".".join([*parts[:i], "base"]) in lines for i in range(len(parts)))
