"""An entry of a source, looking inside it, and reading an item again.

Locators: {"source": "file", "path", "bytes", "content"}, with "start" and "end" (seconds) for a part of a video and
"crop" (left, top, width, height; upright pixels) for a part of its pictures;
{"source": "tar", ..., "offset", "size"} for a member of an uncompressed tar file; `probe` adds "origin", the file's own
time of frame 0, to those of videos. {"source": "generated", "module", ...} for what a module of this package renders by
`render_frames(item, indices)`; the rest of the locator is that module's.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogue import PREPARE, Item, Skipped
from ..content import check_content, check_regular, hash_content
from ..errors import DataError
from ..media import Source, decode_image, decode_video, probe_image, probe_video

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


def file_locator(path: Path) -> dict[str, Any]:
    """Where a file lies and what tells it from another. Raises OSError if it is not there, DataError if it is none."""
    size = check_regular(path).st_size
    return {"source": "file", "path": str(path.resolve()), "bytes": size, "content": hash_content(path)}


def member_locator(path: Path, offset: int, size: int) -> dict[str, Any]:
    """Where a member of a tar file lies and what tells it from another. Raises OSError."""
    place = {"source": "tar", "path": str(path.resolve()), "bytes": path.stat().st_size, "offset": offset, "size": size}
    return place | {"content": hash_content(path, offset, size)}


def clean(caption: Any) -> str:
    """A caption on one line, single spaces; anything but text is no caption."""
    return " ".join(caption.split()) if isinstance(caption, str) else ""


def captions_in(content: bytes, suffix: str) -> list[str]:
    """The captions in a .txt or .json file, none if it holds none. Raises DataError if it is damaged.

    A .txt file is one caption. JSON is a text, a list of texts, or an object that has either under one of CAPTION_KEYS
    or its plural, or a list of such objects.
    """
    try:
        text = content.decode("utf-8-sig")
        return _captions_of(text if suffix == ".txt" else json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"its caption file cannot be read: {suffix}, {error}") from None


def _captions_of(value: Any) -> list[str]:
    if isinstance(value, list):
        return list(dict.fromkeys(caption for one in value for caption in _captions_of(one)))
    if isinstance(value, dict):
        named = (_captions_of(value.get(name)) for key in CAPTION_KEYS for name in (key, f"{key}s"))
        return next((captions for captions in named if captions), [])
    return [caption] if (caption := clean(value)) else []


def probe(entry: Entry, decode: bool = True, full_hash: bool = False) -> Item | Skipped:
    """Look inside. With `decode` all frames of videos are decoded (see `media.probe_video`)."""
    locator = dict(entry.locator)
    try:
        if full_hash:
            place = Path(locator["path"])
            locator["full"] = hash_content(place, locator.get("offset", 0), locator.get("size"), full=True)
        source = open_locator(locator)
        if entry.kind == "image":
            found = probe_image(source)
        else:
            found = probe_video(source, locator.get("start", 0.0), locator.get("end"), decode)
            locator["origin"] = found.origin
        check_unchanged(locator)
    except (DataError, OSError) as error:
        return Skipped(entry.key, str(error))
    return Item(entry.key, entry.kind, entry.caption, found.frames, found.fps, found.width, found.height, locator)


def read_frames(item: Item, indices: Sequence[int]) -> np.ndarray:
    """Frames of an item, (len(indices), height, width, 3) uint8; indices ascend. Raises DataError naming the item."""
    try:
        if item.locator["source"] == "generated":
            return _generator(item.locator["module"]).render_frames(item, indices)
        source = open_locator(item.locator)
        if item.kind == "image":
            pictures = [decode_image(source)] * len(indices)
        else:
            times = [item.locator["origin"] + (i + 0.5) / (item.fps or 1.0) for i in indices]
            pictures = decode_video(source, times)
        if crop := item.locator.get("crop"):
            left, top, width, height = crop
            pictures = [picture[top : top + height, left : left + width] for picture in pictures]
        for picture in pictures:
            if picture.shape != (item.height, item.width, 3):
                raise DataError(f"expected pictures of {item.width}x{item.height}, got {picture.shape[1::-1]}")
        return np.stack(pictures)
    except DataError as error:
        raise DataError(f"{item.key}: {error}. {_advice(item)}") from None


def _generator(name: str):
    """A module of this package that renders items. Raises DataError for any other name, which a file might hold."""
    package = __package__.split(".")[0]
    try:
        if not name.startswith(f"{package}."):
            raise ImportError(f"{name} is no module of {package}")
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"the generator of its frames cannot be had: {error}") from None


def _advice(item: Item) -> str:
    place = item.locator.get("path", item.locator["source"])
    return f"It was readable when it was prepared ({place}); repeat {PREPARE} to leave it out"


def find_missing(items: Iterable[Item]) -> tuple[list[str], int]:
    """(paths that are not there any more or have another size, number of paths); opens none of them."""
    sizes = {item.locator["path"]: item.locator["bytes"] for item in items if "path" in item.locator}
    return [path for path, size in sizes.items() if not _has_size(path, size)], len(sizes)


def describe_missing(paths: list[str], count: int) -> str:
    """In words, with some examples."""
    more = f", and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return f"{len(paths)} of {count} files are gone or changed: {', '.join(paths[:NAMED])}{more}; {PREPARE} again"


def _has_size(path: str, size: int) -> bool:
    try:
        return Path(path).stat().st_size == size
    except OSError:
        return False


def check_unchanged(locator: dict[str, Any]) -> Path:
    """The path of a file. Raises DataError if it is gone or has another content."""
    return check_content(locator)


def open_locator(locator: dict[str, Any]) -> Source:
    """The path of a file, or the bytes of a member of a tar file. Raises DataError if it is not what it was."""
    path = check_unchanged(locator)
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
