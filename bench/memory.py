"""Memory of each stage at published width, and what ComfyUI is to expect: ``python -P -m comfyui_lavie.bench.memory``.

How it is made: the network at published width, with random weights, runs on small latents of two sizes; the peak of its
activations (``measure.peak_activations``) is a straight line over the latents' area, which the third, larger size
checks. The line is followed to the published size. Feed-forward and temporal attention take as many values at a time
as they do on a GPU, so that the figures are those of a GPU as far as torch's allocator goes; what CUDA libraries take
for themselves is not in them. One window of frames and one condition; with guidance ComfyUI runs two at once where they
fit. ``memory_usage_factor`` is the slope in ComfyUI's own unit (BaseModel.memory_required with fused attention).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from ..lavie_models import LaVieUNet, UNetConfig, transformer
from .measure import peak_activations

COMFYUI_UNIT = 0.01 * 1024**2  # bytes per latent pixel, byte of dtype and unit of memory_usage_factor
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Case:
    """A published case, and what is measured instead.

    Attributes:
        window, clip: frames that the network sees at once, and of the whole clip.
        latents: height and width of the published latents; ``factor`` pixels to a latent pixel.
        sizes: latents that are measured: two for the line, the last to check it.
    """

    config: UNetConfig
    window: int
    clip: int
    latents: tuple[int, int]
    factor: int
    sizes: tuple[tuple[int, int], ...]


CASES = {
    "base": Case(UNetConfig.base(), 16, 16, (40, 64), 8, ((16, 32), (24, 32), (40, 64))),
    "interpolation": Case(UNetConfig.interpolation(), 61, 61, (40, 64), 8, ((8, 16), (16, 16), (24, 32))),
    "super_resolution": Case(UNetConfig.super_resolution(), 8, 61, (320, 512), 4, ((32, 48), (48, 64), (64, 96))),
}


@dataclass(frozen=True)
class Line:
    """Peak activations in bytes: ``fixed`` + ``slope`` x latent pixels of a frame; the check's relative ``error``."""

    fixed: float
    slope: float
    error: float

    def at(self, pixels: int) -> float:
        return self.fixed + self.slope * pixels


@torch.no_grad()
def peak(unet: LaVieUNet, frames: int, height: int, width: int) -> int:
    """Bytes of activations that one forward holds at most."""
    config, weight = unet.config, next(unet.parameters())
    x = torch.randn(frames, config.in_channels, height, width).to(weight)
    text = torch.randn(1, 77, config.context_dim).to(weight)
    level = torch.tensor([50]) if config.architecture.noise_levels else None
    return peak_activations(lambda: unet(x, torch.tensor([500]), text, num_frames=frames, noise_level=level), "cpu")


def measure(case: Case, dtype: torch.dtype) -> tuple[Line, int]:
    """(line of the activations of one window, bytes of weights)."""
    unet = LaVieUNet(case.config, dtype=dtype).eval().channels_last()
    chunk, transformer.CHUNK_VALUES_CPU = transformer.CHUNK_VALUES_CPU, transformer.CHUNK_VALUES
    try:
        peaks = [peak(unet, case.window, height, width) for height, width in case.sizes]
    finally:
        transformer.CHUNK_VALUES_CPU = chunk
    areas = [height * width for height, width in case.sizes]
    slope = (peaks[1] - peaks[0]) / (areas[1] - areas[0])
    line = Line(peaks[0] - slope * areas[0], slope, 0.0)
    error = line.at(areas[2]) / peaks[2] - 1
    return Line(line.fixed, slope, error), sum(parameter.nbytes for parameter in unet.parameters())


def row(name: str, case: Case, dtype: torch.dtype) -> str:
    """One line of the table."""
    line, weights = measure(case, dtype)
    height, width = case.latents
    units = line.slope / case.window / dtype.itemsize / COMFYUI_UNIT
    clip = case.clip * 4 * height * width * 4  # ComfyUI keeps latents in float32
    return (
        f"| {name} | {str(dtype).removeprefix('torch.')} | {case.window} x {case.factor * height} x "
        f"{case.factor * width} | {weights / 1e9:.2f} GB | {line.at(height * width) / 1e9:.2f} GB | "
        f"{clip / 1e6:.0f} MB | {100 * line.error:+.1f} % | {units:.2f} |"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--stages", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print("| stage | dtype | window | weights | activations | clip's latents | line's error | memory_usage_factor |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for stage in args.stages:
        for dtype in args.dtypes:
            print(row(stage, CASES[stage], getattr(torch, dtype)), flush=True)


if __name__ == "__main__":
    main()
