"""Rows in Parquet files that appear whole or not at all.

Contract: the same rows give the same bytes. Columns have the types that stages state, so that a file in which a column
is all null fits beside the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..files import whole_file
from .errors import DataError

ROWS = 16384  # in a row group
AT_ONCE = 1024  # rows in memory as Python's objects


def _arrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("tables need the package pyarrow: pip install -e '.[datasets]'") from None
    return pyarrow


def schema_of(columns: dict[str, str], notes: dict[str, str] | None = None):
    """An Arrow schema of {name: type, such as "float64" or "list<string>"}; notes are kept in the file."""
    arrow = _arrow()
    types = {"list<string>": arrow.list_(arrow.string()), "list<float>": arrow.list_(arrow.float32())}
    fields = [(name, types.get(kind) or arrow.type_for_alias(kind)) for name, kind in columns.items()]
    return arrow.schema(fields, metadata=notes or None)


def write_rows(
    path: Path, rows: Iterable[dict[str, Any]], columns: dict[str, str], notes: dict[str, str] | None = None,
    durable: bool = True,
) -> int:  # fmt: skip
    """Write a file; returns how many rows. What a row lacks is null."""
    arrow = _arrow()
    schema, count, group, rows = schema_of(columns, notes), 0, [], iter(rows)
    with whole_file(path, durable) as part, arrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        while some := list(islice(rows, AT_ONCE)):
            group.append(arrow.Table.from_pylist(some, schema))
            count += len(some)
            if len(group) == ROWS // AT_ONCE:
                writer.write_table(arrow.concat_tables(group).combine_chunks())
                group = []
        if group or not count:
            writer.write_table(arrow.concat_tables(group or [schema.empty_table()]).combine_chunks())
    return count


def read_rows(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(all rows, notes). Raises DataError for a file that is no table."""
    arrow = _arrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            notes = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
            return file.read().to_pylist(), notes
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"the table {path} cannot be read: {error}") from None


def iterate_rows(path: Path, columns: Sequence[str] | None = None):
    """Rows one by one; only AT_ONCE of them are in memory."""
    arrow = _arrow()
    with arrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(AT_ONCE, columns=columns):
            yield from batch.to_pylist()


def read_chosen(path: Path, rows: Sequence[int], columns: Sequence[str] | None = None) -> dict[int, dict[str, Any]]:
    """{index: row} of some rows of a table."""
    wanted = np.unique(np.asarray(rows, np.int64))
    found = (row for part in _parts(path, wanted, columns) for row in part.to_pylist())
    return dict(zip(wanted.tolist(), found, strict=True))


def read_vectors(path: Path, column: str, rows: Sequence[int]) -> np.ndarray:
    """float32 (len(rows), length) of a column of lists that are equally long; `rows` ascend.

    Raises DataError if one of these rows has none.
    """
    found = []
    for part in _parts(path, np.asarray(rows, np.int64), [column]):
        if part.column(0).null_count:
            raise DataError(f"{path}: {part.column(0).null_count} of the chosen rows have no {column}")
        found.append(part.column(0).flatten().to_numpy().reshape(part.num_rows, -1))
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)


def _parts(path: Path, wanted: np.ndarray, columns: Sequence[str] | None):
    """Record batches with the wanted rows, which ascend."""
    arrow, begin = _arrow(), 0
    with arrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(AT_ONCE, columns=columns):
            low, high = np.searchsorted(wanted, [begin, begin + len(batch)])
            if low < high:
                yield batch.take(arrow.array(wanted[low:high] - begin))
            begin += len(batch)


def read_numbers(path: Path, column: str) -> np.ndarray:
    """float64 (rows,) of a column of numbers or truth values; nan where it is null."""
    with _arrow().parquet.ParquetFile(path) as file:
        return np.asarray(file.read([column]).column(0).to_numpy(), np.float64)


def columns_of(path: Path) -> list[str]:
    """Names of a file's columns. Raises DataError if it cannot be read."""
    arrow = _arrow()
    try:
        return arrow.parquet.read_schema(path).names
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"the table {path} cannot be read: {error}") from None
