"""Colours of nano latents, for previews: `python -P -m comfyui_lavie.nano colors`.

Contract: fits, by least squares, the linear map from a nano latent pixel (times the VAE's scale) to the mean colour of
its pixels, over the clips of the synthetic world, and writes it into the metadata of UNet files, whose weights stay as
they are. ComfyUI's own maps belong to the latents of Stable Diffusion and show these in false colours. Without
arguments: all small models that come with the pack.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ..lavie_models.metadata import LATENT_COLORS
from ..lavie_models.weights_file import load_checkpoint, write_weights
from ..training.pack_encoders import NanoVAE, load_vae
from .shapes import render, sample_scene

SCENES, FRAMES = 64, 4
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
STAGES = {"lavie_nano_vae": ("base", "interpolation", "first_frame"), "lavie_nano_upscaler_vae": ("super_resolution",)}


def fit(vae: NanoVAE, scenes: int = SCENES) -> tuple[dict, float]:
    """({"factors": 4 x 3, "bias": 3} for colours in -1 .. 1, root mean square error of the fit in these units)."""
    frames = torch.cat([torch.from_numpy(render(sample_scene(i), FRAMES, 64)) for i in range(scenes)])
    latents = vae.encode(frames).float()
    factor = frames.shape[1] // latents.shape[2]
    latents = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    pixels = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    colors = torch.nn.functional.avg_pool2d(pixels, factor).permute(0, 2, 3, 1).reshape(-1, 3)
    inputs = torch.cat((latents, torch.ones(len(latents), 1)), dim=1)
    solution = torch.linalg.lstsq(inputs, colors).solution
    error = (inputs @ solution - colors).square().mean().sqrt().item()
    rounded = [[round(value, 4) for value in row] for row in solution.tolist()]
    return {"factors": rounded[:4], "bias": rounded[4]}, error


def write(path: Path, colors: dict) -> None:
    """Put the colours into a file's metadata; written whole or not at all."""
    weights, metadata = load_checkpoint(path)
    write_weights(path, weights, {**metadata, LATENT_COLORS: json.dumps(colors)})


def shipped() -> dict[Path, list[Path]]:
    """The small models that are there: UNet files by the VAE in whose latents they work."""
    found = {
        WEIGHTS / "vae" / f"{vae}.safetensors": [
            WEIGHTS / "diffusion_models" / f"lavie_nano_{stage}.safetensors" for stage in stages
        ]
        for vae, stages in STAGES.items()
    }
    return {vae: [unet for unet in unets if unet.exists()] for vae, unets in found.items() if vae.exists()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = __doc__.split("\n\n")[0]
    parser.add_argument("vae", nargs="?", type=Path, help="the VAE in whose latents the files work")
    parser.add_argument("unets", nargs="*", type=Path, help="files to write into")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    for vae, unets in ({args.vae: args.unets} if args.vae else shipped()).items():
        colors, error = fit(load_vae(vae))
        for path in unets:
            write(path, colors)
        names = ", ".join(path.name for path in unets) or "no file"
        print(f"{vae.name}: {json.dumps(colors)}, root mean square error {error:.3f} of -1 .. 1; into {names}")
    return 0
