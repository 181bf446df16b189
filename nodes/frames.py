"""Frames as nodes get and give them: latents, images that the base model's VAE encodes, decoded clips."""

from __future__ import annotations

import torch

from .latent import LATENT_CHANNELS, PIXELS_PER_LATENT

ENCODE_FRAMES = 8  # frames that the VAE sees at a time


def whole_latents(images: torch.Tensor) -> torch.Tensor:
    """Frames (F, H, W, C) cropped around their centre to multiples of 8 pixels, RGB. Raises ValueError if too small."""
    height, width = (size - size % PIXELS_PER_LATENT for size in images.shape[1:3])
    if not height or not width:
        raise ValueError(
            f"frames must be at least {PIXELS_PER_LATENT} x {PIXELS_PER_LATENT} pixels, got {images.shape[2]} x "
            f"{images.shape[1]}"
        )
    top, left = ((size - kept) // 2 for size, kept in zip(images.shape[1:3], (height, width), strict=True))
    return images[:, top : top + height, left : left + width, :3]


def encode_frames(vae, images: torch.Tensor) -> torch.Tensor:
    """Latents (F, 4, H/8, W/8) of frames (F, H, W, 3), a few frames at a time.

    Raises:
        ValueError: if the VAE has another factor than the base model's.
    """
    factor = vae.spacial_compression_encode()
    if factor != PIXELS_PER_LATENT:
        raise ValueError(
            f"frames need the VAE of Stable Diffusion 1.x with {PIXELS_PER_LATENT} pixels to a latent pixel here, "
            f"got one with {factor}; the x4-upscaler's VAE belongs to super-resolution alone"
        )
    return torch.cat([vae.encode(part) for part in images.split(ENCODE_FRAMES)])


def base_latent(latent: dict) -> torch.Tensor:
    """The samples (F, 4, h, w) of a LATENT. Raises ValueError for one of another shape."""
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != LATENT_CHANNELS:
        raise ValueError(
            f"expected a latent of (frames, {LATENT_CHANNELS}, height, width), got {tuple(samples.shape)}; use one of "
            "the base model's"
        )
    return samples


def decoded_bytes(frames: int, height: int, width: int) -> int:
    """Size of a decoded clip as ComfyUI holds images, float32 RGB."""
    return frames * height * width * 3 * 4
