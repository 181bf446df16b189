"""A folder of videos and images, with all folders inside it.

A caption lies beside its file (clip.mp4: clip.txt, else clip.json, see base.captions_in), else in a captions.csv at the
top of the folder (columns: see sources/table.py). Suffixes and "captions.csv" count in any case of letters; the stem is
the file's own. A file with several captions is as many entries. Shards (.tar) in it are read as such. Files and folders
whose name begins with a dot are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..catalogue import Skipped
from ..errors import DataError
from .base import CAPTION_SUFFIXES, Entry, captions_in, file_locator, kind_of
from .shards import scan_shard
from .table import read_captions

CAPTIONS_FILE = "captions.csv"


def captions_file(root: Path) -> Path | None:
    """The list of captions at the top of a folder."""
    return next(
        (path for path in sorted(root.iterdir()) if path.name.lower() == CAPTIONS_FILE and path.is_file()), None
    )


def scan_folder(root: Path) -> Iterator[Entry | Skipped]:
    """Entries in the order of their paths, then what is left over."""
    listed = captions_file(root)
    listed_captions = read_captions(listed) if listed else {}
    paths, unreadable = walk(root)
    for path, reason in unreadable:
        yield Skipped(show_name(f"{root.resolve().name}/{path.relative_to(root).as_posix()}"), reason)
    stems = {path.with_suffix("") for path in paths if kind_of(path.name)}
    beside = _caption_files(paths)
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
                captions = _captions(beside.get(path.with_suffix(""), {})) or listed_captions.get(inside, [""])
                locator = file_locator(path)
                yield from (Entry(key, kind, caption, locator) for caption in captions)
            except DataError as error:
                yield Skipped(key, str(error))
            except OSError as error:
                yield Skipped(key, f"the file cannot be read ({error.strerror})")
        elif path.suffix.lower() in CAPTION_SUFFIXES:
            if path.with_suffix("") not in stems:
                yield Skipped(key, "a caption without a video or image of its name")
            elif path != beside[path.with_suffix("")][path.suffix.lower()]:
                yield Skipped(key, "a second caption file of this name, its suffix in other letters")
        elif path != listed:
            yield Skipped(key, f"not a kind of video or image that is read ({path.suffix or 'no suffix'})")
    for inside in sorted(set(listed_captions) - named):
        yield Skipped(f"{root.resolve().name}/{listed.name}", f"listed but not there: {inside}")


def walk(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """(files and folders inside in order, what cannot be looked at with its reason). Links to folders are not followed;
    what begins with a dot is ignored; names that no list and no terminal can show are refused."""
    paths, unreadable, folders = [], [], [root]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError as error:
            unreadable.append((folder, f"the folder cannot be read ({error.strerror})"))
            continue
        for path in (folder / name for name in names):
            if not is_printable(path.name):
                unreadable.append((path, "a name that is not UTF-8 or has control characters; rename it"))
                continue
            paths.append(path)
            if path.is_dir() and not path.is_symlink():
                folders.append(path)
    return sorted(paths), sorted(unreadable)


def is_printable(name: str) -> bool:
    """Whether a name is UTF-8 without control characters."""
    return not any(ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0 or 0xD800 <= ord(sign) < 0xE000 for sign in name)


def show_name(name: str) -> str:
    """A name as it can be written into a file: what is not printable as an escape."""
    return "".join(sign if is_printable(sign) else sign.encode("unicode_escape").decode() for sign in name)


def _caption_files(paths: Iterable[Path]) -> dict[Path, dict[str, Path]]:
    """By path without suffix and by suffix in small letters; the first where case alone tells several apart."""
    found: dict[Path, dict[str, Path]] = {}
    for path in paths:
        if path.suffix.lower() in CAPTION_SUFFIXES and path.is_file():
            found.setdefault(path.with_suffix(""), {}).setdefault(path.suffix.lower(), path)
    return found


def _captions(files: dict[str, Path]) -> list[str]:
    for suffix in CAPTION_SUFFIXES:
        if suffix in files and (captions := captions_in(files[suffix].read_bytes(), suffix)):
            return captions
    return []
