"""Step from a clip to interpolation: every output frame is given the latent of the input frame it stems from."""

from __future__ import annotations

import node_helpers
import torch
from comfy_api.latest import io

from ..lavie_models.comfyui.model import SOURCE_LATENTS
from ..lavie_models.conditioning import interpolated_frames, interpolation_sources
from .frames import encode_frames, whole_latents
from .inputs import checked
from .latent import empty_latent
from .notices import tell


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
                    "unconnected if you use this.",
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
    @checked
    def execute(cls, positive, negative, latent=None, frames=None, vae=None) -> io.NodeOutput:
        if (latent is None) == (frames is None):
            raise ValueError(
                "connect either latent or frames, not both" if frames is not None
                else "connect the clip: a sampler's latent to latent, or a video's images to frames with their vae"
            )  # fmt: skip
        clip = latent["samples"] if frames is None else frames
        sources = interpolation_sources(clip.shape[0])
        if frames is not None:
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
