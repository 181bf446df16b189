"""One process at a time in a folder.

Contract: the operating system holds the lock and drops it when its process ends, however it ends, so that a lock file
that a killed process leaves behind locks nothing. The file names the holder for whoever comes second. Network folders
that know no locks are not protected.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK_FILE = ".lavie.lock"
FAR = 1 << 20  # Windows: the byte that is locked, behind all text, which stays readable


@contextlib.contextmanager
def locked_folder(folder: str | Path, work: str) -> Iterator[None]:
    """Hold the lock of `folder`, which exists, for the block. `work`: what is done there, in a word or two.

    Raises DataError naming host, process and start of the holder if another process has it.
    """
    path = Path(folder) / LOCK_FILE
    file = _take(path)
    if file is None:
        raise DataError(f"{folder} is in use: {_holder(path)}. Wait for it, end it, or choose another folder")
    with file:
        file.truncate(0)
        about = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time(), "work": work}
        file.write(json.dumps(about) + "\n")
        file.flush()
        try:
            yield
        finally:
            if fcntl:  # Windows does not remove what is open; a file that nobody locks does no harm
                path.unlink(missing_ok=True)


def _take(path: Path):
    """The open and locked file; None if another process holds it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                file.seek(FAR)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                return file  # a network folder without locks: nobody is protected there
            file.close()
            return None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder ended and removed it between opening and locking


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["since"]))
        return f"process {about['process']} on {about['host']} does {about['work']} there since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, which is just beginning or ending, holds its lock"
