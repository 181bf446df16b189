"""True clips as the base would have made them: noised in part, and denoised by the base.

Contract: gives latents with the base's own faults beside the frames that they should be decoded to. How much noise a
clip gets is drawn evenly from TIMESTEPS, little enough that things stay where they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..lavie_models import LaVieUNet
from ..lavie_models.autoencoder import NanoAutoencoder
from ..lavie_models.checkpoint import load_checkpoint
from ..lavie_models.identify import detect_config
from ..lavie_models.pixels import to_model
from ..lavie_models.schedule import alphas_cumprod, ddim_step
from ..training.pack_encoders import encode, load_text_encoder
from ..training.step import denoise
from ..training.trainee import eager_attention
from .shapes import caption, details, render, sample_scene

CLIP_SEEDS = 2_000_000_000
TIMESTEPS = (80, 450)
STEPS = 3  # of denoising
KEPT = {"car": 1.0, "fish": 0.55, "rocket": 0.55, "circle": 0.15, "square": 0.15, "triangle": 0.15}  # of scenes
FRAMES = 16


@torch.no_grad()
def faulty_clips(base: Path, text: Path, vae: NanoAutoencoder, count: int):
    """(latents of the VAE, float (count * 16, 4, h, w); frames, uint8 (count * 16, H, W, 3); details, bool).

    Things are kept as often as KEPT says, those with details more often.
    """
    denoiser = Denoiser(base, text)
    scenes, seed = [], CLIP_SEEDS
    while len(scenes) < count:
        scene = sample_scene(seed)
        if np.random.default_rng(seed).random() < KEPT[scene.thing]:
            scenes.append((seed, scene))
        seed += 1
    latents, frames, shown = [], [], []
    for seed, scene in scenes:
        clip, rng = render(scene, FRAMES), torch.Generator().manual_seed(seed)
        start = int(torch.randint(*TIMESTEPS, (1,), generator=rng))
        latents.append(denoiser(vae.encode(to_model(clip)) * vae.config.scale, caption(scene), start, rng))
        frames.append(clip)
        shown += [details(replace(scene, moment=moment)) for moment in np.linspace(0, 1, FRAMES)]
    return torch.cat(latents) / vae.config.scale, np.concatenate(frames), np.stack(shown)


class Denoiser:
    """A base and its text encoder."""

    def __init__(self, base: Path, text: Path):
        weights, metadata = load_checkpoint(base)
        config, self.prediction = detect_config(weights, metadata)
        self.unet = LaVieUNet(config, attention=eager_attention)
        self.unet.load_state_dict({key: value.float() for key, value in weights.items()})
        self.unet.eval().channels_last()
        self.text, self.alphas = load_text_encoder(text), alphas_cumprod()

    def __call__(
        self, latents: torch.Tensor, prompt: str, start: int, rng: torch.Generator, steps: int = STEPS,
        guidance: float = 1.0,
    ) -> torch.Tensor:  # fmt: skip
        """Noise a clip, (F, 4, h, w), to the timestep `start`, and denoise it by DDIM; guidance 1: prompt alone."""
        context = encode(*self.text, [prompt] if guidance == 1 else [prompt, ""])
        timesteps = torch.linspace(start, 0, steps + 1).round().long()[:-1]
        alpha, copies = self.alphas[start], len(context)
        x = alpha.sqrt() * latents + (1 - alpha).sqrt() * torch.randn(latents.shape, generator=rng)
        for i, t in enumerate(timesteps):
            alpha = self.alphas[t]
            following = self.alphas[timesteps[i + 1]] if i + 1 < steps else torch.ones(())
            outputs = denoise(self.unet, x.expand(copies, *x.shape), t.expand(copies), context, len(x))
            output = outputs[-1] + guidance * (outputs[0] - outputs[-1])
            x = ddim_step(self.prediction, output, x, alpha, following)
        return x
