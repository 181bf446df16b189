"""Colours of nano latents, for previews: `python -m comfyui_lavie.training.latent_colors`.

Contract: fits, by least squares, the linear map from a nano latent pixel (times the VAE's scale) to the mean colour of
its pixels, over the clips of the synthetic world, and writes it into the metadata of UNet files, whose weights stay as
they are. ComfyUI's own maps belong to the latents of Stable Diffusion and show these in false colours. Without
arguments: all small models that come with the pack.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..lavie_models.identify import LATENT_COLORS
from .shapes import render, sample_scene
from .vae import NanoVAE, load_vae

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
    with safe_open(path, "pt") as file:
        weights, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    temporary = path.with_suffix(".tmp")
    save_file(weights, temporary, {**metadata, LATENT_COLORS: json.dumps(colors)})
    os.replace(temporary, path)


def shipped() -> dict[Path, list[Path]]:
    """The small models that are there: UNet files by the VAE in whose latents they work."""
    found = {
        WEIGHTS / "vae" / f"{vae}.safetensors": [
            WEIGHTS / "diffusion_models" / f"lavie_nano_{stage}.safetensors" for stage in stages
        ]
        for vae, stages in STAGES.items()
    }
    return {vae: [unet for unet in unets if unet.exists()] for vae, unets in found.items() if vae.exists()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("vae", nargs="?", type=Path, help="the VAE in whose latents the files work")
    parser.add_argument("unets", nargs="*", type=Path, help="files to write into")
    args = parser.parse_args(argv)
    for vae, unets in ({args.vae: args.unets} if args.vae else shipped()).items():
        colors, error = fit(load_vae(vae))
        for path in unets:
            write(path, colors)
        names = ", ".join(path.name for path in unets) or "no file"
        print(f"{vae.name}: {json.dumps(colors)}, root mean square error {error:.3f} of -1 .. 1; into {names}")


if __name__ == "__main__":
    main()
