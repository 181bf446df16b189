"""Tiny networks, data and recipes for the tests of training; real ones, of a size that a CPU trains in a second."""

from __future__ import annotations

import json
from pathlib import Path

import comfyui_lavie
import torch
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.nano.build import RECIPES
from comfyui_lavie.nano.source import shapes
from comfyui_lavie.training.recipe import Recipe
from comfyui_lavie.training.recipe_file import read_recipe
from diffusers import AutoencoderKL
from safetensors.torch import save_file

WEIGHTS = Path(comfyui_lavie.__file__).parent / "weights"
TEXT, VAE = WEIGHTS / "text_encoders/lavie_nano_text_encoder.safetensors", WEIGHTS / "vae/lavie_nano_vae.safetensors"
SIZES = {
    "block_channels": [32, 64], "attention_levels": [True, True], "num_heads": 1, "layers_per_block": 1,
    "context_dim": 64,
}  # fmt: skip
# Changes that make any shipped recipe a tiny one; `tiny_recipe` adds paths.
TINY = {
    "data.buckets": [{"frames": 5, "height": 32, "width": 32, "rows": 2}],
    "optimizer.warmup": 1, "optimizer.lr": 1e-3,
    "run.steps": 2, "run.save_every": 1, "run.precision": "no", "run.workers": 1, "run.threads": 1, "run.log_every": 1,
    "run.decay": 0,
}  # fmt: skip


def make_catalogue(folder: Path, videos: int = 12, images: int = 12, size: int = 48) -> Path:
    """A catalogue of generated shapes."""
    Catalogue.of(shapes(videos, images, "train", size, frames=16)).save(folder)
    return folder


def make_unet(stage: str = "base", seed: int = 0, **sizes) -> LaVieUNet:
    """A tiny UNet whose temporal layers have an effect."""
    torch.manual_seed(seed)
    unet = LaVieUNet(getattr(UNetConfig, stage)(**{**SIZES, **sizes}))
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


def save_unet(unet: LaVieUNet, path: Path, prediction: str = "epsilon") -> Path:
    """A file as the pack's own exports are."""
    config = unet.config
    about = {"lavie.stage": config.stage, "lavie.config": json.dumps(config.to_dict()), "lavie.prediction": prediction}
    save_file({key: value.contiguous() for key, value in unet.state_dict().items()}, path, about)
    return path


def make_upscaler_vae(folder: Path) -> Path:
    """A diffusers folder of a VAE of factor 4, as the x4-upscaler has."""
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=8,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, scaling_factor=0.08333,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def settings(**values) -> list[str]:
    """Keyword arguments such as ``run__steps=3`` as a recipe's changes."""
    return [f"{key.replace('__', '.')}={_toml(value)}" for key, value in values.items()]


def recipe_named(name: str) -> str:
    """What names a shipped recipe to the commands: the small world's by their files, the others by name."""
    path = RECIPES / f"{name}.toml"
    return str(path) if path.exists() else name


def tiny_recipe(name: str, folder: Path, catalogue: Path, **values) -> Recipe:
    """A shipped recipe made tiny, its run in ``folder``; ``values`` as in `settings`."""
    places = {
        "data.catalogues": [str(catalogue)], "run.out": str(folder), "encoders.text": str(TEXT),
        "encoders.vae": str(VAE), "encoders.cache": "",
    }  # fmt: skip
    return read_recipe(recipe_named(name), settings(**{**TINY, **places, **values}))


def _toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
