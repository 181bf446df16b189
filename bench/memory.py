"""The command `memory`: each stage at published width, and what ComfyUI is to expect.

How it is made: the network at published width and size computes on torch's meta device, where operations have sizes
and no content, and the most that their results hold at once is counted (``measure.peak_activations``). Feed-forward
and temporal attention take as many values at a time there as on a GPU, so that the figures are those of a GPU as far as
torch's allocator goes; what CUDA libraries take for themselves is not in them. One window of frames and one condition;
with guidance ComfyUI runs two at once where they fit. "Held values" is the peak in numbers per frame and latent
pixel, which ``lavie_models/published.py`` keeps for the glue's estimate and the read-outs.
"""

from __future__ import annotations

import argparse

import torch

from ..lavie_models.dtypes import DTYPES
from ..lavie_models.published import PUBLISHED, Published
from ..tables import markdown_table
from .measure import peak_activations
from .subjects import published_forward

HEAD = ("stage", "dtype", "window", "weights", "activations", "at leisure", "clip's latents", "held values")


@torch.no_grad()
def measure(case: Published, dtype: torch.dtype, again: bool = True) -> tuple[int, int]:
    """Bytes that one forward holds beyond weights and inputs at most, and bytes of weights.

    ``again``: some layers are computed twice to hold less, as on a card that is short of memory.
    """
    unet, forward = published_forward(case, dtype, "meta", again)
    peak = peak_activations(forward, "meta")
    return peak, sum(parameter.nbytes for parameter in unet.parameters())


def held_values(case: Published, dtype: torch.dtype, peak: int) -> float:
    """A peak in numbers per frame and latent pixel, as ``Published.held_values`` has it."""
    height, width = case.latents
    return peak / (case.window * height * width * dtype.itemsize)


def row(name: str, case: Published, dtype: str) -> list[str]:
    """Cells of one line of the table, as `HEAD` names them."""
    peak, weights = measure(case, DTYPES[dtype])
    at_leisure, _ = measure(case, DTYPES[dtype], again=False)
    height, width = case.latents
    clip = case.clip * 4 * height * width * 4  # ComfyUI keeps latents in float32
    return [
        name, dtype, f"{case.window} x {case.pixels_per_latent * height} x {case.pixels_per_latent * width}",
        f"{weights / 1e9:.2f} GB", f"{peak / 1e9:.2f} GB", f"{at_leisure / 1e9:.2f} GB", f"{clip / 1e6:.0f} MB",
        f"{held_values(case, DTYPES[dtype], peak):.0f}",
    ]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = __doc__
    parser.add_argument("--stages", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))


def run(args: argparse.Namespace) -> int:
    """Print the table; returns the exit status."""
    rows = [row(stage, PUBLISHED[stage], dtype) for stage in args.stages for dtype in args.dtypes]
    print(markdown_table(HEAD, rows, "lll"))
    return 0
