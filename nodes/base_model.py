"""First step: the base text-to-video network as a MODEL."""

from __future__ import annotations

import folder_paths
import torch
from comfy_api.latest import io

from ..lavie_models.comfyui.model import load_model

FOLDERS = ("diffusion_models", "checkpoints")
WEIGHT_DTYPES = {
    "default": {},
    "fp32": {"dtype": torch.float32},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


def list_models() -> list[str]:
    """File names of all model folders that may hold a UNet, each once."""
    return list(dict.fromkeys(name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)))


def find_model(name: str) -> str:
    """Full path of a listed file. Raises FileNotFoundError saying where it was looked for."""
    for folder in FOLDERS:
        if path := folder_paths.get_full_path(folder, name):
            return path
    raise FileNotFoundError(
        f"{name} is in none of ComfyUI's model folders {', '.join(FOLDERS)}; put it into one of them and refresh"
    )


class LaVieBaseModelLoader(io.ComfyNode):
    """Load the base UNet as an ordinary MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieBaseModelLoader",
            display_name="Load LaVie Base Model",
            category="LaVie",
            description="Loads LaVie's text-to-video network. The MODEL works with the core samplers, LoRA loaders and "
            "patches made for Stable Diffusion 1.x.",
            search_aliases=["lavie", "text to video", "t2v", "video model"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=list_models(),
                    tooltip="File from models/diffusion_models or models/checkpoints: lavie_base as published (.pt or "
                    ".safetensors) or lavie_nano_base, which comes with this pack.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="How weights are kept in memory. default follows the file and the device; fp8 halves the "
                    "memory of fp16 at some loss.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="MODEL for any sampler; its latents hold one frame per batch entry.")],
        )

    @classmethod
    def execute(cls, model_name, weight_dtype) -> io.NodeOutput:
        return io.NodeOutput(load_model(find_model(model_name), "base", WEIGHT_DTYPES[weight_dtype]))
