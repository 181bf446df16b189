"""Sample a model in training, without a server: deterministic DDIM with guidance, on the training's own schedule."""

from __future__ import annotations

import torch

from ..lavie_models.schedule import to_x0
from .objective import Batch, denoise


@torch.no_grad()
def sample(
    unet, text: torch.Tensor, empty: torch.Tensor, shape: tuple[int, int, int, int], alphas_cumprod: torch.Tensor,
    prediction: str, steps: int = 25, guidance: float = 4.0, seed: int = 0,
    condition: torch.Tensor | None = None, noise_level: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """One clip.

    Args:
        text, empty: (1, tokens, width) of the prompt and of the empty caption.
        shape: (frames, channels, height, width) of the latents.
        steps: evenly spaced timesteps, largest first. guidance: 1 uses the prompt alone.
        condition: (1, frames, C, height, width) of the UNet's further input channels; noise_level: (1,) of theirs.

    Returns:
        Latents of that shape, float32.
    """
    device = text.device
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    context = torch.cat((text, empty))
    both = [None if value is None else torch.cat((value, value)) for value in (condition, noise_level)]
    timesteps = torch.linspace(len(alphas_cumprod) - 1, 0, steps).round().long()
    for i, t in enumerate(timesteps):
        alpha = alphas_cumprod[t]
        following = alphas_cumprod[timesteps[i + 1]] if i + 1 < steps else torch.ones_like(alpha)
        noisy = torch.stack((x, x))
        out = denoise(unet, noisy, Batch(noisy, noisy, t.to(device).expand(2), context, shape[0], 0, *both), context)
        conditional, unconditional = out.unbind()
        out = unconditional + guidance * (conditional - unconditional)
        x0 = to_x0(prediction, out, x, alpha)
        noise = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        x = following.sqrt() * x0 + (1 - following).sqrt() * noise
    return x
