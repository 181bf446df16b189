"""Colours of nano latents, for previews: `python -m comfyui_lavie.training.latent_colors`.

Contract: fits, by least squares, the linear map from a nano latent pixel (times the VAE's scale) to the mean colour of
its 8 x 8 pixels, over the clips of the synthetic world, and writes it into the metadata of UNet files, whose weights
stay as they are. ComfyUI's own maps belong to the latents of Stable Diffusion and show these in false colours.
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
VAE = "weights/vae/lavie_nano_vae.safetensors"
UNETS = [f"weights/diffusion_models/lavie_nano_{stage}.safetensors" for stage in ("base", "interpolation")]


def fit(vae: NanoVAE, scenes: int = SCENES) -> tuple[dict, float]:
    """({"factors": 4 x 3, "bias": 3} for colours in -1 .. 1, root mean square error of the fit in these units)."""
    frames = torch.cat([torch.from_numpy(render(sample_scene(i), FRAMES, 64)) for i in range(scenes)])
    latents = vae.encode(frames).permute(0, 2, 3, 1).reshape(-1, 4).float()
    pixels = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    colors = torch.nn.functional.avg_pool2d(pixels, 8).permute(0, 2, 3, 1).reshape(-1, 3)
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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--vae", default=VAE, help="the VAE in whose latents the files work")
    parser.add_argument("unets", nargs="*", type=Path, default=list(map(Path, UNETS)), help="files to write into")
    args = parser.parse_args(argv)
    colors, error = fit(load_vae(args.vae))
    for path in args.unets:
        write(path, colors)
    print(f"{json.dumps(colors)}; root mean square error {error:.3f} of -1 .. 1; written into {len(args.unets)} files")


if __name__ == "__main__":
    main()
