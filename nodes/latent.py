"""Second step: the empty clip that a sampler fills."""

from __future__ import annotations

import functools
import math

import comfy.model_management
import torch
from comfy_api.latest import io

import nodes

from ..lavie_models.config import BASE_FACTOR, LATENT_CHANNELS
from .inputs import MAX_FRAMES, checked, refusal
from .notices import readable_bytes

COPIES = 4  # of a latent that a sampler holds at least: it, the noise, what it is at, what it becomes
# Entry of a LATENT that samplers pass on: pixels to a latent pixel of the VAE that is to decode it.
DECODED_BY = "lavie_pixels_per_latent"


def latent_shape(width: int, height: int, frames: int) -> tuple[int, int, int, int]:
    """(frames, 4, height / 8, width / 8). Raises ValueError naming the nearest sizes that fit."""
    for name, pixels in (("width", width), ("height", height)):
        if pixels < BASE_FACTOR or pixels % BASE_FACTOR:
            below = max(BASE_FACTOR, pixels - pixels % BASE_FACTOR)
            raise ValueError(
                f"{name} must be a multiple of {BASE_FACTOR} pixels, got {pixels}; use {below} or "
                f"{below + BASE_FACTOR}"
            )
    return frames, LATENT_CHANNELS, height // BASE_FACTOR, width // BASE_FACTOR


def empty_latent(shape: tuple[int, int, int, int], factor: int = BASE_FACTOR) -> dict:
    """A LATENT of zeros, (frames, channels, height, width), that says which VAE it is for.

    Raises:
        ValueError: if this computer has not the memory for it.
    """
    device = comfy.model_management.intermediate_device()
    needed, there = COPIES * 4 * math.prod(shape), comfy.model_management.get_total_memory(device)
    if needed > there:
        raise ValueError(
            f"{shape[0]} frames of {shape[3] * factor} x {shape[2] * factor} pixels take {readable_bytes(needed)} as "
            f"latents alone, this device has {readable_bytes(there)}; use fewer or smaller frames"
        )
    samples = torch.zeros(shape, device=device)
    return {"samples": samples, DECODED_BY: factor}


class EmptyLaVieLatent(io.ComfyNode):
    """An empty clip: the batch axis holds its frames."""

    @classmethod
    def define_schema(cls):
        size = {"min": BASE_FACTOR, "max": nodes.MAX_RESOLUTION, "step": BASE_FACTOR}
        return io.Schema(
            node_id="EmptyLaVieLatent",
            display_name="Empty LaVie Latent",
            category="LaVie",
            description="An empty latent video for the base model: one clip whose frames lie on the batch axis.",
            search_aliases=["lavie", "empty latent video", "frames"],
            inputs=[
                io.Int.Input(
                    "width", default=512, **size,
                    tooltip="Frame width in pixels, a multiple of 8. Trained at 512, nano at 64.",
                ),
                io.Int.Input(
                    "height", default=320, **size,
                    tooltip="Frame height in pixels, a multiple of 8. Trained at 320, nano at 64.",
                ),
                io.Int.Input(
                    "frames", default=16, min=1, max=MAX_FRAMES,
                    tooltip="Frames of the clip. Trained at 16 (two seconds at 8 per second); for many more add a "
                    "context windows node.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="Zeros of shape (frames, 4, height / 8, width / 8).")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, width=None, height=None) -> bool | str:
        return refusal(cls, functools.partial(latent_shape, frames=1), width=width, height=height)

    @classmethod
    @checked
    def execute(cls, width, height, frames) -> io.NodeOutput:
        return io.NodeOutput(empty_latent(latent_shape(width, height, frames)))
