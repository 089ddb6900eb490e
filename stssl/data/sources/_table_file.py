"""The table itself, CSV or Parquet: its cells, and what to call a row in a message."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stssl.errors import DataError
from stssl.storage import Folder, is_uri

ENDINGS = (".csv", ".parquet")
_USUAL = ("table.csv", "table.parquet", "metadata.csv")

_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}
_Choose = Callable[[Sequence[str]], Mapping[str, str]]  # a table's headings -> column: heading
_Value = TypeVar("_Value")


class Days(float):
    """Days since 1970-01-01 UTC, out of a Parquet timestamp or date; a mere number has no unit."""


class Rows(NamedTuple):
    """The chosen columns of a table.

    Attributes:
        shown: The table's full name.
        word: What a row is called: "line" of a CSV file (the heading is line 1), "row" of a Parquet file (the first is 1).
        numbers: [N] number of each row.
        headings: Column to what stands above it.
        cells: Column to its N cells: stripped text in CSV; text, numbers, `Days`, tuples or None in Parquet.
    """

    shown: str
    word: str
    numbers: NDArray[np.int64]
    headings: Mapping[str, str]
    cells: Mapping[str, Sequence[Hashable]]

    def where(self, row: int) -> str:
        """A row's place, for a message."""
        return f"{self.shown}: {self.word} {self.numbers[row]}"

    def convert(self, column: str, read: Callable[[Any], _Value]) -> list[_Value]:
        """Every cell of a column through `read`, which is called once for each different cell.

        Raises:
            DataError: `read` raised ValueError: its text, with the row and the column.
        """
        values, known = [], {}
        for row, cell in enumerate(self.cells[column]):
            if cell not in known:
                try:
                    known[cell] = read(cell)
                except ValueError as error:
                    raise DataError(f"{self.where(row)}: column '{self.headings[column]}': {error}") from None
            values.append(known[cell])
        return values


def find_table(root: str) -> tuple[Folder, str]:
    """A table's folder, and its name there.

    Raises:
        DataError: The folder holds none of the usual tables, or several.
    """
    folder, parts = Folder(root), urlsplit(root if is_uri(root) else "")
    place = parts.path if is_uri(root) else root
    if place.lower().endswith(ENDINGS) and not (folder.path and folder.path.is_dir()):
        above, name = posixpath.split(place)
        if not is_uri(root):
            return Folder(above or "."), name
        return Folder(parts._replace(path=above or "/").geturl()), unquote(name)
    try:
        found = [name for name in _USUAL if folder.size(name) is not None]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{folder}: cannot be read: {' '.join(str(error).split())}") from None
    if len(found) != 1:
        holds = (
            f"holds {' and '.join(found)}" if found else f"is no folder with {', '.join(_USUAL[:-1])} or {_USUAL[-1]}"
        )
        raise DataError(f"{folder}: {holds}; name the table itself (a file that ends in {' or '.join(ENDINGS)})")
    return folder, found[0]


def read_rows(folder: Folder, name: str, choose: _Choose) -> Rows:
    """Read the columns that `choose` picks from the headings.

    Raises:
        DataError: The file is missing, empty or damaged, or holds no rows; also whatever `choose` raises.
    """
    shown = folder.show(name)
    try:
        data = folder.read(name)
    except FileNotFoundError:
        raise DataError(f"{shown}: no such file; name a table ({' or '.join(ENDINGS)}), or its folder") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{shown}: cannot be read: {' '.join(str(error).split())}") from None
    if not data:
        raise DataError(f"{shown}: the file is empty; expected a line of headings and one line for each image")
    rows = (_read_csv if name.lower().endswith(".csv") else _read_parquet)(shown, data, choose)
    if not len(rows.numbers):
        raise DataError(f"{shown}: holds no rows; expected one for each image")
    return rows


def _read_csv(shown: str, data: bytes, choose: _Choose) -> Rows:
    records = _records(shown, data)
    _, headings = next(records, (1, []))
    headings = [heading.strip() for heading in headings]
    chosen = choose(headings)
    columns = [(headings.index(heading), list[Hashable]()) for heading in chosen.values()]
    lines = []
    for line, record in records:
        if len(record) != len(headings):
            raise DataError(
                f"{shown}: line {line}: {len(record)} cells under {len(headings)} headings; "
                "put a cell that holds a comma in double quotes"
            )
        lines.append(line)
        for index, cells in columns:
            cells.append(record[index].strip())
    cells_of = {column: cells for column, (_, cells) in zip(chosen, columns, strict=True)}
    return Rows(shown, "line", np.array(lines, np.int64), chosen, cells_of)


def _records(shown: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number; a quoted cell may hold line breaks.

    The standard reader, not pyarrow's: it knows where it is in the file.
    """
    try:
        heading = data.decode("utf-8-sig").lstrip().partition("\n")[0]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{shown}: line {line}: not UTF-8 text; save the table as CSV in UTF-8") from None
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if mark in heading and "," not in heading:
            raise DataError(f"{shown}: {name} between the headings; separate the columns with commas")
    reader = csv.reader(
        io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), strict=True, skipinitialspace=True
    )  # fmt: skip
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{shown}: line {line}: no valid CSV: {error}; look at the double quotes there") from None


def _read_parquet(shown: str, data: bytes, choose: _Choose) -> Rows:
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            chosen = choose(file.schema_arrow.names)
            for heading in chosen.values():
                _refuse_nested(shown, file.schema_arrow.field(heading))
            table = file.read(columns=sorted(set(chosen.values())))
            cells = {column: _cells(table.column(heading)) for column, heading in chosen.items()}
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{shown}: damaged or no Parquet table ({reason}); write it again") from None
    return Rows(shown, "row", np.arange(1, table.num_rows + 1), chosen, cells)


def _refuse_nested(shown: str, field: pa.Field) -> None:
    inner = getattr(field.type, "value_type", field.type)  # of a list; a struct or a map has none
    if pa.types.is_nested(field.type) and pa.types.is_nested(inner):
        raise DataError(
            f"{shown}: column '{field.name}' is {field.type}; expected text, numbers, dates or lists of text"
        )


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """Cells as plain Python values that can be hashed."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _cells(column.cast(kind.value_type))
    if pa.types.is_date(kind):
        return _cells(column.cast(pa.timestamp("s" if pa.types.is_date32(kind) else "ms")))
    if not pa.types.is_timestamp(kind):
        return [tuple(cell) if isinstance(cell, list) else cell for cell in column.to_pylist()]
    known = pc.is_valid(column).to_numpy()
    ticks, unit = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(), kind.unit
    if unit == "ns":  # times are stored in microseconds
        ticks, unit = ticks // 1000, "us"
    return [Days(day) if valid else None for day, valid in zip(ticks / _PER_DAY[unit], known, strict=True)]
