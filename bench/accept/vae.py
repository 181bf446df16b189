"""Encoding and decoding of one frame by Stable Diffusion's VAE and the x4-upscaler's, of random weights."""

from __future__ import annotations

import statistics

import torch

from ...lavie_models.dtypes import DTYPES
from ...tables import markdown_table
from ..encoding import VAE_WIDTHS, make_vae
from ..measure import peak_activations, seconds
from .setting import Setting

TITLE = "VAE"
READS = ()
STAGES = {"Stable Diffusion": "base", "x4-upscaler": "super_resolution"}  # whose frames each of them decodes


@torch.no_grad()
def measure(setting: Setting) -> dict:
    """{VAE: {"size", "encode" and "decode": {"seconds", "memory"}}}."""
    return {name: _measure(setting, stage) for name, stage in STAGES.items()}


def _measure(setting: Setting, stage: str) -> dict:
    published = setting.published(stage)
    factor, dtype = published.pixels_per_latent, DTYPES[setting.dtypes[-1]]
    height, width = published.latents
    widths = (32,) * len(VAE_WIDTHS[factor]) if setting.toy else VAE_WIDTHS[factor]
    vae = make_vae(factor, widths).to(device=setting.device, dtype=dtype).eval()
    frame = torch.zeros(1, 3, factor * height, factor * width, device=setting.device, dtype=dtype)
    latent = torch.zeros(1, 4, height, width, device=setting.device, dtype=dtype)
    work = {"encode": lambda: vae.encode(frame), "decode": lambda: vae.decode(latent)}
    found = {"size": f"{factor * width} x {factor * height}"}
    for name, function in work.items():
        times = [seconds(function, setting.device)[0] for _ in range(1 + setting.repeats)]
        memory = peak_activations(function, setting.device)
        found[name] = {"seconds": statistics.median(times[1:]), "memory": memory}
    return found


def report(result: dict) -> str:
    """One row per VAE and direction."""
    rows = [
        (f"{vae}, {name}", row["size"], f"{row[name]['seconds']:.3g}", f"{row[name]['memory'] / 1e9:.2f} GB")
        for vae, row in result.items()
        for name in ("encode", "decode")
    ]
    return markdown_table(("VAE", "frame", "seconds", "memory"), rows)
