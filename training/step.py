"""The training step in one place: noise, prediction, loss, weighting and accumulation, on the schedule of inference.

Contract: this file knows networks, tensors and settings; no files, no data, no processes beyond the accelerator that it
is given. A new objective is a change here: `draw_timestep` and `draw_noise` decide what a row is asked, `denoise` how
the network answers, `row_losses` how wrong it is, `snr_weights` and `weigh_losses` how much that matters, and
`add_gradients` goes through a batch part by part.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ..lavie_models.schedule import TRAINED_STEPS, add_noise, target
from .recipe import FocusSettings


@dataclass(frozen=True)
class Batch:
    """B rows of one clip of F frames and M images, each with its own caption; F = 0 for rows of images alone.

    Attributes:
        latents, noise: (B, F + M, 4, h, w), the clip first. timesteps: (B,), shared by a row.
        text: encoded captions (n, tokens, width), row by row a clip's followed by its images'; or their token numbers
            (n, tokens) where the text encoder learns too.
        num_frames: F. num_images: M.
        condition: (B, F + M, C, h, w) for the UNet's further input channels. noise_level: (B,) of the low-resolution
            frames among them (super-resolution).
        empty: the encoded empty caption (1, tokens, width), where a teacher is guided (distill.py).
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    num_frames: int
    num_images: int
    condition: torch.Tensor | None = None
    noise_level: torch.Tensor | None = None
    empty: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Those that it has, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows."""
        per_row = (self.num_frames > 0) + self.num_images
        cut = {name: value[start:stop] for name, value in self.tensors().items() if name != "empty"}
        return replace(self, **{**cut, "text": self.text[start * per_row : stop * per_row]})


# Noise


def draw_timestep(rng: np.random.Generator, focus: FocusSettings | None) -> int:
    """0 .. 999: uniform, or a share of them from a narrower range."""
    if focus and rng.random() < focus.fraction:
        return int(rng.integers(focus.low, focus.high))
    return int(rng.integers(TRAINED_STEPS))


def draw_noise(rngs: list[np.random.Generator], shape, offset: float = 0.0) -> torch.Tensor:
    """(rows, *shape), standard normal; with ``offset`` times one normal number per frame and channel added to it."""
    noise = np.stack([rng.standard_normal(tuple(shape), np.float32) for rng in rngs])
    if offset:
        whole = (*shape[:-2], 1, 1)
        noise += np.float32(offset) * np.stack([rng.standard_normal(whole, np.float32) for rng in rngs])
    return torch.from_numpy(noise)


# Prediction


def denoise(
    unet, noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, num_frames: int, num_images: int = 0,
    condition: torch.Tensor | None = None, noise_level: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """The network's output for noisy latents (B, F + M, 4, h, w), in their shape, float32; the rest as in `Batch`.

    Images alone go beside a clip of one frame, a copy of the first of them, whose output is not used: so they bypass
    temporal attention as they do in joint training.
    """
    x = noisy if condition is None else torch.cat((noisy, condition), dim=2)
    if num_frames == 0:
        x, each = x.flatten(0, 1), timesteps.repeat_interleave(num_images)
        x, each, context = (torch.cat((part[:1], part)) for part in (x, each, context))
        return unet(x, each, context, num_frames=1, num_images=len(x) - 1)[1:].float().view_as(noisy)
    level = {} if noise_level is None else {"noise_level": noise_level}
    out = unet(x.flatten(0, 1), timesteps, context, num_frames=num_frames, num_images=num_images, **level)
    return out.float().view_as(noisy)


# Loss


def row_losses(
    unet, batch: Batch, context: torch.Tensor, alphas_cumprod: torch.Tensor, prediction: str
) -> torch.Tensor:
    """(B, 2): each row's mean squared error over its clip and over its images, 0 where there are none."""
    alpha_bar = alphas_cumprod[batch.timesteps][:, None, None, None, None]
    noisy = add_noise(batch.latents, batch.noise, alpha_bar)
    out = denoise(
        unet, noisy, batch.timesteps, context, batch.num_frames, batch.num_images, batch.condition, batch.noise_level
    )
    error = out - target(prediction, batch.latents, batch.noise, alpha_bar)
    square = error.square().mean((2, 3, 4))  # (B, F + M)
    parts = square.split((batch.num_frames, batch.num_images), dim=1)
    return torch.stack([part.sum(1) / max(1, part.shape[1]) for part in parts], dim=1)


# Weighting


def snr_weights(timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, prediction: str, gamma: float | None):
    """Min-SNR weights (arXiv 2303.09556): min(snr, gamma) / snr, for v over snr + 1; without gamma 1."""
    if gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    alpha_bar = alphas_cumprod[timesteps]
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)


def weigh_losses(losses: torch.Tensor, weights: torch.Tensor, image_weight: float) -> torch.Tensor:
    """(B,): weight * (MSE(video) + image_weight * MSE(images)) of each row."""
    return weights * (losses[:, 0] + image_weight * losses[:, 1])


# Accumulation


def add_gradients(
    trainee, batch: Batch, weights: torch.Tensor, image_weight: float, parts: int, accelerator,
    synchronise: Callable[[bool], AbstractContextManager],
) -> torch.Tensor:  # fmt: skip
    """Go forwards and backwards through a batch in ``parts`` of equal size; gradients become those of the mean loss.

    Args:
        trainee: maps a batch to its rows' losses (B, 2).
        synchronise: gives a context in which processes exchange gradients if it is called with True.

    Returns:
        (B, 3): each row's loss on its clip, on its images, and as it was weighed.
    """
    size, seen = len(weights) // parts, []
    for part in range(parts):
        rows, last = slice(part * size, (part + 1) * size), part == parts - 1
        with synchronise(last), accelerator.autocast():
            losses = trainee(batch.rows(rows.start, rows.stop))
            loss = weigh_losses(losses, weights[rows], image_weight)
        with synchronise(last):
            accelerator.backward(loss.mean() / parts)
        seen.append(torch.cat((losses.detach(), loss.detach()[:, None]), dim=1))
    return torch.cat(seen)
