"""Second step: the empty clip that a sampler fills."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

import nodes

LATENT_CHANNELS = 4
PIXELS_PER_LATENT = 8
MAX_FRAMES = 4096
# Entry of a LATENT that samplers pass on: pixels to a latent pixel of the VAE that is to decode it.
DECODED_BY = "lavie_pixels_per_latent"


def latent_shape(width: int, height: int, frames: int) -> tuple[int, int, int, int]:
    """(frames, 4, height / 8, width / 8). Raises ValueError naming the nearest sizes that fit."""
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    for name, pixels in (("width", width), ("height", height)):
        if pixels < PIXELS_PER_LATENT or pixels % PIXELS_PER_LATENT:
            below = max(PIXELS_PER_LATENT, pixels - pixels % PIXELS_PER_LATENT)
            raise ValueError(
                f"{name} must be a multiple of {PIXELS_PER_LATENT} pixels, got {pixels}; use {below} or "
                f"{below + PIXELS_PER_LATENT}"
            )
    return frames, LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT


def empty_latent(shape: tuple[int, int, int, int], pixels_per_latent: int = PIXELS_PER_LATENT) -> dict:
    """A LATENT of zeros, (frames, channels, height, width), that says which VAE it is for."""
    samples = torch.zeros(shape, device=comfy.model_management.intermediate_device())
    return {"samples": samples, DECODED_BY: pixels_per_latent}


class EmptyLaVieLatent(io.ComfyNode):
    """An empty clip: the batch axis holds its frames."""

    @classmethod
    def define_schema(cls):
        size = {"min": PIXELS_PER_LATENT, "max": nodes.MAX_RESOLUTION, "step": PIXELS_PER_LATENT}
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
    def validate_inputs(cls, width, height) -> bool | str:
        try:
            latent_shape(width, height, frames=1)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, width, height, frames) -> io.NodeOutput:
        return io.NodeOutput(empty_latent(latent_shape(width, height, frames)))
