"""What can be wrong with a value somewhere in nested data."""

import copy
from collections.abc import Iterator
from typing import Any

ABSENT = object()


def kinds(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something to damage: keys of mappings, at any depth, and first entries of lists."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield (*prefix, key)
            yield from paths(below, (*prefix, key))
    elif isinstance(value, list) and value:
        yield (*prefix, 0)


def put(event: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(event)
    here: Any = changed
    for part in path[:-1]:
        here = here[part]
    if value is ABSENT:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return changed
