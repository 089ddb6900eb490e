"""Which heading of a table is which column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from stssl.data.schema import Task
from stssl.errors import DataError, did_you_mean

Column = Literal["path", "id", "label", "labels", "lat", "lng", "time", "split"]

# A heading that reads like a column is not taken for it, but neither is it passed over: that would lose places or dates.
_ALIKE: Mapping[str, frozenset[str]] = {
    "path": frozenset({"file", "filename", "filepath", "image", "imagename", "imagepath"}),
    "label": frozenset({"class", "classes", "category"}),
    "lat": frozenset({"latitude"}),
    "lng": frozenset({"lon", "long", "longitude"}),
    "time": frozenset({"date", "datetime", "timestamp", "acquisitiondate", "acquisitiontime"}),
    "split": frozenset({"subset", "partition"}),
}


def choose_columns(
    headings: Sequence[str], renamed: Mapping[Column, str | None], task: Task | None, shown: str
) -> dict[str, str]:
    """The heading of each column that the table has, path first.

    Args:
        headings: All headings of the table.
        renamed: What the user said: column to heading, or to None = the table has none.
        task: Decides between `label` and `labels` where both are there; the other is left out.
        shown: The table's full name.

    Raises:
        DataError: `path` is missing, one of `lat` and `lng` is, a heading stands there twice or reads like a column that
            is missing, or both label columns are there and no task.
    """
    chosen: dict[str, str] = {}
    for column in get_args(Column):
        heading = renamed.get(column, column)
        if heading in headings:
            chosen[column] = heading
        elif heading is not None and column in renamed:
            raise DataError(f"{shown}: no heading '{heading}' for the column {column}; {_near(heading, headings)}")
    if "label" in chosen and "labels" in chosen:
        if task is None:
            raise DataError(f"{shown}: has both 'label' and 'labels'; choose with `--set task=single` or `task=multi`")
        del chosen["label" if task == "multi" else "labels"]
    _refuse_alike(headings, renamed, chosen, shown)
    if "path" not in chosen:
        raise DataError(f"{shown}: the column 'path' is missing; {_near('path', headings)}; {_name('path', 'HEADING')}")
    if ("lat" in chosen) != ("lng" in chosen):
        has, lacks = ("lat", "lng") if "lat" in chosen else ("lng", "lat")
        raise DataError(f"{shown}: has a column '{has}' but no '{lacks}'; {_near(lacks, headings)}")
    for heading in chosen.values():
        if headings.count(heading) > 1 or list(chosen.values()).count(heading) > 1:
            raise DataError(f"{shown}: the heading '{heading}' is used twice; each column needs one of its own")
    return chosen


def _refuse_alike(
    headings: Sequence[str], renamed: Mapping[Column, str | None], chosen: Mapping[str, str], shown: str
) -> None:
    """Refuse to pass over a heading such as 'latitude' where there is no 'lat'."""
    missing = {column for column in _ALIKE if column not in chosen and column not in renamed}
    if {"label", "labels"} & (chosen.keys() | renamed.keys()):
        missing.discard("label")
    for heading in headings:
        plain = "".join(character for character in heading.lower() if character.isalnum())
        for column in sorted(missing):
            known = _ALIKE[column] | {column} | ({"labels"} if column == "label" else set())
            if plain in known and heading not in chosen.values():
                ignore = "" if column == "path" else f", or `--set columns.{column}=null` to do without"
                raise DataError(f"{shown}: no column '{column}', but '{heading}'; {_name(column, heading)}{ignore}")


def _name(column: str, heading: str) -> str:
    return f"rename it, or say `--set 'columns.{column}={heading}'`"


def _near(name: str, headings: Sequence[str]) -> str:
    return did_you_mean(name, {heading for heading in headings if heading}) if any(headings) else "it has no headings"
