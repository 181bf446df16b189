"""Step behind super-resolution: its frames with the colours of those that they were made of."""

from __future__ import annotations

from comfy_api.latest import io

from ..lavie_models.comfyui.color import LARGEST_RADIUS, LEAST_RADIUS, RADIUS, correct_clip
from .inputs import checked


class LaVieColorCorrection(io.ComfyNode):
    """Enlarged frames and the small ones -> enlarged frames without shifts of colour."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieColorCorrection",
            display_name="LaVie Color Correction",
            category="LaVie",
            description="Gives enlarged frames the colours and the shading of the small ones, frame by frame, and "
            "keeps their fine detail. For images of any upscaler.",
            search_aliases=["lavie", "color match", "color fix", "wavelet", "color transfer", "super resolution"],
            inputs=[
                io.Image.Input("images", tooltip="The enlarged frames."),
                io.Image.Input(
                    "reference", tooltip="The frames that they were made of: as many, of the same shape, smaller."
                ),
                io.Float.Input(
                    "radius", default=RADIUS, min=LEAST_RADIUS, max=LARGEST_RADIUS, step=LEAST_RADIUS,
                    tooltip="Where detail ends and colour begins, in pixels of the reference: standard deviation of a "
                    "Gaussian. A larger one takes less of the reference: its colours, but not its blur or its noise.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="Of the same size and number.")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, images, reference, radius) -> io.NodeOutput:
        return io.NodeOutput(correct_clip(images, reference, radius))
