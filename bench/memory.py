"""Memory of each stage at published width, and what ComfyUI is to expect: ``python -P -m comfyui_lavie.bench.memory``.

How it is made: the network at published width and size computes on torch's meta device, where operations have sizes
and no content, and the most that their results hold at once is counted (``measure.peak_activations``). Feed-forward
and temporal attention take as many values at a time there as on a GPU, so that the figures are those of a GPU as far as
torch's allocator goes; what CUDA libraries take for themselves is not in them. One window of frames and one condition;
with guidance ComfyUI runs two at once where they fit. ``memory_usage_factor`` is the peak in ComfyUI's own unit
(BaseModel.memory_required with fused attention).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from ..lavie_models import LaVieUNet, UNetConfig
from .measure import peak_activations

COMFYUI_UNIT = 0.01 * 1024**2  # bytes per latent pixel, byte of dtype and unit of memory_usage_factor
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Case:
    """A published case.

    Attributes:
        window, clip: frames that the network sees at once, and of the whole clip.
        latents: height and width of the latents; ``factor`` pixels to a latent pixel.
    """

    config: UNetConfig
    window: int
    clip: int
    latents: tuple[int, int]
    factor: int


CASES = {
    "base": Case(UNetConfig.base(), 16, 16, (40, 64), 8),
    "interpolation": Case(UNetConfig.interpolation(), 61, 61, (40, 64), 8),
    "super_resolution": Case(UNetConfig.super_resolution(), 8, 61, (320, 512), 4),
}


def _fused_attention(q, k, v, heads, mask=None, transformer_options=None):
    """What a fused kernel leaves behind: its result, no scores."""
    return torch.empty_like(q)


@torch.no_grad()
def measure(case: Case, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that one forward holds beyond weights and inputs at most, and bytes of weights."""
    config, frames = case.config, case.window
    made = {"dtype": dtype, "device": "meta"}
    unet = LaVieUNet(config, attention=_fused_attention, **made).eval().channels_last()
    x = torch.empty(frames, config.in_channels, *case.latents, **made)
    text = torch.empty(1, 77, config.context_dim, **made)
    timestep = torch.empty(1, device="meta")
    level = timestep if config.architecture.noise_levels else None
    peak = peak_activations(lambda: unet(x, timestep, text, num_frames=frames, noise_level=level), "meta")
    return peak, sum(parameter.nbytes for parameter in unet.parameters())


def units(case: Case, dtype: torch.dtype, peak: int) -> float:
    """A peak in ComfyUI's unit: the memory_usage_factor that would just cover it."""
    height, width = case.latents
    return peak / (case.window * height * width * dtype.itemsize * COMFYUI_UNIT)


def row(name: str, case: Case, dtype: torch.dtype) -> str:
    """One line of the table."""
    peak, weights = measure(case, dtype)
    height, width = case.latents
    clip = case.clip * 4 * height * width * 4  # ComfyUI keeps latents in float32
    return (
        f"| {name} | {str(dtype).removeprefix('torch.')} | {case.window} x {case.factor * height} x "
        f"{case.factor * width} | {weights / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {clip / 1e6:.0f} MB | "
        f"{units(case, dtype, peak):.2f} |"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--stages", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    args = parser.parse_args(argv)
    print("| stage | dtype | window | weights | activations | clip's latents | memory_usage_factor |")
    print("|---|---|---|---:|---:|---:|---:|")
    for stage in args.stages:
        for dtype in args.dtypes:
            print(row(stage, CASES[stage], getattr(torch, dtype)), flush=True)


if __name__ == "__main__":
    main()
