"""Frames as nodes get and give them: latents, images that the base model's VAE encodes, decoded clips."""

from __future__ import annotations

import torch

from ..lavie_models.config import BASE_FACTOR, LATENT_CHANNELS

ENCODE_FRAMES = 8  # frames that the VAE sees at a time


def whole_latents(images: torch.Tensor) -> torch.Tensor:
    """Frames (F, H, W, C) cropped around their centre to multiples of 8 pixels, RGB. Raises ValueError if too small."""
    height, width = (size - size % BASE_FACTOR for size in images.shape[1:3])
    if not height or not width:
        raise ValueError(
            f"frames must be at least {BASE_FACTOR} x {BASE_FACTOR} pixels, got {images.shape[2]} x "
            f"{images.shape[1]}"
        )
    top, left = ((size - kept) // 2 for size, kept in zip(images.shape[1:3], (height, width), strict=True))
    return images[:, top : top + height, left : left + width, :3]


def require_image_vae(vae) -> None:
    """Raise ValueError for a VAE of videos, sounds or another number of channels than LaVie's latents have."""
    channels, axes = getattr(vae, "latent_channels", None), getattr(vae, "latent_dim", None)
    if channels != LATENT_CHANNELS or axes != 2:
        raise ValueError(
            f"expected a VAE of images with {LATENT_CHANNELS} latent channels, got one with {channels} channels and "
            f"{axes} axes; connect that of Stable Diffusion 1.x, or for super-resolution the x4-upscaler's"
        )


def encode_frames(vae, images: torch.Tensor) -> torch.Tensor:
    """Latents (F, 4, H/8, W/8) of frames (F, H, W, 3), a few frames at a time.

    Raises:
        ValueError: if the VAE has another factor than the base model's.
    """
    require_image_vae(vae)
    factor = vae.spacial_compression_encode()
    if factor != BASE_FACTOR:
        raise ValueError(
            f"frames need the VAE of Stable Diffusion 1.x with {BASE_FACTOR} pixels to a latent pixel here, "
            f"got one with {factor}; the x4-upscaler's VAE belongs to super-resolution alone"
        )
    return torch.cat([vae.encode(part) for part in images.split(ENCODE_FRAMES)])


def decoded_bytes(frames: int, height: int, width: int) -> int:
    """Size of a decoded clip as ComfyUI holds images, float32 RGB."""
    return frames * height * width * 3 * 4
