"""What kind of source a path is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..catalogue import Skipped
from ..errors import DataError
from .base import Entry
from .folder import captions_file, scan_folder
from .shards import scan_shard
from .table import check_table, scan_table

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


def check_source(path: Path) -> None:
    """Raises DataError if nothing can be read from a source as a whole."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        if listed := captions_file(path):
            check_table(listed)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        check_table(path)
    elif path.suffix.lower() != ".tar":
        raise DataError(f"{path}: expected a folder, a list ({', '.join(TABLE_SUFFIXES)}) or a shard (.tar)")


def scan(path: Path) -> Iterator[Entry | Skipped]:
    """Everything that a source names, in a stable order. Raises DataError as `check_source` does."""
    check_source(path)
    if path.is_dir():
        return scan_folder(path)
    return scan_shard(path, path.name) if path.suffix.lower() == ".tar" else scan_table(path)
