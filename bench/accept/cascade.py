"""Text to a super-resolved, interpolated video through a real ComfyUI server, held to several sizes of memory.

With published weights the published template, else the one of the small models that come with this pack.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...comfyui_api.graphs import load_workflow, set_inputs
from ...comfyui_api.server import ComfyUIServer
from ...place import workflow_file
from ...tables import markdown_table
from .server import serving
from .setting import Setting

TITLE = "The whole cascade in ComfyUI"
READS = ("models", "vram")
SAMPLERS = ("KSampler", "SamplerCustomAdvanced")
LOOK_S = 0.2


def measure(setting: Setting) -> dict:
    """{memory: {"workflow", "seconds", "stages": seconds of each sampler, "peak": bytes beyond those before}}."""
    found = {}
    for gigabytes in (None, *setting.vram):
        with serving(setting, tuple(_arguments(setting, gigabytes))) as server:
            found["all" if gigabytes is None else f"{gigabytes:g} GB"] = _run(setting, server)
    return found


def _arguments(setting: Setting, gigabytes: float | None) -> Iterator[str]:
    if gigabytes is not None and setting.device == "cuda":  # ComfyUI leaves the rest of the card alone
        total = torch.cuda.get_device_properties(0).total_memory / 1024**3
        yield from ("--reserve-vram", f"{max(0.0, total - gigabytes):.2f}")


def _run(setting: Setting, server: ComfyUIServer) -> dict:
    name = "LaVie 05 Cascade - 4x frames and 4x size.json" if setting.models else "lavie_nano_cascade.json"
    api = load_workflow(workflow_file(name), server.object_info())
    if setting.toy:
        set_inputs(api, steps=1, frames=2)
    seen: dict[str, list[float]] = {}

    def progress(node: str, _done: int, _total: int) -> None:
        if api.get(node, {}).get("class_type") in SAMPLERS:
            seen.setdefault(node, []).append(time.perf_counter())

    start = time.perf_counter()
    with _watched(server) as free:
        server.run(api, progress)
    stages = [times[-1] - times[0] for times in seen.values()]
    return {
        "workflow": name, "seconds": time.perf_counter() - start, "stages": stages, "peak": max(free) - min(free)
    }  # fmt: skip


@contextmanager
def _watched(server: ComfyUIServer) -> Iterator[list[int]]:
    """Bytes free on the server's device, looked up again and again while the block runs."""
    free, done = [_free(server)], threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            free.append(_free(server))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield free
    finally:
        done.set()
        watcher.join()


def _free(server: ComfyUIServer) -> int:
    return server.get("/system_stats")["devices"][0]["vram_free"]


def report(result: dict) -> str:
    """One row per size of memory."""
    head = ("memory", "workflow", "seconds", "of which samplers, first step to last", "peak")
    rows = [
        (memory, row["workflow"], f"{row['seconds']:.1f}", ", ".join(f"{one:.1f}" for one in row["stages"]),
         f"{row['peak'] / 1e9:.2f} GB")
        for memory, row in result.items()
    ]  # fmt: skip
    return markdown_table(head, rows, "ll")
