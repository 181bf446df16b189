"""A folder of videos and images, with all folders inside it.

A caption lies beside its file (clip.mp4: clip.txt, else clip.json with "caption", "text" or "prompt"), else in a
captions.csv at the top of the folder (columns: see sources/table.py). Shards (.tar) in it are read as such. Files and
folders whose name begins with a dot are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..catalogue import Skipped
from ..errors import DataError
from .base import CAPTION_SUFFIXES, Entry, caption_in, clean, file_locator, kind_of
from .shards import scan_shard
from .table import read_captions

CAPTIONS_FILE = "captions.csv"


def scan_folder(root: Path) -> Iterator[Entry | Skipped]:
    """Entries in the order of their paths, then what is left over."""
    listed = root / CAPTIONS_FILE
    listed_captions = read_captions(listed) if listed.is_file() else {}
    paths = sorted(p for p in root.rglob("*") if not any(part[0] == "." for part in p.relative_to(root).parts))
    stems = {path.with_suffix("") for path in paths if kind_of(path.name)}
    named = set()
    for path in paths:
        inside = path.relative_to(root).as_posix()
        key = f"{root.resolve().name}/{inside}"
        if path.is_dir():
            if path.is_symlink():
                yield Skipped(key, "a link to a folder; name that folder as a source of its own")
        elif path.suffix.lower() == ".tar":
            yield from scan_shard(path, key)
        elif kind := kind_of(path.name):
            named.add(inside)
            try:
                caption = _beside(path) or clean(listed_captions.get(inside))
                yield Entry(key, kind, caption, file_locator(path))
            except (DataError, OSError) as error:
                yield Skipped(key, str(error))
        elif path.suffix.lower() in CAPTION_SUFFIXES:
            if path.with_suffix("") not in stems:
                yield Skipped(key, "a caption without a video or image of its name")
        elif path != listed:
            yield Skipped(key, f"not a kind of video or image that is read ({path.suffix or 'no suffix'})")
    for inside in sorted(set(listed_captions) - named):
        yield Skipped(f"{root.resolve().name}/{CAPTIONS_FILE}", f"names {inside}, which is not there")


def _beside(path: Path) -> str:
    for suffix in CAPTION_SUFFIXES:
        file = path.with_suffix(suffix)
        if file.is_file() and (caption := caption_in(file.read_bytes(), suffix)):
            return caption
    return ""
