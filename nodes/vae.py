"""The autoencoder between frames and latents as a VAE."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..lavie_models.comfyui.vae import load_vae
from .inputs import checked

FOLDER = "vae"


class LaVieVAELoader(io.ComfyNode):
    """Load Stable Diffusion's autoencoder, the x4-upscaler's or the nano one as an ordinary VAE."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieVAELoader",
            display_name="Load LaVie VAE",
            category="LaVie",
            description="Loads the autoencoder between frames and latents, as a VAE for the core decode, encode and "
            "tiled nodes: Stable Diffusion's for base and interpolation, the x4-upscaler's for super-resolution. The "
            "VAE of Load Checkpoint with a Stable Diffusion 1.x checkpoint serves as well.",
            search_aliases=["lavie", "vae", "vae loader", "decode", "autoencoder", "x4 upscaler"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="File from models/vae. Base and interpolation: a Stable Diffusion 1.x VAE (such as "
                    "vae-ft-mse-840000-ema-pruned). Super-resolution: the VAE of Stable Diffusion's x4-upscaler, which "
                    "runs in bf16 or fp32, never in fp16. With this pack come lavie_nano_vae and, for its "
                    "super-resolution, lavie_nano_upscaler_vae.",
                ),
            ],
            outputs=[
                io.Vae.Output(
                    tooltip="VAE with 4 latent channels, 8 x 8 pixels per latent pixel (the x4-upscaler's: 4 x 4)."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, vae_name) -> io.NodeOutput:
        return io.NodeOutput(load_vae(folder_paths.get_full_path_or_raise(FOLDER, vae_name)))
