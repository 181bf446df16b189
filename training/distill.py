"""Consistency distillation into adapters, for sampling in few steps (arXiv 2310.04378, sections 4.1 to 4.3).

Contract: the teacher is the network without its adapters, with guidance; the student is the network with them, and is
asked for the clean latent at once. Neighbouring points of the teacher's trajectory shall get the same answer: the
farther one learns, the nearer one, without a gradient, is the target. Points lie on a grid of ``steps`` timesteps; that
of the last point is the clean latent itself. In ComfyUI: base model, this LoRA, sampler lcm, cfg 1, 4 to 8 steps.
"""

from __future__ import annotations

import torch

from ..lavie_models.schedule import TRAINED_STEPS, add_noise, ddim_step, to_x0
from .lora import LoRA
from .recipe import DistillationSettings
from .step import Batch, denoise

SIGMA_DATA, TIMESTEP_SCALE = 0.5, 10.0  # of the boundary condition (appendix C)


def distillation_losses(
    unet, lora: LoRA, batch: Batch, context: torch.Tensor, alphas_cumprod: torch.Tensor, prediction: str,
    settings: DistillationSettings,
) -> torch.Tensor:  # fmt: skip
    """(B, 2): pseudo-Huber distance of each row's answers over its clip and over its images, 0 where there are none."""
    width = TRAINED_STEPS // settings.steps
    far = (torch.div(batch.timesteps, width, rounding_mode="floor") + 1) * width - 1
    near = far - width  # -1: clean

    def answer(noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return denoise(unet, noisy, timesteps, text, batch.num_frames, batch.num_images, batch.condition,
                       batch.noise_level)  # fmt: skip

    def consistent(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        safe = timesteps.clamp(min=0)
        clean = to_x0(prediction, answer(noisy, safe, context), noisy, _alpha(alphas_cumprod, safe))
        skip, out = boundary(timesteps)
        return skip * noisy + out * clean

    alpha = _alpha(alphas_cumprod, far)
    noisy = add_noise(batch.latents, batch.noise, alpha)
    with torch.no_grad():
        with lora.disabled():
            guided = answer(noisy, far, context)
            empty = answer(noisy, far, batch.empty.expand_as(context))
        output = empty + settings.guidance * (guided - empty)
        nearer = ddim_step(prediction, output, noisy, alpha, _alpha(alphas_cumprod, near))
        target = consistent(nearer, near)
    square = (consistent(noisy, far) - target).square()
    distance = ((square + settings.huber**2).sqrt() - settings.huber).mean((2, 3, 4))  # (B, F + M)
    parts = distance.split((batch.num_frames, batch.num_images), dim=1)
    return torch.stack([part.sum(1) / max(1, part.shape[1]) for part in parts], dim=1)


def boundary(timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight of the noisy latent, weight of the network's answer), (B, 1, 1, 1, 1): (1, 0) at the clean latent."""
    scaled = TIMESTEP_SCALE * (timesteps.float() + 1)[:, None, None, None, None]
    skip = SIGMA_DATA**2 / (scaled.square() + SIGMA_DATA**2)
    return skip, scaled / (scaled.square() + SIGMA_DATA**2).sqrt()


def _alpha(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, 1, 1), 1 for the clean latent."""
    found = alphas_cumprod[timesteps.clamp(min=0)]
    return torch.where(timesteps < 0, 1.0, found)[:, None, None, None, None]
