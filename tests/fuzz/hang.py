"""Whose code a server hangs in, told from its log: a prompt worker that died, or the stack of one that works on.

Contract: the server runs `tests/values_node.py`, which writes all stacks into the log at SIGUSR1.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from comfyui_lavie.comfyui_api.server import ComfyUIServer

from .outcome import HANG_S, LIBRARY, PACK, Outcome

DIED = "Exception in thread"
PLACE = re.compile(r'File "([^"]+)", line (\d+),? in (\S+)')
WORKER = "execution.py"  # ComfyUI's, on the stack of the thread that runs prompts
WRITTEN_S = 1.0  # for the stacks


def judge_hang(server: ComfyUIServer) -> Outcome:
    """*hang: ours* if the innermost line of this pack's or ComfyUI's own code is this pack's; *hang: core's* else."""
    log = _read(server)
    if DIED in log:
        return told_by_stack("the prompt worker died", PLACE.findall(log.rpartition(DIED)[2])[::-1])
    os.kill(server_process(server), signal.SIGUSR1)
    time.sleep(WRITTEN_S)
    threads = _read(server)[len(log) :].split("\n\n")
    stack = next((PLACE.findall(thread) for thread in threads if WORKER in thread), [])
    return told_by_stack(f"no end within {HANG_S:g} s", stack)


def told_by_stack(what: str, stack: list[tuple[str, str, str]]) -> Outcome:
    """The outcome of a stack, (file, line, function) innermost first."""
    code = [place for place in stack if not any(mark in place[0] for mark in LIBRARY)]
    where = "/".join(Path(code[0][0]).parts[-2:]) + ":{} in {}".format(*code[0][1:]) if code else "no known place"
    return Outcome("hang: ours" if code and PACK in code[0][0] else "hang: core's", f"{what}: {where}")


def server_process(server: ComfyUIServer) -> int:
    """The process id of ComfyUI itself: of those that the server's keeper started, the largest."""
    waiting, found = [server.pid], {}
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        found[int(process.name)] = int(status.get("VmRSS", "0 kB").split()[0])
        waiting += (process / "task" / process.name / "children").read_text().split()
    return max(found, key=found.get)


def _read(server: ComfyUIServer) -> str:
    return server.log_path.read_text(encoding="utf-8", errors="replace")
