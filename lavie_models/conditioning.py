"""What the later stages are given besides text, the same for training and inference: source frames, low resolution.

Frames are on the first axis; pixels are RGB in -1 .. 1.
"""

from __future__ import annotations

import torch

from .schedule import TRAINED_STEPS, add_noise

FRAMES_PER_INTERVAL = 4  # frames that interpolation makes for each step from one input frame to the next
UPSCALE = 4  # edge of a super-resolved frame over that of its low-resolution frame
MAX_NOISE_LEVEL = 350  # largest noise level that super-resolution was trained with
PUBLISHED_NOISE_LEVEL = 50


def interpolated_frames(frames: int) -> int:
    """Frames that interpolation makes out of ``frames`` >= 2: 4 (frames - 1) + 1, so 61 out of 16."""
    return FRAMES_PER_INTERVAL * (frames - 1) + 1


def interpolation_sources(frames: int) -> torch.Tensor:
    """For each output frame k the input frame (k + 1) // 4 that conditions it: (4 (frames - 1) + 1,) int64.

    Raises:
        ValueError: for fewer than two frames, between which there is nothing to interpolate.
    """
    if frames < 2:
        raise ValueError(
            f"interpolation needs at least 2 frames, got {frames}; join images that come one by one with Batch Images, "
            "which also makes them the same size"
        )
    return (torch.arange(interpolated_frames(frames)) + 1) // FRAMES_PER_INTERVAL


def low_resolution_alphas() -> torch.Tensor:
    """alphas_cumprod of the x4-upscaler's low-resolution noise, (1000,) float32: betas with a linear square root."""
    betas = torch.linspace(1e-4**0.5, 0.02**0.5, TRAINED_STEPS, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def noise_low_resolution(frames: torch.Tensor, noise: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Low-resolution frames as super-resolution wants them, noised to ``level`` and not clamped.

    Args:
        frames, noise: (..., 3, h, w); frames in -1 .. 1. level: whole numbers 0 .. 999 that broadcast from the left.
    """
    alpha_bar = low_resolution_alphas().to(frames)[level.to(frames.device)]
    return add_noise(frames, noise, alpha_bar.reshape(*alpha_bar.shape, *(1,) * (frames.ndim - alpha_bar.ndim)))
