"""At which noise a base loses the looks of things: `python -P -m comfyui_lavie.nano lost`.

Contract: true clips of headed things, whose colour, thing and direction never came together in training, are noised to
a timestep, denoised by the base from there, and measured frame by frame (`strict`). What is missing beside timestep 0,
the VAE alone, is lost below that timestep: a training that draws most of its timesteps there can bring it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from ..datasets.prepare import positive
from ..lavie_models.autoencoder import NanoAutoencoder
from ..lavie_models.pixels import to_model, to_pixels
from ..lavie_models.schedule import TRAINED_STEPS
from ..tables import markdown_table
from ..training.pack_encoders import load_vae
from .evaluate import BASE, VAE, heldout_scenes
from .faults import FRAMES, Denoiser
from .shapes import HEADED, Scene, caption, render
from .strict import MEASURES, Strictness, measure_frames, values_of

TEXT = VAE.parents[1] / "text_encoders" / "lavie_nano_text_encoder.safetensors"
TIMESTEPS_PER_STEP = 40  # as many as 25 steps leave out
GUIDANCE = 2.0  # the workflow's


@torch.no_grad()
def denoised(vae: NanoAutoencoder, denoiser: Denoiser, scene: Scene, start: int, seed: int) -> np.ndarray:
    """Frames, uint8 (FRAMES, H, W, 3), of a scene's true clip from timestep `start`; 0 is the VAE alone."""
    latents = vae.encode(to_model(render(scene, FRAMES))) * vae.config.scale
    if start:
        steps, rng = max(2, round(start / TIMESTEPS_PER_STEP)), torch.Generator().manual_seed(seed)
        latents = denoiser(latents, caption(scene), start, rng, steps, GUIDANCE)
    return to_pixels(vae.decode(latents / vae.config.scale)).numpy()


def timestep(text: str) -> int:
    if not 0 <= int(text) < TRAINED_STEPS:
        raise argparse.ArgumentTypeError(f"expected a timestep of 0 to {TRAINED_STEPS - 1}, got {text}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = "Noise true clips, let a base denoise them, and print what is left of the things' looks."
    parser.add_argument("--base", type=Path, default=BASE, help="exported nano base (default: the pack's)")
    parser.add_argument("--text", type=Path, default=TEXT, help="its text encoder")
    parser.add_argument("--vae", type=Path, default=VAE, help="its VAE")
    parser.add_argument("--scenes", type=positive, default=40, help="held-out scenes, of which half have headed things")
    parser.add_argument("--timesteps", type=timestep, nargs="+", default=[0, 100, 200, 300, 400, 500, 600])


def run(args: argparse.Namespace) -> int:
    """Measure and print a table; returns the exit status."""
    denoiser, vae = Denoiser(args.base, args.text), load_vae(args.vae).model
    scenes = [scene for scene in heldout_scenes(args.scenes) if scene.thing in HEADED]
    rows = []
    for start in args.timesteps:
        clips: list[Strictness] = [
            measure_frames(denoised(vae, denoiser, scene, start, seed), scene) for seed, scene in enumerate(scenes)
        ]
        rows.append((start, *(f"{np.mean(values_of(clips, field)):.3f}" for field in MEASURES)))
    print(f"{len(scenes)} clips\n\n{markdown_table(['from timestep', *MEASURES.values()], rows)}")
    return 0
