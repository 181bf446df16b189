"""Runs a command that must not outlive whoever asked for it: `python -I keeper.py COMMAND ...`.

Contract: standard library only. The command ends when standard input does, which happens however its owner ends, by
`kill -9` too; it is asked first and forced after GRACE_S. On Linux it also ends when this keeper is killed, as Ray does
with the children of an actor that died. The exit status is the command's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

GRACE_S = 15
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


def end(process: subprocess.Popen) -> None:
    """End a process, by force if it does not end by itself."""
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def die_with_parent() -> None:
    """Called in the child before the command begins."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Run the command until it ends or the owner does."""
    bound = die_with_parent if sys.platform == "linux" else None
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=bound)

    def watch() -> None:
        while os.read(0, 1):
            pass
        end(process)

    threading.Thread(target=watch, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
