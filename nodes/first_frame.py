"""Step before sampling with a first-frame-conditioned base network: the frame that its clip begins with."""

from __future__ import annotations

import node_helpers
from comfy_api.latest import io

from ..lavie_models.comfyui.model import SOURCE_LATENTS
from .frames import encode_frames, whole_latents
from .inputs import checked


class LaVieFirstFrameConditioning(io.ComfyNode):
    """Prompts and a frame -> prompts that carry the frame as the clip's first."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieFirstFrameConditioning",
            display_name="LaVie First Frame Conditioning",
            category="LaVie",
            description="Gives a first-frame-conditioned base model the frame that its clip begins with. The published "
            "base is not such a model: extend its clips with LaVie Extend Video, or hold frames with a noise mask.",
            search_aliases=["lavie", "image to video", "i2v", "start image", "first frame"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the clip shows."),
                io.Conditioning.Input("negative", tooltip="What it must not show."),
                io.Latent.Input(
                    "latent", optional=True,
                    tooltip="The frame as a latent, such as the last one of a clip (Latent From Batch). If it holds "
                    "several frames, the first is used. Leave image unconnected if you use this.",
                ),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="The frame as an image; needs vae. If there are several, the first is used. It is cropped "
                    "around the centre to multiples of 8 pixels; the latent must have its size.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes image: the VAE that the base model uses."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the first frame."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same frame."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, positive, negative, latent=None, image=None, vae=None) -> io.NodeOutput:
        if (latent is None) == (image is None):
            raise ValueError("connect the first frame, either as latent or as image with its vae")
        if latent is not None:
            frame = latent["samples"][:1]
        elif vae is None:
            raise ValueError("image needs a VAE: connect the one that the base model uses to vae")
        else:
            frame = encode_frames(vae, whole_latents(image[:1]))
        values = {SOURCE_LATENTS: frame}
        positive, negative = (node_helpers.conditioning_set_values(c, values) for c in (positive, negative))
        return io.NodeOutput(positive, negative)
