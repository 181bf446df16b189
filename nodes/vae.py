"""The autoencoder between frames and latents as a VAE."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..lavie_models.comfyui.vae import load_vae

FOLDER = "vae"


class LaVieVAELoader(io.ComfyNode):
    """Load Stable Diffusion's autoencoder or the nano one as an ordinary VAE."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieVAELoader",
            display_name="Load LaVie VAE",
            category="LaVie",
            description="Loads the autoencoder between frames and latents, as a VAE for the core decode, encode and "
            "tiled nodes. The VAE output of Load Checkpoint with a Stable Diffusion 1.x checkpoint serves as well.",
            search_aliases=["lavie", "vae", "vae loader", "decode", "autoencoder"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="File from models/vae: a Stable Diffusion 1.x VAE (such as vae-ft-mse-840000-ema-pruned) "
                    "for the published models, lavie_nano_vae for the small ones that come with this pack.",
                ),
            ],
            outputs=[io.Vae.Output(tooltip="VAE with 4 latent channels, 8 pixels per latent pixel.")],
        )

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        return io.NodeOutput(load_vae(folder_paths.get_full_path_or_raise(FOLDER, vae_name)))
