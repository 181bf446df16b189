"""Noise schedule, prediction targets and timestep spacings, the same for training and inference.

All stages diffuse with betas on a straight line from 1e-4 to 0.02 over 1000 steps (ComfyUI calls it "sqrt_linear").
Tensors: x0 and noise alike in shape; alpha_bar broadcasts against them. sigma = sqrt((1 - alpha_bar) / alpha_bar) is
the noise level in ComfyUI's variables, where a latent is x = x0 + sigma * noise.
"""

from __future__ import annotations

import torch

PREDICTIONS = ("epsilon", "v")
TRAINED_STEPS = 1000


def alphas_cumprod(steps: int = TRAINED_STEPS, start: float = 1e-4, end: float = 0.02) -> torch.Tensor:
    """Fraction of signal variance left at each timestep, (steps,) float32, falling."""
    return torch.cumprod(1.0 - torch.linspace(start, end, steps, dtype=torch.float32), dim=0)


def rescale_to_zero_terminal_snr(alpha_bar: torch.Tensor) -> torch.Tensor:
    """A schedule stretched so that nothing of the signal is left at its last step (arXiv 2305.08891, algorithm 1)."""
    root = alpha_bar.double().sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)).square().float()


def noise_levels() -> torch.Tensor:
    """sigma of each trained timestep, (1000,) float32, rising from 0.010001 to 157.407."""
    alpha_bar = alphas_cumprod()
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


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


def ddim_step(
    prediction: str, output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, following: torch.Tensor
) -> torch.Tensor:
    """The latent at ``following``, an alpha_bar above that of x_t; 1 gives the clean latent.

    Deterministic DDIM: arXiv 2010.02502, equation 12 with sigma 0.
    """
    x0 = to_x0(prediction, output, x_t, alpha_bar)
    noise = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    return add_noise(x0, noise, following)


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")


def _leading(steps: int) -> torch.Tensor:
    """Multiples of the whole step width, falling to 0."""
    return torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (TRAINED_STEPS // steps)


def _linspace(steps: int) -> torch.Tensor:
    return torch.linspace(0, TRAINED_STEPS - 1, steps, dtype=torch.float64).flip(0)


# The reference's timesteps per sampler. With 50 steps: ddim 981 .. 1, ddpm 980 .. 0, the others 999 .. 0.
SPACINGS = {
    "ddim": lambda steps: _leading(steps) + (steps < TRAINED_STEPS),  # 1000 steps leave no room for the 1
    "ddpm": _leading,
    "euler": _linspace,  # fractional
    "interpolation": lambda steps: _linspace(steps).round(),
}


def spacing(name: str, steps: int) -> torch.Tensor:
    """Timesteps at which the reference calls the network, (steps,) float64, falling.

    "ddim" and "ddpm" step by the whole number 1000 // steps, so the first timestep is below 999. Steps that do not
    divide 1000 leave more room above, as in the reference: 30 steps of "ddpm" begin at 957, 600 at 599.

    Raises:
        ValueError: for an unknown name, or steps outside 1 .. 1000.
    """
    if name not in SPACINGS:
        raise ValueError(f"spacing must be one of {tuple(SPACINGS)}, got {name!r}")
    if not 1 <= steps <= TRAINED_STEPS:
        raise ValueError(f"steps must be 1 .. {TRAINED_STEPS}, the number of trained timesteps, got {steps}")
    return SPACINGS[name](steps)


def timesteps_to_sigmas(timesteps: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Noise level of timesteps, fractional ones too -> float32 of the same shape.

    sigma is linear between neighbouring trained timesteps, as in diffusers' Euler scheduler, which the reference uses;
    (k-diffusion and ComfyUI take log sigma to be linear; of the 50 Euler levels that changes up to 0.02 per cent).

    Args:
        sigmas: of the trained timesteps, (T,) rising. Timesteps are clamped to 0 .. T - 1.
    """
    table = sigmas.to(torch.promote_types(timesteps.dtype, sigmas.dtype))
    t = timesteps.to(table).clamp(0, len(table) - 1)
    low = t.floor().long().clamp(max=len(table) - 2)
    return torch.lerp(table[low], table[low + 1], t - low).float().to(timesteps.device)


def sigmas_to_timesteps(sigma: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Inverse of `timesteps_to_sigmas`: fractional timesteps, float32, exact at the trained levels."""
    value = sigma.to(sigmas).clamp(sigmas[0], sigmas[-1])
    low = (torch.searchsorted(sigmas, value.contiguous(), right=True) - 1).clamp(0, len(sigmas) - 2)
    return (low + (value - sigmas[low]) / (sigmas[low + 1] - sigmas[low])).to(sigma.device)
