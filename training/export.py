"""The command `export`: a run's result as the files that ComfyUI loads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ..lavie_models import UNetConfig
from ..lavie_models.checkpoint import export_published
from ..lavie_models.dtypes import DTYPES
from ..lavie_models.metadata import CONFIG, DATA, PREDICTION, SEED, STAGE, START, STEP
from ..lavie_models.weights_file import write_weights
from .checkpoints import Checkpoints
from .errors import TrainingError
from .lora import FORMATS, export_lora, pairs
from .recipe import Recipe
from .recipe_file import recipe_of_run
from .start import source_of_state

NAMES = ("comfyui", "published")
DESCRIPTION = """\
Write the newest whole checkpoint of a run as safetensors.

A model goes into ComfyUI/models/diffusion_models and is loaded by this pack's loader nodes, under ComfyUI's names or
the published (diffusers) ones. A LoRA goes into ComfyUI/models/loras and is loaded by ComfyUI's own Load LoRA; "kohya"
is what most programs read, "diffusers" what diffusers writes. The file says what it is: stage, sizes, prediction, step,
seed, and fingerprints of its data and of what it started from.
"""
EPILOG = """\
examples:
  export runs/base --out ComfyUI/models/diffusion_models/my_lavie.safetensors
  export runs/base --out my_lavie_fp32.safetensors --dtype fp32 --names published
  export runs/lora --out ComfyUI/models/loras/orange.safetensors --format diffusers
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("run", type=Path, help="folder of a run (run.out of its recipe)")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="default: fp16")
    parser.add_argument("--names", choices=NAMES, default="comfyui", help="of a model's weights; default: comfyui")
    parser.add_argument("--format", choices=FORMATS, default="kohya", help="of a LoRA; default: kohya")
    parser.add_argument("--last", action="store_true", help="the last weights instead of their average")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if args.out.suffix != ".safetensors":
        raise TrainingError(f"--out {args.out}: expected a name that ends in .safetensors")
    lora = recipe_of_run(args.run).lora
    export = export_adapters if lora else export_model
    step = export(args.run, args.out, args.format if lora else args.names, DTYPES[args.dtype], not args.last)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, step {step}")
    return 0


def export_model(folder: Path, out: Path, names: str, dtype: torch.dtype, averaged: bool = True) -> int:
    """Write a run's UNet, frozen weights included; returns its step."""
    state, recipe = Checkpoints(folder).load(), recipe_of_run(folder)
    source = source_of_state(folder, recipe, state, averaged)
    weights = export_published(source.weights, source.config) if names == "published" else source.weights
    _write(out, weights, dtype, {STAGE: source.config.stage, **_about(state, recipe)})
    return state["step"]


def export_adapters(folder: Path, out: Path, naming: str, dtype: torch.dtype, averaged: bool = True) -> int:
    """Write a run's LoRA; returns its step."""
    state, recipe = Checkpoints(folder).load(), recipe_of_run(folder)
    values = (averaged and state["average"]) or state["model"]
    config = UNetConfig.from_dict(json.loads(state["settings"]["config"]))
    unet, text = (pairs(values, part) for part in ("unet_lora", "text_lora"))
    weights = export_lora(unet, text, config, recipe.lora.alpha, naming)
    network = {"ss_network_dim": str(recipe.lora.rank), "ss_network_alpha": str(recipe.lora.alpha)}
    _write(out, weights, dtype, {**_about(state, recipe), **network})
    return state["step"]


def _about(state: dict, recipe: Recipe) -> dict[str, str]:
    """What a file tells about itself."""
    settings = state["settings"]
    return {
        CONFIG: settings["config"], PREDICTION: recipe.model.prediction, STEP: str(state["step"]),
        SEED: str(recipe.run.seed), DATA: settings["data"], START: settings["start"],
    }  # fmt: skip


def _write(out: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype, metadata: dict[str, str]) -> None:
    write_weights(out, {key: value.to(dtype) for key, value in weights.items()}, metadata)
