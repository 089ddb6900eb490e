"""Places and dates of public data sets, which come with the package; see README.md beside this file."""

from __future__ import annotations

from importlib import resources

import pyarrow as pa
import pyarrow.parquet as pq


def read(name: str, columns: list[str] | None = None) -> pa.Table:
    """One of the tables, such as `eurosat_27000`, or some columns of it."""
    with resources.files(__package__).joinpath(f"{name}.parquet").open("rb") as file:
        return pq.read_table(file, columns=columns)
