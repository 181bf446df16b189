"""What a file is, by its content: not by its name, its place or the time of its last change.

Contract: the fast hash reads five blocks of 64 KiB, spread evenly, or all of a file that is no longer than they are; it
tells footage apart, not a byte that somebody changes on purpose: for that there is the full hash. A file's content is
compared once per process, and again when its size or time of change differs from what it was then.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Any

from .errors import DataError

BLOCK, BLOCKS = 1 << 16, 5
KINDS = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}

_seen: dict[tuple, str] = {}
_lock = threading.Lock()


def check_regular(path: Path) -> os.stat_result:
    """Its state. Raises OSError if it is not there, DataError if it is no regular file: those may block for ever."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for test, name in KINDS.items() if test(state.st_mode)), "a folder")
        raise DataError(f"not a file: {kind}")
    return state


def hash_content(path: Path, offset: int = 0, size: int | None = None, full: bool = False) -> str:
    """32 hexadecimal digits of a file's content, or of ``size`` bytes of it from ``offset`` on. Raises OSError."""
    whole = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size if size is None else size
        whole.update(b"full" if full else b"fast")
        whole.update(str(size).encode())
        for start, length in [(0, size)] if full else _blocks(size):
            file.seek(offset + start)
            while length and (part := file.read(min(length, BLOCK))):
                whole.update(part)
                length -= len(part)
    return whole.hexdigest()


def _blocks(size: int) -> list[tuple[int, int]]:
    if size <= BLOCK * BLOCKS:
        return [(0, size)]
    return [(i * (size - BLOCK) // (BLOCKS - 1), BLOCK) for i in range(BLOCKS)]


def check_content(locator: dict[str, Any]) -> Path:
    """The path of what a locator means. Raises DataError if it is gone, or its content is not what was listed.

    A "full" hash that the locator has, `prepare --full-hash`, is compared instead of the fast one.
    """
    path = Path(locator["path"])
    offset, size, full = locator.get("offset", 0), locator.get("size"), "full" in locator
    try:
        state = check_regular(path)
        if state.st_size != locator["bytes"]:
            raise DataError(f"its content has changed: {state.st_size} bytes, listed with {locator['bytes']}")
        place = (str(path), offset, size, full, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        with _lock:
            found = _seen.get(place)
        if found is None:
            found = hash_content(path, offset, size, full)
            with _lock:
                _seen[place] = found
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})") from None
    if found != locator["full" if full else "content"]:
        raise DataError("its content has changed since it was listed")
    return path
