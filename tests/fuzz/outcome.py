"""How a prompt ended, told from the server's own history: done, refused, told, or raw, and by whose fault.

Contract: an error is *told* if the code of this pack raised it on purpose: its last line of the stack trace is a
`raise` of ours. All else is *raw*: ours if the innermost line of this pack's or ComfyUI's own code is this pack's, or
the node that failed is one of this pack's; core's otherwise. Libraries, and what ComfyUI's layers do on behalf of a
network, count as neither.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from comfyui_lavie.comfyui_api.client import Client, NotServed

HANG_S = 60.0
FRAME = re.compile(r'File "([^"]+)", line \d+, in [^\n]*\n\s+([^\n]*)')
LIBRARY = ("site-packages", "/comfy/ops.py", "/python3.", "<frozen")
PACK = "/custom_nodes/lavie/"
KINDS = ("done", "refused", "told", "interrupted", "raw: ours", "raw: core's", "hang: ours", "hang: core's")


class Hang(Exception):
    """A prompt does not end."""


@dataclass(frozen=True)
class Outcome:
    """One of KINDS, with what was said."""

    kind: str
    text: str = ""


def run_prompt(server: Client, api: dict, started: Callable[[], None] | None = None) -> Outcome:
    """Queue a prompt and wait for its end; raises Hang if it does not end within HANG_S.

    ``started`` is called once the prompt is queued.
    """
    try:
        prompt = server.post("/prompt", {"prompt": api})["prompt_id"]
    except NotServed as error:
        return Outcome("refused", error.body.decode(errors="replace")[:400])
    if started:
        started()
    began = time.monotonic()
    while not (entry := server.get(f"/history/{prompt}").get(prompt)):
        if time.monotonic() - began > HANG_S:
            raise Hang
        time.sleep(0.02)
    return judge(entry["status"])


def judge(status: dict) -> Outcome:
    """The outcome of a prompt's ``status`` in the history."""
    messages = dict(status["messages"])
    if "execution_interrupted" in messages:
        return Outcome("interrupted")
    error = messages.get("execution_error")
    if error is None:
        return Outcome("done")
    frames = FRAME.findall("".join(error["traceback"]))
    text = f"{error['node_type']}: {error['exception_type']}: {error['exception_message']}".strip()
    code = [(file, line) for file, line in frames if not any(mark in file for mark in LIBRARY)]
    ours = [PACK in file for file, _ in code]
    if code and ours[-1] and frames[-1] == code[-1] and code[-1][1].startswith("raise"):
        return Outcome("told", text)
    return Outcome("raw: ours" if "LaVie" in error["node_type"] or (ours and ours[-1]) else "raw: core's", text)
