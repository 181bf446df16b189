"""Each stage at published size on random weights: seconds, share of the peak, memory beside the estimate."""

from __future__ import annotations

import statistics

import torch

from ...lavie_models.dtypes import DTYPES
from ...lavie_models.published import PUBLISHED
from ...tables import markdown_table
from ..measure import count_flops, peak_activations, seconds
from ..subjects import published_forward
from . import machine
from .setting import Setting

TITLE = "Stages at published size"
READS = ()


@torch.no_grad()
def measure(setting: Setting) -> dict:
    """{"stage dtype": figures}; compiled on CUDA alone."""
    found = {}
    for dtype in setting.dtypes:
        rate = machine.rate(setting, dtype)
        for stage in PUBLISHED:
            found[f"{stage} {dtype}"] = {**_stage(setting, stage, dtype), "matrix_rate": rate}
    return found


def _stage(setting: Setting, stage: str, dtype: str) -> dict:
    published = setting.published(stage)
    figures = {"expected": published.held_bytes(published.window, *published.latents, DTYPES[dtype].itemsize)}
    unet = None
    for again, kind in ((True, "frugal"), (False, "eager")):
        unet, forward = published_forward(published, DTYPES[dtype], setting.device, again, unet)
        if again:
            figures["flops"] = count_flops(forward)
        figures[kind] = _seconds(forward, setting)
        figures[f"{kind}_memory"] = peak_activations(forward, setting.device)
    if setting.device == "cuda":
        _, forward = published_forward(published, DTYPES[dtype], setting.device, False, torch.compile(unet))
        figures["compiled"] = _seconds(forward, setting)
    return figures


def _seconds(forward, setting: Setting) -> float:
    """The median of some runs after two that warm up."""
    times = [seconds(forward, setting.device)[0] for _ in range(2 + setting.repeats)]
    return statistics.median(times[2:])


def report(result: dict) -> str:
    """One row per stage and format."""
    about = (
        "One window of frames, one condition. Frugal: as on a card that is short of memory. Share: of the rate of "
        "matrix products that this run reached. Expected: what ComfyUI is told, without the margin for libraries."
    )
    head = ("stage", "TFLOP", "seconds", "compiled", "share", "memory", "frugal: seconds", "memory", "expected")
    return about + "\n\n" + markdown_table(head, [_row(name, figures) for name, figures in result.items()])


def _row(name: str, figures: dict) -> list[str]:
    fastest = min(figures["eager"], figures.get("compiled", figures["eager"]))
    return [
        name, f"{figures['flops'] / 1e12:.3g}", f"{figures['eager']:.3g}",
        f"{figures['compiled']:.3g}" if "compiled" in figures else "-",
        f"{figures['flops'] / fastest / figures['matrix_rate']:.0%}", f"{figures['eager_memory'] / 1e9:.2f} GB",
        f"{figures['frugal']:.3g}", f"{figures['frugal_memory'] / 1e9:.2f} GB", f"{figures['expected'] / 1e9:.2f} GB",
    ]  # fmt: skip
