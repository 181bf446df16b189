"""The diffusion objective of joint image-video training, on the schedule that inference uses."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from ..lavie_models.schedule import add_noise, target


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
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    num_frames: int
    num_images: int
    condition: torch.Tensor | None = None
    noise_level: torch.Tensor | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows."""
        per_row = (self.num_frames > 0) + self.num_images
        cut = {
            f.name: value[start:stop]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **{**cut, "text": self.text[start * per_row : stop * per_row]})


def denoise(unet, noisy, batch: Batch, context) -> torch.Tensor:
    """The network's output for noisy latents of a batch's rows, in their shape, float32.

    Images alone go beside a clip of one frame, a copy of the first of them, whose output is not used: so they bypass
    temporal attention as they do in joint training.
    """
    x = noisy if batch.condition is None else torch.cat((noisy, batch.condition), dim=2)
    if batch.num_frames == 0:
        x, each = x.flatten(0, 1), batch.timesteps.repeat_interleave(batch.num_images)
        x, each, context = (torch.cat((part[:1], part)) for part in (x, each, context))
        return unet(x, each, context, num_frames=1, num_images=len(x) - 1)[1:].float().view_as(noisy)
    level = {} if batch.noise_level is None else {"noise_level": batch.noise_level}
    out = unet(
        x.flatten(0, 1), batch.timesteps, context, num_frames=batch.num_frames, num_images=batch.num_images, **level
    )
    return out.float().view_as(noisy)


def row_losses(unet, batch: Batch, context, alphas_cumprod: torch.Tensor, prediction: str) -> torch.Tensor:
    """(B, 2): each row's mean squared error over its clip and over its images, 0 where there are none."""
    alpha_bar = alphas_cumprod[batch.timesteps][:, None, None, None, None]
    noisy = add_noise(batch.latents, batch.noise, alpha_bar)
    error = denoise(unet, noisy, batch, context) - target(prediction, batch.latents, batch.noise, alpha_bar)
    square = error.square().mean((2, 3, 4))  # (B, F + M)
    parts = square.split((batch.num_frames, batch.num_images), dim=1)
    return torch.stack([part.sum(1) / max(1, part.shape[1]) for part in parts], dim=1)


def snr_weights(timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, prediction: str, gamma: float | None):
    """Min-SNR weights (arXiv 2303.09556): min(snr, gamma) / snr, for v over snr + 1; without gamma 1."""
    if gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    alpha_bar = alphas_cumprod[timesteps]
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)


def total_loss(losses: torch.Tensor, weights: torch.Tensor, image_weight: float) -> torch.Tensor:
    """(B,): weight * (MSE(video) + image_weight * MSE(images)) of each row."""
    return weights * (losses[:, 0] + image_weight * losses[:, 1])
