"""An entry of a source, looking inside it, and reading an item again.

Locators: {"source": "file", "path", "bytes", "modified"}, with "start" and "end" (seconds) for a part of a video;
{"source": "tar", ..., "offset", "size"} for a member of an uncompressed tar file; `probe` adds "origin", the file's own
time of frame 0, to those of videos. {"source": "shapes", "split", "seed"} for generated ones, with "only" where their
words are restricted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogue import PREPARE, Item, Skipped
from ..errors import DataError
from ..media import Source, decode_image, decode_video, probe_image, probe_video
from . import synthetic

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
CAPTION_SUFFIXES = (".txt", ".json")
CAPTION_KEYS = ("caption", "text", "prompt")
NAMED = 10  # how many files an error lists


@dataclass(frozen=True)
class Entry:
    """One video or image that a source names; `caption` is empty if there is none."""

    key: str
    kind: str
    caption: str
    locator: dict[str, Any]


def kind_of(name: str) -> str | None:
    """What a file is by the suffix of its name: "video", "image", or None."""
    suffix = Path(name).suffix.lower()
    return "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else None


def file_locator(path: Path, source: str = "file") -> dict[str, Any]:
    """Where a file lies and what tells it from a changed one. Raises OSError if it is not there."""
    stat = path.stat()
    return {"source": source, "path": str(path.resolve()), "bytes": stat.st_size, "modified": stat.st_mtime_ns}


def clean(caption: Any) -> str:
    """A caption on one line, single spaces; anything but text is no caption."""
    return " ".join(caption.split()) if isinstance(caption, str) else ""


def caption_in(content: bytes, suffix: str) -> str:
    """The caption in a .txt or .json file; empty if it holds none. Raises DataError if it is damaged."""
    try:
        text = content.decode("utf-8-sig")
        if suffix == ".txt":
            return clean(text)
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"its caption file ({suffix}) cannot be read: {error}") from None
    if not isinstance(value, dict):
        return clean(value)
    return next((caption for key in CAPTION_KEYS if (caption := clean(value.get(key)))), "")


def probe(entry: Entry, decode: bool = True) -> Item | Skipped:
    """Look inside. With `decode` all frames of videos are decoded (see `media.probe_video`)."""
    locator = dict(entry.locator)
    try:
        source = _open(locator)
        if entry.kind == "image":
            found = probe_image(source)
        else:
            found = probe_video(source, locator.get("start", 0.0), locator.get("end"), decode)
            locator["origin"] = found.origin
    except DataError as error:
        return Skipped(entry.key, str(error))
    return Item(entry.key, entry.kind, entry.caption, found.frames, found.fps, found.width, found.height, locator)


def read_frames(item: Item, indices: Sequence[int]) -> np.ndarray:
    """Frames of an item, (len(indices), height, width, 3) uint8; indices ascend. Raises DataError naming the item."""
    try:
        if item.locator["source"] == "shapes":
            return synthetic.render_frames(item, indices)
        source = _open(item.locator)
        if item.kind == "image":
            pictures = [decode_image(source)] * len(indices)
        else:
            times = [item.locator["origin"] + (i + 0.5) / (item.fps or 1.0) for i in indices]
            pictures = decode_video(source, times)
        for picture in pictures:
            if picture.shape != (item.height, item.width, 3):
                raise DataError(f"expected pictures of {item.width}x{item.height}, got {picture.shape[1::-1]}")
        return np.stack(pictures)
    except DataError as error:
        raise DataError(f"{item.key}: {error}. {_advice(item)}") from None


def _advice(item: Item) -> str:
    return f"It was readable when it was prepared ({item.locator['path']}); repeat {PREPARE} to leave it out"


def check_files(items: Iterable[Item]) -> None:
    """Raises DataError naming the files that are gone or have changed since they were prepared; opens none of them."""
    first_of = {item.locator["path"]: item for item in items if "path" in item.locator}
    problems = []
    for path, item in first_of.items():
        try:
            _unchanged(item.locator)
        except DataError as error:
            problems.append(f"{path}: {error}")
    if problems:
        more = f"\nand {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        listed = "\n".join(problems[:NAMED])
        raise DataError(f"{len(problems)} of {len(first_of)} files cannot be used; {PREPARE} again:\n{listed}{more}")


def _unchanged(locator: dict[str, Any]) -> Path:
    """The path of a file. Raises DataError if it is not what it was."""
    path = Path(locator["path"])
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})") from None
    if (stat.st_size, stat.st_mtime_ns) != (locator["bytes"], locator["modified"]):
        raise DataError("the file has changed since it was listed")
    return path


def _open(locator: dict[str, Any]) -> Source:
    """The path of a file, or the bytes of a member of a tar file. Raises DataError if it is not what it was."""
    path = _unchanged(locator)
    if locator["source"] == "file":
        return path
    try:
        with path.open("rb") as file:
            file.seek(locator["offset"])
            content = file.read(locator["size"])
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})") from None
    if len(content) < locator["size"]:
        raise DataError("the shard ends in the middle of it")
    return content
