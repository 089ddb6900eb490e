"""Pickled pandas tables: those of all versions are read, and nothing in a file ever runs."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stssl.data.sources._reference_pickle import read_columns
from stssl.errors import DataError
from stssl.storage import Folder

SPLITS = Path(__file__).parents[1] / "fixtures" / "bigearthnet_v1" / "splits"


def read(data: bytes, tmp_path: Path, *columns: str) -> dict[str, list[Any]]:
    (tmp_path / "train.pkl").write_bytes(data)
    return read_columns(Folder(tmp_path), "train.pkl", columns or ("patch",))


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patch": ["a", "ü", "c"],
            "hot": [np.arange(3.0), np.ones((2, 2), "u1"), [0, 1]],
            "lat": [1.5, np.nan, 3.0],
            "count": [1, 2, 3],
            "flag": [True, False, True],
            "when": pd.to_datetime(["2017-06-13", None, "2017-06-14"]),
            "kind": pd.Categorical(["x", "y", "x"]),
            "missing": pd.Series(["x", None, "z"], dtype="str"),
            "numpy": pd.Series(["x", "y", "z"], dtype=pd.StringDtype("python")),
            "mixed": pd.Series(["x", pd.NaT, pd.Timestamp(0)], dtype=object),
        }
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "change",
    [
        lambda table: table,
        lambda table: table.iloc[::-1],
        lambda table: pd.concat([table, table]).iloc[2:5],
        lambda table: table.iloc[:0],
        lambda table: table.astype({"patch": object}),
        lambda table: table.copy().rename(columns={"lat": "hot2"}).rename(columns={"hot2": "lat"}),
    ],
    ids=["plain", "reversed", "joined", "empty", "objects", "renamed"],
)
def test_round_trip(tmp_path: Path, protocol: int, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = change(frame())
    names = ("patch", "hot", "lat", "count", "flag", "missing", "numpy")
    found = read(pickle.dumps(table, protocol), tmp_path, *names)
    assert list(found) == list(names)
    for name in names:
        np.testing.assert_equal(
            found[name], [None if name == "missing" and pd.isna(v) else v for v in table[name].tolist()]
        )
    if len(table):
        assert {type(v) for v in found["patch"]} == {str} and isinstance(found["hot"][0], np.ndarray | list)


@pytest.mark.parametrize("version", sorted(path.name for path in SPLITS.iterdir()))
def test_older_pandas(version: str) -> None:
    found = read_columns(Folder(SPLITS / version), "train.pkl", ["patch", "multi_hot_labels43", "lat", "season"])
    assert found["patch"] == [
        "S2B_MSIL2A_20180204T94161_57_38",
        "S2A_MSIL2A_20170617T113321_36_85",
        "S2B_MSIL2A_20170924T93020_69_24",
    ]
    assert [np.flatnonzero(hot).tolist() for hot in found["multi_hot_labels43"]] == [
        [0, 1, 2],
        [2, 7],
        [0, 1, 3, 8, 12],
    ]
    assert found["lat"] == [1.5] * 3 and found["season"] == ["winter"] * 3


def global_(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(string: str) -> bytes:
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def called(module: str, name: str, *args: str) -> bytes:
    """A pickle that calls a function with strings."""
    return b"\x80\x02" + global_(module, name) + b"(" + b"".join(map(text, args)) + b"tR."


def named(module: str, name: str) -> bytes:
    """A pickle of protocol 4 that only names something."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93."


EVIL = [
    ("os", "system", "touch {}"),
    ("posix", "system", "touch {}"),
    ("subprocess", "getoutput", "touch {}"),
    ("builtins", "eval", "open({!r}, 'w')"),
    ("__builtin__", "eval", "open({!r}, 'w')"),
    ("builtins", "exec", "open({!r}, 'w')"),
    ("builtins", "open", "{}", "w"),
    ("builtins", "getattr", "x", "y"),
    ("pandas", "read_pickle", "{}"),
    ("pandas.io.pickle", "to_pickle", "x", "{}"),
    ("pandas", "eval", "@open({!r}, 'w')"),
    ("pandas.compat.pickle_compat", "load_reduce", "x"),
    ("numpy", "load", "{}"),
    ("numpy", "save", "{}", "x"),
    ("numpy", "fromfile", "{}"),
    ("numpy.core.multiarray", "fromfile", "{}"),
    ("pandas", "DataFrame.to_pickle", "x", "{}"),
    ("pandas", "Index.__class__", "x"),
    ("numpy", "dtype.__class__", "x"),
    ("pandas.core.frame", "DataFrame.to_csv", "x", "{}"),
    ("pandas.core", "frame.DataFrame", "x"),
    ("operator", "attrgetter", "x"),
    ("copyreg", "_reconstructor", "x", "y"),
    ("shutil", "copyfile", "{}", "{}"),
    ("stssl.data.sources._reference_pickle", "_Call", "x"),
]


@pytest.mark.parametrize(("module", "name", "args"), [(m, n, a) for m, n, *a in EVIL])
def test_evil_is_refused_without_effect(tmp_path: Path, module: str, name: str, args: list[str]) -> None:
    mark = tmp_path / "mark"
    for data in (called(module, name, *(arg.format(str(mark)) for arg in args)), named(module, name)):
        with pytest.raises(DataError) as error:
            read(data, tmp_path)
        assert str(error.value) == (
            f"{tmp_path}/train.pkl: '{module}.{name}' is not loaded: a split file holds only numpy and pandas data; "
            "keep plain columns (text, numbers, arrays)"
        )
    assert not mark.exists()


class Evil:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def test_evil_inside_a_table(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for evil in (Evil(open, str(mark), "w"), Evil(eval, f"open({str(mark)!r}, 'w')")):
        table = pd.DataFrame({"patch": ["a"], "other": pd.Series([evil], dtype=object)})
        with pytest.raises(DataError, match="is not loaded"):
            read(pickle.dumps(table), tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cpandas\nDataFrame\n}b.",  # a state for the class itself
        b"\x80\x02cpandas\nDataFrame\nN}(" + text("to_csv") + text("x") + b"u\x86b.",  # attributes of the class
        b"\x80\x02cpandas\nDataFrame\n(" + text("a") + b"I1\ns.",
        b"\x80\x02cpandas\nDataFrame\nI1\na.",
        b"\x80\x02cfunctools\npartial\n(cpandas\nDataFrame\ntR)R.",
        b"\x80\x02cnumpy\ndtype\n(" + text("O8") + b"tR.",
        b"\x80\x04\x8c\x01xQ.",  # persistent id
        b"\x80\x02\x82\x01.",  # extension
        b"\x80\x05\x97.",  # out-of-band buffer
        b"\x80\x02" + text("os.system") + b"(I1\ntR.",
        b"\x80\x02K\x01.",
        b"\x80\x02" + b"(" * 100_000,
        b"",
        b"x",
        b"<html>404</html>",
        pickle.dumps([1, 2]),
        pickle.dumps(np.arange(3)),
        pickle.dumps(pd.Series([1])),
    ],
)
def test_odd_pickles(tmp_path: Path, data: bytes) -> None:
    before = dict(vars(pd.DataFrame))
    with pytest.raises(DataError, match=r"^\S*train.pkl: [^\n]*$"):
        read(data, tmp_path)
    assert dict(vars(pd.DataFrame)) == before


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04Nr\x00\x00\x00\x03.",
        b"\x80\x04Np50331648\n.",
        b"\x80\x04Nq\xff.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b".",
    ],
    ids=["long_binput", "put", "binput", "bytearray8"],
)
def test_a_small_file_takes_little_memory(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        pytest.fail("loaded")

    monkeypatch.setattr("stssl.data.sources._reference_pickle._Unpickler", never)
    with pytest.raises(
        DataError, match=r"train.pkl: damaged or no pickled pandas table \(ValueError: [^\n]*copy it again"
    ):
        read(data, tmp_path)


def test_cut_off_or_scribbled_on(tmp_path: Path) -> None:
    data = pickle.dumps(frame(), 4)
    for keep in range(0, len(data) - 1, 7):
        with pytest.raises(DataError, match=r"train.pkl: "):
            read(data[:keep], tmp_path)
    random, read_well = np.random.default_rng(0), 0
    for _ in range(1000):
        damaged = bytearray(data)
        place = random.integers(2, len(data))
        damaged[place] ^= 1 << random.integers(8)
        try:
            read(bytes(damaged), tmp_path, "patch", "hot", "lat", "missing", "numpy")
            read_well += 1
        except DataError as error:
            assert str(error).startswith(f"{tmp_path}/train.pkl: ") and "\n" not in str(error)
    assert 0 < read_well < 1000


def test_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.pkl: no column 'patc'; did you mean 'patch'\?"):
        read(pickle.dumps(frame()), tmp_path, "patc")
    for name in ("kind", "when"):
        with pytest.raises(
            DataError, match=r"train.pkl: .* is not read; keep plain columns \(text, numbers, arrays\)$"
        ):
            read(pickle.dumps(frame()), tmp_path, name)
    for kind in ("Int64", "boolean", "timedelta64[ns]"):
        table = pd.DataFrame({"patch": pd.Series([1, 0]).astype(kind)})
        with pytest.raises(DataError, match=r"train.pkl: .* not (loaded|read).*; keep plain columns \(text.*\)$"):
            read(pickle.dumps(table), tmp_path)
    with pytest.raises(DataError, match=r"gone.pkl: no such file"):
        read_columns(Folder(tmp_path), "gone.pkl", ["patch"])
