"""The diffusion objective of joint image-video training, on the schedule that inference uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..lavie_models.schedule import add_noise, target
from .latents import LatentSet

TIMESTEPS = 1000


@dataclass(frozen=True)
class Batch:
    """B rows of one clip of F frames and M images, each with its own caption; F or M may come from one source only.

    ``latents`` (B, F + M, 4, h, w), ``noise`` alike, ``timesteps`` (B,) shared by a row, ``text`` (B * (1 + M), tokens,
    width), ``num_frames`` F, ``num_images`` M.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    num_frames: int
    num_images: int

    def to(self, device) -> Batch:
        tensors = (t.to(device) for t in (self.latents, self.noise, self.timesteps, self.text))
        return Batch(*tensors, self.num_frames, self.num_images)


@dataclass(frozen=True)
class TimestepFocus:
    """Draw a ``fraction`` of the timesteps from ``low`` .. ``high`` - 1 alone."""

    fraction: float
    low: int
    high: int

    def draw(self, rng: np.random.Generator, count: int) -> torch.Tensor:
        """``count`` integers 0 .. 999."""
        anywhere, focused = rng.integers(0, TIMESTEPS, count), rng.integers(self.low, self.high, count)
        return torch.from_numpy(np.where(rng.random(count) < self.fraction, focused, anywhere))


def draw_batch(data: LatentSet, text: torch.Tensor, seed: int, step: int, rows: int, images: int, video: bool,
               drop: float, focus: TimestepFocus) -> Batch:
    """The batch of one step, a pure function of (seed, step).

    Args:
        text: encoded ``data.captions``, then the empty caption, (K + 1, tokens, width).
        rows: B. images: M, per row. video: whether rows have clips; without, each row is one image as one frame.
        drop: chance that a caption is replaced by the empty one, for classifier-free guidance.
        focus: which timesteps to prefer.
    """
    rng = np.random.default_rng((seed, step))
    source, captions = (data.clips, data.clip_captions) if video else (data.images[:, None], data.image_captions)
    chosen = torch.from_numpy(rng.integers(0, len(source), rows))
    beside = torch.from_numpy(rng.integers(0, len(data.images), (rows, images)))
    latents = torch.cat((source[chosen], data.images[beside]), dim=1).float()
    caption = torch.cat((captions[chosen][:, None], data.image_captions[beside]), dim=1).flatten()
    caption[torch.from_numpy(rng.random(len(caption)) < drop)] = len(data.captions)
    noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
    return Batch(latents, noise, focus.draw(rng, rows), text[caption], source.shape[1], images)


def diffusion_loss(unet, batch: Batch, alphas_cumprod: torch.Tensor, prediction: str) -> torch.Tensor:
    """Squared error per row, (B,), averaged over all frames and images of the row alike.

    With 16 frames and 4 images that weighs video to images as 16 : 4; the paper's weight is not published.
    """
    alpha_bar = alphas_cumprod[batch.timesteps][:, None, None, None, None]
    noisy = add_noise(batch.latents, batch.noise, alpha_bar)
    out = unet(
        noisy.flatten(0, 1), batch.timesteps, batch.text, num_frames=batch.num_frames, num_images=batch.num_images
    )
    error = out.float().view_as(noisy) - target(prediction, batch.latents, batch.noise, alpha_bar)
    return error.square().flatten(1).mean(1)


def probe_losses(unet, clips: torch.Tensor, texts: Sequence[torch.Tensor], alphas_cumprod, prediction: str,
                 timestep: int = 600) -> list[float]:
    """Loss of the same noisy clips under each of several captions.

    When the right caption's loss falls below the opposite direction's, the word has begun to be used, long before
    samples show it.
    """
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(clips.shape, np.float32)).to(clips.device)
    timesteps = torch.full((len(clips),), timestep, device=clips.device)
    with torch.no_grad():
        batches = (Batch(clips.float(), noise, timesteps, text, clips.shape[1], 0) for text in texts)
        return [diffusion_loss(unet, batch, alphas_cumprod, prediction).mean().item() for batch in batches]
