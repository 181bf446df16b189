"""First step of each stage: its network as a MODEL."""

from __future__ import annotations

import folder_paths
import torch
from comfy_api.latest import io

from ..lavie_models.comfyui.model import load_model
from ..lavie_models.dtypes import DTYPES
from .inputs import checked

FOLDERS = ("diffusion_models", "checkpoints")
WEIGHT_DTYPES = {
    "default": {},
    **{name: {"dtype": DTYPES[name]} for name in ("fp32", "bf16", "fp16")},
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


class ModelLoader(io.ComfyNode):
    """What the loaders of all stages share; a stage adds its texts."""

    STAGE: str
    DISPLAY_NAME: str
    DESCRIPTION: str
    ALIASES: list[str]
    FILES: str
    OUTPUT: str

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=cls.__name__,
            display_name=cls.DISPLAY_NAME,
            category="LaVie",
            description=cls.DESCRIPTION,
            search_aliases=["lavie", *cls.ALIASES],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=list_models(),
                    tooltip=f"File from models/diffusion_models or models/checkpoints: {cls.FILES}.",
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
            outputs=[io.Model.Output(tooltip=cls.OUTPUT)],
        )

    @classmethod
    @checked
    def execute(cls, model_name, weight_dtype) -> io.NodeOutput:
        return io.NodeOutput(load_model(find_model(model_name), cls.STAGE, WEIGHT_DTYPES[weight_dtype]))


class LaVieBaseModelLoader(ModelLoader):
    """Load the base UNet as an ordinary MODEL."""

    STAGE = "base"
    DISPLAY_NAME = "Load LaVie Base Model"
    DESCRIPTION = (
        "Loads LaVie's text-to-video network. The MODEL works with the core samplers, LoRA loaders and patches made "
        "for Stable Diffusion 1.x."
    )
    ALIASES = ["text to video", "t2v", "video model"]
    FILES = (
        "lavie_base as published (.pt or .safetensors) or lavie_nano_base, which comes with this pack"
    )
    OUTPUT = "MODEL for any sampler; its latents hold one frame per batch entry."


class LaVieInterpolationModelLoader(ModelLoader):
    """Load the temporal interpolation UNet as an ordinary MODEL."""

    STAGE = "interpolation"
    DISPLAY_NAME = "Load LaVie Interpolation Model"
    DESCRIPTION = (
        "Loads LaVie's temporal interpolation network, which makes 4 (n - 1) + 1 frames out of n. Prompts reach it "
        "through LaVie Interpolation Conditioning."
    )
    ALIASES = ["interpolation", "frame interpolation", "slow motion", "tsr", "fps"]
    FILES = (
        "lavie_interpolation as published (.pt or .safetensors) or lavie_nano_interpolation, which comes with this pack"
    )
    OUTPUT = "MODEL for any sampler, with the conditioning and latent of LaVie Interpolation Conditioning."


class LaVieSuperResolutionModelLoader(ModelLoader):
    """Load the video super-resolution UNet as an ordinary MODEL."""

    STAGE = "super_resolution"
    DISPLAY_NAME = "Load LaVie Super-Resolution Model"
    DESCRIPTION = (
        "Loads LaVie's video super-resolution network, which makes frames four times as wide and high. Prompts reach "
        "it through LaVie Super-Resolution Conditioning."
    )
    ALIASES = ["super resolution", "upscale", "video upscaler", "vsr", "4x"]
    FILES = (
        "lavie_vsr as published (.pt or .safetensors) or lavie_nano_super_resolution, which comes with this pack"
    )
    OUTPUT = "MODEL for any sampler, with the conditioning and latent of LaVie Super-Resolution Conditioning."
