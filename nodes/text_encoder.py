"""The text encoder as a CLIP."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..lavie_models.comfyui.text_encoder import load_text_encoder

FOLDER = "text_encoders"


class LaVieTextEncoderLoader(io.ComfyNode):
    """Load CLIP ViT-L/14 or the nano text encoder as an ordinary CLIP."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieTextEncoderLoader",
            display_name="Load LaVie Text Encoder",
            category="LaVie",
            description="Loads the text encoder that LaVie's base and interpolation models read, as a CLIP for core "
            "text nodes. The CLIP output of Load Checkpoint with a Stable Diffusion 1.x checkpoint serves as well.",
            search_aliases=["lavie", "clip", "clip loader", "prompt", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="File from models/text_encoders: CLIP ViT-L/14 of Stable Diffusion 1.x (768 wide) for the "
                    "published models, lavie_nano_text_encoder for the small ones that come with this pack.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="CLIP for CLIP Text Encode and LoRA loaders; 77 tokens per chunk.")],
        )

    @classmethod
    def execute(cls, text_encoder_name) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, text_encoder_name)
        return io.NodeOutput(load_text_encoder(path, folder_paths.get_folder_paths("embeddings")))
