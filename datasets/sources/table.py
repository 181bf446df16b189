"""A list of videos and images: CSV, TSV or Parquet.

Columns: `path` (or file_name, file, video), relative to the list's folder or absolute; `caption` (or text, prompt);
optionally `start` and `end` in seconds, for a part of a video. Other columns are ignored. Columns count in any case of
letters; a path may be written with backslashes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from ..catalogue import Skipped
from ..errors import DataError
from .base import CAPTION_KEYS, Entry, clean, file_locator, kind_of

PATH_COLUMNS = ("path", "file_name", "file", "video")


def check_table(path: Path) -> None:
    """Raises DataError if the list cannot be read or lacks a column for paths or captions."""
    _columns(path, next(_rows(path), {}))


def scan_table(path: Path) -> Iterator[Entry | Skipped]:
    """Entries in the order of the list."""
    for number, row in enumerate(_rows(path), 2 if path.suffix.lower() != ".parquet" else 1):
        path_column, caption_column = _columns(path, row)
        name = row[path_column]
        if not isinstance(name, str) or not name.strip():
            yield Skipped(f"{path.name}:{number}", f"no {path_column}")
            continue
        yield _entry(path, f"{path.name}/{name.strip()}", name.strip(), clean(row[caption_column]), row)


def read_captions(path: Path) -> dict[str, list[str]]:
    """Captions by path, of a list that only captions files; a path may be there several times."""
    columns = _columns(path, next(_rows(path), {}))
    captions: dict[str, list[str]] = {}
    for row in _rows(path):
        if name := str(row[columns[0]] or "").strip():
            captions.setdefault(_located(path.parent, name).as_posix(), []).append(clean(row[columns[1]]))
    return captions


def _located(folder: Path, name: str) -> PurePath:
    """A path as listed, or with the separators of another system where it is not there as listed."""
    return PurePath(name.replace("\\", "/") if "\\" in name and not (folder / name).exists() else name)


def _entry(listed_in: Path, key: str, name: str, caption: str, row: dict[str, Any]) -> Entry | Skipped:
    kind, part = kind_of(name), {}
    if "://" in name:
        return Skipped(key, "an address, not a file: download it first")
    if kind is None:
        return Skipped(key, f"not a kind of video or image that is read ({Path(name).suffix or 'no suffix'})")
    try:
        for column in ("start", "end"):
            if row.get(column) not in (None, ""):
                part[column] = float(row[column])
        locator = file_locator(listed_in.parent / _located(listed_in.parent, name))
    except DataError as error:
        return Skipped(key, str(error))
    except ValueError:
        return Skipped(key, f"not a time in seconds: {column} is {row[column]!r}")
    except OSError as error:
        return Skipped(key, f"the file cannot be read ({error.strerror})")
    if part:
        if kind == "image" or not 0 <= part.get("start", 0.0) < part.get("end", float("inf")):
            return Skipped(key, f"no part of {'an image' if kind == 'image' else 'a video'}: {part}")
        key = f"{key}#{part.get('start', 0.0):g}-{part.get('end', '')}"
    return Entry(key, kind, caption, {**locator, **part})


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet_rows(path)
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
                yield from map(_small_letters, rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the list {path} cannot be read: {error}") from None


def _small_letters(row: dict[str, Any]) -> dict[str, Any]:
    return {str(column).strip().lower(): value for column, value in row.items()}


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs the package pyarrow (extra `training`)") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from map(_small_letters, batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise DataError(f"the list {path} cannot be read: {error}") from None


def _columns(path: Path, row: dict[str, Any]) -> tuple[str, str]:
    found = [next((name for name in names if name in row), None) for names in (PATH_COLUMNS, CAPTION_KEYS)]
    if None in found:
        raise DataError(
            f"the list {path} needs a column of {', '.join(PATH_COLUMNS)} and one of {', '.join(CAPTION_KEYS)}; it "
            f"has {', '.join(map(str, row)) or 'no rows'}"
        )
    return found[0], found[1]
