"""The published networks in numbers: sizes, windows, rates, and what a forward of each takes.

Contract: written down once. The glue takes `memory_usage_factor` from here, the nodes their windows, the benchmarks
their cases, and the browser its read-outs (by the route of `nodes/readout.py`). `held_values` is measured, by
`bench memory` on the network itself; a test measures it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .config import BASE_FACTOR, UPSCALER_FACTOR, UNetConfig


class Crop(NamedTuple):
    """What a row of a published training holds: frames, images beside them, height and width of latents."""

    frames: int
    images: int
    height: int
    width: int


@dataclass(frozen=True)
class Published:
    """One stage.

    Attributes:
        config: sizes of the network.
        window: frames that it was trained on, and that it sees at a time.
        overlap: frames that neighbouring windows of a longer clip share.
        clip: frames that it makes in a full cascade, which begins with 16.
        latents: height and width of the latents.
        pixels_per_latent: along each edge.
        rate: frames per second of what it makes.
        crop: a row of its training.
        held_values: numbers that a forward without gradients holds at once beyond weights and inputs, per frame and
            latent pixel, in any dtype.
        held_values_at_leisure: the same where nothing is computed again to save memory.
    """

    config: UNetConfig
    window: int
    overlap: int
    clip: int
    latents: tuple[int, int]
    pixels_per_latent: int
    rate: int
    crop: Crop
    held_values: int
    held_values_at_leisure: int

    def held_bytes(self, frames: int, height: int, width: int, itemsize: int) -> int:
        """Activations at the peak of one forward on ``frames`` latents of ``height`` x ``width``."""
        return self.held_values * frames * height * width * itemsize


PUBLISHED = {
    "base": Published(
        config=UNetConfig.base(), window=16, overlap=8, clip=16, latents=(40, 64),
        pixels_per_latent=BASE_FACTOR, rate=8, crop=Crop(16, 4, 40, 64), held_values=3943, held_values_at_leisure=3943,
    ),
    "interpolation": Published(  # its windows begin at input frames, every fourth, as the clips of its training do
        config=UNetConfig.interpolation(), window=61, overlap=13, clip=61, latents=(40, 64),
        pixels_per_latent=BASE_FACTOR, rate=24, crop=Crop(61, 0, 32, 32), held_values=2346,
        held_values_at_leisure=2346,
    ),
    "super_resolution": Published(
        config=UNetConfig.super_resolution(), window=8, overlap=4, clip=61, latents=(320, 512),
        pixels_per_latent=UPSCALER_FACTOR, rate=8, crop=Crop(8, 0, 80, 80), held_values=1665,
        held_values_at_leisure=2369,
    ),
}  # fmt: skip
