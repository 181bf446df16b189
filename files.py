"""Files that appear whole or not at all.

Contract: standard library only; any room may import this. A file is written in a folder of its own beside its target
and moved to it once it is whole: no reader meets a part of it, an interruption or a full disk leaves nothing, and what
bore the target's name before is lost only to a whole successor. What a killed process leaves is swept when the next
file is written there: the lock on the folder has ended with its writer. The lock is the folder's, since some libraries
(safetensors) put another file in the place of the one that they were given.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed, and a folder not be opened
    fcntl = None

PART = ".lavie-part"  # ending of folders with a file that is not whole yet
WINDOWS_AGE_S = 60  # a closed file is about to be moved


@contextlib.contextmanager
def whole_file(target: str | Path, durable: bool = True) -> Iterator[Path]:
    """A path to write to, which becomes ``target`` at the end of the block, or goes if the block raises.

    Args:
        durable: wait until the disk has the content, so that the file is whole after a power cut too.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    target = Path(os.path.realpath(target))  # a link stays, and what it points to is replaced
    sweep(target.parent)
    with _own_folder(target.parent) as folder:
        part = folder / "part"
        yield part
        os.chmod(part, folder.stat().st_mode & 0o666)  # as the umask has it, whatever mode a writer gives to its files
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, target)


def write_atomically(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines, which bring their own line ends, as a whole file in UTF-8."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def sha256_of(path: str | Path) -> str:
    """64 hexadecimal digits of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def sweep(folder: str | Path, deep: bool = False) -> int:
    """Remove the parts in ``folder``, if ``deep`` below it too, that no process is writing; returns how many."""
    removed = 0
    for part in list(Path(folder).glob(f"{'**/' if deep else ''}.*{PART}/")):
        with contextlib.suppress(OSError):  # another process was faster, or is writing it
            if fcntl:
                with _locked(part, wait=False):
                    shutil.rmtree(part)
            elif time.time() - max(one.stat().st_mtime for one in (part, *part.iterdir())) > WINDOWS_AGE_S:
                shutil.rmtree(part)
            removed += not part.exists()
    return removed


@contextlib.contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent`` that no sweep removes during the block; at its end it goes."""
    while True:
        folder = parent / f".{secrets.token_hex(8)}{PART}"
        folder.mkdir()
        with contextlib.ExitStack() as held:
            with contextlib.suppress(FileNotFoundError):  # a sweep came between making and locking: make another
                held.enter_context(_locked(folder, wait=True))
            if folder.exists():
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder)
                return


@contextlib.contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold the lock of a folder, where there are locks. Raises BlockingIOError if it is held and ``wait`` is False."""
    if not fcntl:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:
                raise  # some network folders have no locks: then nobody sweeps there either
        yield
    finally:
        os.close(handle)
