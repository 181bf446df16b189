"""Noise schedule and prediction targets, the same for training and inference.

All stages diffuse with betas on a straight line from 1e-4 to 0.02 over 1000 steps (ComfyUI calls it "sqrt_linear").
Tensors: x0 and noise alike in shape; alpha_bar broadcasts against them.
"""

from __future__ import annotations

import torch

PREDICTIONS = ("epsilon", "v")


def alphas_cumprod(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> torch.Tensor:
    """Fraction of signal variance left at each timestep, (steps,) float32, falling."""
    return torch.cumprod(1.0 - torch.linspace(start, end, steps, dtype=torch.float32), dim=0)


def add_noise(x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def target(prediction: str, x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """What the network is to output: the noise ("epsilon") or the velocity ("v")."""
    _check(prediction)
    return noise if prediction == "epsilon" else alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0


def to_x0(prediction: str, output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """The clean latent that an output implies; inverse of ``add_noise`` with ``target``."""
    _check(prediction)
    if prediction == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")
