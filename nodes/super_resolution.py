"""Step from a clip to super-resolution: its frames, noised a little, are what the network works from."""

from __future__ import annotations

import comfy.model_management
import node_helpers
import torch
from comfy_api.latest import io

from ..lavie_models.comfyui.model import LOW_RESOLUTION, NOISE_LEVEL
from ..lavie_models.conditioning import MAX_NOISE_LEVEL, PUBLISHED_NOISE_LEVEL, UPSCALE, noise_low_resolution
from ..lavie_models.config import LATENT_CHANNELS, UPSCALER_FACTOR
from .frames import decoded_bytes
from .inputs import checked
from .latent import empty_latent
from .notices import readable_bytes, tell

LEAST_PIXELS = 8  # of a low-resolution frame's edge: what three halvings of the network leave as one


class LaVieSuperResolutionConditioning(io.ComfyNode):
    """Prompts and frames of h x w pixels -> conditioning and an empty latent for frames of 4h x 4w."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieSuperResolutionConditioning",
            display_name="LaVie Super-Resolution Conditioning",
            category="LaVie",
            description="Prepares frames for the super-resolution model, which makes them four times as wide and high. "
            "Any size will do; the result is exactly four times it.",
            search_aliases=["lavie", "super resolution", "upscale video", "4x", "noise augmentation"],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the clip shows, from the OpenCLIP ViT-H text encoder. Published: the base prompt.",
                ),
                io.Conditioning.Input(
                    "negative", tooltip='What it must not show. Published: "blur, worst quality".'
                ),
                io.Image.Input("frames", tooltip="The clip at low resolution, such as 512 x 320; any length."),
                io.Int.Input(
                    "noise_level", default=PUBLISHED_NOISE_LEVEL, min=0, max=MAX_NOISE_LEVEL,
                    tooltip="Noise added to the frames before the network sees them, 0 to 350. With more noise the "
                    "network invents more detail and keeps less of the frames. Published: 50.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of that noise: the same seed and frames give the same conditioning.",
                ),
                io.Boolean.Input(
                    "constant_noise", default=False, optional=True,
                    tooltip="Every frame begins with the same noise of the sampler: less flicker. Off: noise of its "
                    "own for each frame, as published.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the noised frames and their level."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same frames."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Empty; decode the sampler's result with the x4-upscaler's VAE.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, positive, negative, frames, noise_level, seed, constant_noise=False) -> io.NodeOutput:
        count, height, width = frames.shape[:3]
        if min(height, width) < LEAST_PIXELS:
            raise ValueError(
                f"frames must be at least {LEAST_PIXELS} x {LEAST_PIXELS} pixels, got {width} x {height}"
            )
        tell(cls, plan(count, height, width, comfy.model_management.get_free_memory(torch.device("cpu"))))
        pixels = frames[..., :3].movedim(-1, 1) * 2 - 1
        noise = torch.randn(pixels.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(pixels)
        noised = noise_low_resolution(pixels, noise, torch.tensor(noise_level))
        values = {LOW_RESOLUTION: noised, NOISE_LEVEL: noise_level}
        positive, negative = (node_helpers.conditioning_set_values(c, values) for c in (positive, negative))
        latent = empty_latent((count, LATENT_CHANNELS, height, width), UPSCALER_FACTOR)
        if constant_noise:
            latent["batch_index"] = [0] * count  # where ComfyUI's samplers look for which noise a frame gets
        return io.NodeOutput(positive, negative, latent)


def plan(count: int, height: int, width: int, free_bytes: int) -> str:
    """What will come out, and whether all frames at once fit into this computer's memory."""
    height, width = height * UPSCALE, width * UPSCALE
    size = decoded_bytes(count, height, width)
    text = f"{count} frames -> {width} x {height} pixels; decoded {readable_bytes(size)}"
    if 2 * size > free_bytes:  # a node that works on images holds its input and its output
        text += (
            f", of {readable_bytes(free_bytes)} free: use LaVie Decode to Video, which holds a few frames at a time, "
            "or upscale fewer frames"
        )
    return text
