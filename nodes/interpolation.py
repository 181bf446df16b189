"""Step from a clip to interpolation: every output frame is given the latent of the input frame it stems from."""

from __future__ import annotations

import node_helpers
import torch
from comfy_api.latest import io

from ..lavie_models.comfyui.model import SOURCE_LATENTS
from ..lavie_models.conditioning import interpolated_frames, interpolation_sources
from .latent import LATENT_CHANNELS, PIXELS_PER_LATENT, empty_latent
from .notices import tell

ENCODE_FRAMES = 8  # frames that the VAE sees at a time


def whole_latents(images: torch.Tensor) -> torch.Tensor:
    """Frames (F, H, W, C) cropped around their centre to multiples of 8 pixels, RGB. Raises ValueError if too small."""
    height, width = (size - size % PIXELS_PER_LATENT for size in images.shape[1:3])
    if not height or not width:
        raise ValueError(
            f"frames must be at least {PIXELS_PER_LATENT} x {PIXELS_PER_LATENT} pixels, got {images.shape[2]} x "
            f"{images.shape[1]}"
        )
    top, left = ((size - kept) // 2 for size, kept in zip(images.shape[1:3], (height, width), strict=True))
    return images[:, top : top + height, left : left + width, :3]


def encode_frames(vae, images: torch.Tensor) -> torch.Tensor:
    """Latents (F, 4, H/8, W/8) of frames (F, H, W, 3), a few frames at a time.

    Raises:
        ValueError: if the VAE has another factor than the base model's.
    """
    factor = vae.spacial_compression_encode()
    if factor != PIXELS_PER_LATENT:
        raise ValueError(
            f"interpolation needs the VAE of Stable Diffusion 1.x with {PIXELS_PER_LATENT} pixels to a latent pixel, "
            f"got one with {factor}; the x4-upscaler's VAE belongs to super-resolution alone"
        )
    return torch.cat([vae.encode(part) for part in images.split(ENCODE_FRAMES)])


class LaVieInterpolationConditioning(io.ComfyNode):
    """Prompts and a clip of n frames -> conditioning and an empty latent of 4 (n - 1) + 1 frames."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieInterpolationConditioning",
            display_name="LaVie Interpolation Conditioning",
            category="LaVie",
            description="Prepares a clip for the interpolation model: n frames become 4 (n - 1) + 1, three new ones "
            "between each two. Give frames with their VAE, or the latent of a sampler.",
            search_aliases=["lavie", "interpolation", "frame interpolation", "slow motion"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip='What the clip shows. Published: the base prompt with ", 4k." after it.'
                ),
                io.Conditioning.Input(
                    "negative", tooltip='What it must not show. Published: the single word "None".'
                ),
                io.Latent.Input(
                    "latent", optional=True,
                    tooltip="The clip as a latent of at least 2 frames, such as the base sampler's. Leave frames "
                    "unconnected then.",
                ),
                io.Image.Input(
                    "frames", optional=True,
                    tooltip="The clip as at least 2 frames, such as those of an existing video; needs vae. Cropped "
                    "around the centre to multiples of 8 pixels.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Encodes frames, 8 at a time: the VAE that the base model uses."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With each output frame's source latent."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same latents."),
                io.Latent.Output(display_name="latent", tooltip="Empty, 4 (n - 1) + 1 frames, for the sampler."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, positive, negative, latent=None, frames=None, vae=None) -> io.NodeOutput:
        if (latent is None) == (frames is None):
            raise ValueError(
                "connect either latent or frames, not both" if frames is not None
                else "connect the clip: a sampler's latent to latent, or a video's images to frames with their vae"
            )  # fmt: skip
        clip = latent["samples"] if frames is None else frames
        sources = interpolation_sources(clip.shape[0])
        if frames is None:
            if clip.ndim != 4 or clip.shape[1] != LATENT_CHANNELS:
                raise ValueError(
                    f"expected a latent of (frames, {LATENT_CHANNELS}, height, width), got {tuple(clip.shape)}; use "
                    "one of the base model's"
                )
        else:
            if vae is None:
                raise ValueError("frames need a VAE: connect the one that the base model uses to vae")
            whole = whole_latents(frames)
            cropped = "" if whole.shape[1:3] == frames.shape[1:3] else f", cropped from {_size(frames)}"
            clip = encode_frames(vae, whole)
        count = interpolated_frames(clip.shape[0])
        text = f"{clip.shape[0]} frames -> {count} frames"
        tell(cls, text if frames is None else f"{text} of {_size(whole)} pixels{cropped}")
        values = {SOURCE_LATENTS: clip[sources]}
        positive, negative = (node_helpers.conditioning_set_values(c, values) for c in (positive, negative))
        return io.NodeOutput(positive, negative, empty_latent((count, *clip.shape[1:])))


def _size(frames: torch.Tensor) -> str:
    return f"{frames.shape[2]} x {frames.shape[1]}"
