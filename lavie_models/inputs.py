"""What comes into a UNet's forward: checked, and put in the order in which the network works on it."""

from __future__ import annotations

import torch

from .clips import ClipLayout
from .config import UNetConfig

# What a text encoder of each width is called where artists get it.
TEXT_ENCODERS = {768: "CLIP ViT-L/14 of Stable Diffusion 1.x", 1024: "OpenCLIP ViT-H of Stable Diffusion 2.x"}


def check_inputs(config: UNetConfig, x, timesteps, context, num_frames, num_images, noise_level) -> int:
    """Return the number of rows (clips with their images), or raise."""
    if x.ndim != 4 or x.shape[1] != config.in_channels:
        raise ValueError(
            f"the {config.stage} UNet expects latents (frames, {config.in_channels}, height, width), got "
            f"{tuple(x.shape)}; frames belong on the batch axis"
        )
    if num_frames < 1 or num_images < 0 or x.shape[0] % (num_frames + num_images):
        raise ValueError(
            f"a batch of {x.shape[0]} does not divide into rows of {num_frames} frames and {num_images} images"
        )
    rows = x.shape[0] // (num_frames + num_images)
    if timesteps.shape not in ((rows,), (x.shape[0],)):
        raise ValueError(f"timesteps must be ({rows},) or ({x.shape[0]},), got {tuple(timesteps.shape)}")
    batches = (rows * (1 + num_images), x.shape[0])
    if context is None or context.ndim != 3 or context.shape[0] not in batches:
        got = None if context is None else tuple(context.shape)
        raise ValueError(f"context must be (n, tokens, {config.context_dim}) with n in {batches}, got {got}")
    if context.shape[2] != config.context_dim:
        wanted, got = (
            f"{width} wide" + (f" ({TEXT_ENCODERS[width]})" if width in TEXT_ENCODERS else "")
            for width in (config.context_dim, context.shape[2])
        )
        raise ValueError(
            f"the {config.stage} UNet reads text {wanted}, got {got}: the text encoder belongs to another model"
        )
    if bool(config.architecture.noise_levels) != (noise_level is not None):
        raise ValueError(
            "the super_resolution UNet needs the noise level of its low-resolution frames"
            if noise_level is None
            else f"the {config.stage} UNet knows no noise_level; leave it out"
        )
    if noise_level is not None and noise_level.shape not in ((rows,), (x.shape[0],)):
        raise ValueError(f"noise_level must be ({rows},) or ({x.shape[0]},), got {tuple(noise_level.shape)}")
    return rows


def videos_first(rows: int, frames: int, images: int, device) -> torch.Tensor:
    """Permutation from rows of (frames, images) to all frames of all videos, then all images."""
    index = torch.arange(rows * (frames + images), device=device).view(rows, frames + images)
    return torch.cat((index[:, :frames].flatten(), index[:, frames:].flatten()))


def per_frame(values: torch.Tensor, count: int, order: torch.Tensor | None) -> torch.Tensor:
    """(rows,) or (count,) -> (count,), permuted like the frames."""
    values = values.repeat_interleave(count // values.shape[0])
    return values if order is None else values[order]


def split_text(context, clips: ClipLayout, num_images: int):
    """Text of the videos (per clip or per frame) and of the images."""
    if not num_images:
        return context, None
    context = context.unflatten(0, (clips.videos, -1))
    videos, images = context.split((context.shape[1] - num_images, num_images), dim=1)
    return videos.flatten(0, 1), images.flatten(0, 1)
