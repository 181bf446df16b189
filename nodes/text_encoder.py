"""The text encoder of any stage as a CLIP."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..lavie_models.comfyui.text_encoder import load_text_encoder
from .inputs import checked

FOLDER = "text_encoders"


class LaVieTextEncoderLoader(io.ComfyNode):
    """Load CLIP ViT-L/14, OpenCLIP ViT-H or the nano text encoder as an ordinary CLIP."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieTextEncoderLoader",
            display_name="Load LaVie Text Encoder",
            category="LaVie",
            description="Loads the text encoder of a LaVie model as a CLIP for core text nodes: CLIP ViT-L/14 for base "
            "and interpolation, OpenCLIP ViT-H for super-resolution. The CLIP of Load Checkpoint (Stable Diffusion 1.x "
            "or 2.x) and of Load CLIP, type stable_diffusion, serves as well.",
            search_aliases=["lavie", "clip", "clip loader", "openclip", "prompt", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="File from models/text_encoders. Base and interpolation: CLIP ViT-L/14 of Stable Diffusion "
                    "1.x (768 wide). Super-resolution: OpenCLIP ViT-H of Stable Diffusion 2.x or its x4-upscaler (1024 "
                    "wide). The nano models: lavie_nano_text_encoder, which comes with this pack.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="CLIP for CLIP Text Encode and LoRA loaders; 77 tokens per chunk.")],
        )

    @classmethod
    @checked
    def execute(cls, text_encoder_name) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, text_encoder_name)
        return io.NodeOutput(load_text_encoder(path, folder_paths.get_folder_paths("embeddings")))
