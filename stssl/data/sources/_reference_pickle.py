"""Pickled pandas tables, as the reference project keeps its splits, read without running anything that they name.

A pickle is a program: it may name any function and call it. Here no name is ever looked up. A name on the list below
becomes a stand-in that writes its arguments down; any other name is refused. The columns are then put together from
what was written down, in this module. So a file cannot run anything, not even by way of what is on the list, and it is
read the same whether pandas 0.25 or 3 wrote it, and whichever is installed.

Source: the formats themselves, as pandas 0.25 to 3.1 with numpy 1.19 to 2.4 write them at protocols 2 to 5.
"""

from __future__ import annotations

import functools
import gc
import io
import pickle
import pickletools
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stssl.errors import DataError, did_you_mean
from stssl.storage import Folder

_ALLOWED = {
    (module, name)
    for modules, names in (
        ("builtins __builtin__", "bytearray bytes complex dict frozenset list set slice tuple"),
        ("_codecs", "encode"),  # how protocol 2 writes bytes
        ("functools", "partial"),  # of new_block, in pandas 1.3; like all of these it is never made
        ("datetime", "date datetime time timedelta timezone"),
        ("pytz", "_UTC"),  # the time zone of older pandas
        ("numpy", "dtype ndarray"),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
        ("pandas", "Categorical CategoricalDtype DataFrame DatetimeTZDtype Index NA RangeIndex StringDtype"),
        ("pandas.arrays", "ArrowStringArray DatetimeArray StringArray"),
        ("pandas.core.frame", "DataFrame"),
        ("pandas.core.indexes.base", "Index _new_Index"),
        ("pandas.core.indexes.numeric", "Float64Index Int64Index UInt64Index"),
        ("pandas.core.indexes.range", "RangeIndex"),
        ("pandas.core.internals.managers pandas.core.internals", "BlockManager"),
        ("pandas.core.internals.blocks", "new_block"),
        ("pandas.core.arrays.categorical", "Categorical"),
        ("pandas.core.arrays.datetimes", "DatetimeArray"),
        ("pandas.core.arrays.string_", "StringArray StringDtype"),
        ("pandas.core.arrays.string_arrow", "ArrowStringArray"),
        ("pandas.core.dtypes.dtypes", "CategoricalDtype DatetimeTZDtype"),
        ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
        ("pandas._libs.internals", "_unpickle_block"),
        ("pandas._libs.missing", "NA"),
        ("pandas._libs.tslibs.nattype", "__nat_unpickle _nat_unpickle"),
        ("pandas._libs.tslibs.timestamps", "Timestamp _unpickle_timestamp"),
        ("pyarrow.lib", "_restore_array chunked_array py_buffer type_for_alias"),  # the strings of pandas 3
    )
    for module in modules.split()
    for name in names.split()
}
_REMEDY = "copy it again from where the splits were made"
_PLAIN = "keep plain columns (text, numbers, arrays)"


class _NotPlain(TypeError):
    """A column of a kind that is not read."""


class _Call:
    """Something that the file asks for, written down instead of done: a call, or an object and its state."""

    __slots__ = ("args", "state")
    name: ClassVar[str]
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Call:
        self = object.__new__(cls)
        self.args, self.state = args, None
        return self

    def __call__(self, *args: Any) -> _Call:
        return type(self)(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


@functools.cache
def _stand_in(name: str) -> type[_Call]:
    return type(name, (_Call,), {"__slots__": (), "name": name})


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, shown: str) -> None:
        super().__init__(io.BytesIO(data))
        self._shown = shown

    def find_class(self, module: str, name: str) -> type[_Call]:
        if (module, name) not in _ALLOWED:
            asked = repr(f"{module}.{name}")[:100]
            raise DataError(
                f"{self._shown}: {asked} is not loaded: a split file holds only numpy and pandas data; {_PLAIN}"
            )
        return _stand_in(name)


def read_columns(folder: Folder, name: str, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Read some columns of a pickled pandas table.

    Args:
        folder: Where it lies.
        name: Its name there.
        columns: Which columns: strings, numbers, or NumPy arrays of numbers.

    Returns:
        Column to its values, in the order of the rows.

    Raises:
        DataError: The file is missing, damaged, no such table, lacks a column, or names anything but NumPy and pandas.
    """
    shown, collects = folder.show(name), gc.isenabled()
    gc.disable()  # its rounds over a million new objects that all stay would take most of the time
    try:
        data = folder.read(name)
        _check_memo(data)
        root = _Unpickler(data, shown).load()
        if not (isinstance(root, _Call) and root.name == "DataFrame"):
            raise DataError(f"{shown}: holds {type(root).__name__}, not a pandas DataFrame; {_REMEDY}")
        labels, blocks = _layout(root)
        for column in columns:
            if column not in labels:
                raise DataError(f"{shown}: no column '{column}'; {did_you_mean(column, map(str, labels))}")
        table = {column: _column(labels.index(column), len(labels), blocks) for column in columns}
        if len(set(map(len, table.values()))) > 1:
            raise ValueError("columns of different lengths")
        return table
    except DataError:
        raise
    except _NotPlain as error:
        raise DataError(f"{shown}: {error}; {_PLAIN}") from None
    except FileNotFoundError:
        raise DataError(f"{shown}: no such file") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{shown}: damaged or no pickled pandas table ({reason}); {_REMEDY}") from None
    finally:
        if collects:
            gc.enable()


def _check_memo(data: bytes) -> None:
    """See that no opcode makes the unpickler allocate more than the file can use.

    It keeps a list as long as the largest number that it is told to remember something by, and makes room for a
    bytearray before it looks whether its bytes are there.

    Raises:
        ValueError: One does.
    """
    for opcode, argument, place in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise ValueError(f"at byte {place}: memo {argument}, in a file of {len(data)} bytes")


def _layout(frame: _Call) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Column names, and the blocks: their values and which columns they hold."""
    manager = frame.state.get("_mgr", frame.state.get("_data"))
    if manager.state is None:
        blocks, axes = manager.args
        pairs = [block.args[:2] for block in blocks]
    else:  # pandas before 1.3
        state = manager.state[3]["0.14.1"]
        axes, pairs = state["axes"], [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    return _values(axes[0].args[1]["data"]), pairs


def _column(position: int, width: int, blocks: list[tuple[Any, Any]]) -> list[Any]:
    """The values of the column at `position` of `width`."""
    for values, place in blocks:
        held = list(range(width))[slice(*place.args)] if place.name == "slice" else _array(place).tolist()
        if position in held:
            if values.name in ("_reconstruct", "_frombuffer"):
                return [_element(value) for value in _array(values)[held.index(position)].tolist()]
            return _values(values)
    raise ValueError(f"column {position} is in no block")


def _element(value: Any) -> Any:
    """An entry of a column of objects."""
    return _array(value) if isinstance(value, _Call) and value.name in ("_reconstruct", "_frombuffer") else value


def _values(array: _Call) -> list[Any]:
    """A column or index that is a 1-d NumPy array or one of pandas' arrays of strings."""
    if array.name in ("_reconstruct", "_frombuffer"):
        return _array(array).tolist()
    kind = array.args[0].name if array.name == "__pyx_unpickle_NDArrayBacked" else array.name
    if kind == "ArrowStringArray":
        return _arrow(array.state.get("_pa_array", array.state.get("_data")))
    if kind == "StringArray":
        parts = array.state.values() if isinstance(array.state, dict) else array.state or array.args[2]
        return _array(
            next(part for part in parts if getattr(part, "name", "") in ("_reconstruct", "_frombuffer"))
        ).tolist()
    raise _NotPlain(f"a column of {kind} is not read")


def _array(call: _Call) -> NDArray[Any]:
    """A NumPy array of numbers or of objects."""
    if call.name == "_frombuffer":
        data, dtype, shape, order = call.args
    else:
        _, shape, dtype, fortran, data = call.state
        order = "F" if fortran else "C"
    if dtype.args[0] in ("O8", "O4"):
        flat = np.fromiter(data, object, len(data))
    elif re.fullmatch("b1|[iu][1248]|f[248]", dtype.args[0]):
        flat = np.frombuffer(_bytes(data), np.dtype(dtype.args[0]).newbyteorder(dtype.state[1]))
    else:
        raise _NotPlain(f"an array of {dtype.args[0]} is not read")
    return flat.reshape(shape, order=order)


def _arrow(call: _Call) -> list[str | None]:
    """Arrow's strings: where each ends, all characters in one piece, and which are there at all."""
    if call.name == "chunked_array":
        return [text for part in call.args[0] for text in _arrow(part)]
    kind, length, _, offset, (valid, ends, characters), *_ = call.args[0]
    width = {"large_string": "<i8", "string": "<i4"}[kind.args[0]]
    bounds = np.frombuffer(_bytes(ends.args[0]), width)[offset : offset + length + 1].tolist()
    text = _bytes(characters.args[0]) if characters else b""
    there = np.ones(len(bounds) - 1, bool)
    if valid:
        bits = np.frombuffer(_bytes(valid.args[0]), np.uint8)
        there = np.unpackbits(bits, bitorder="little")[offset : offset + length].astype(bool)
    spans = zip(bounds, bounds[1:], there, strict=False)
    return [text[start:end].decode() if known else None for start, end, known in spans]


def _bytes(data: Any) -> bytes:
    """Bytes in the ways in which the protocols write them."""
    while isinstance(data, _Call):
        data = data.args[0] if data.args else b""
    if isinstance(data, str):
        return data.encode("latin-1")
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise TypeError(f"expected bytes, found {type(data).__name__}")
