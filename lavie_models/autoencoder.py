"""The nano autoencoder: 8 x 8 or 4 x 4 pixels to 4 latent channels, small enough to train on a CPU in minutes.

Contract: maps like Stable Diffusion's autoencoder (factor 8) or the x4-upscaler's (factor 4): same number of channels,
pixels in -1 .. 1. But it works on patches of 4 x 4 pixels, where a convolution costs a sixteenth, and has no
normalisation, which would take an image's mean colour away and is slow on CPUs. Fully convolutional, so any size will
do and tiles fit together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional

from .metadata import Range

LATENT_SCALES = {8: 0.18215, 4: 0.08333}
SIZES = {"width": Range(1, 4096), "blocks": Range(0, 16), "head": Range(1, 1024), "latent_channels": Range(4, 4)}


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of a nano autoencoder; `to_dict` / `from_dict` are what a file's metadata holds.

    Raises ValueError for sizes out of range, and for a factor that is neither 4 nor 8. Files from before there was a
    choice are of factor 8.
    """

    width: int = 96  # channels at a quarter and, with factor 8, at an eighth of the image's size
    blocks: int = 2  # residual blocks at each of these sizes
    decoder_blocks: int | None = None  # of the decoder at an eighth (factor 4: a quarter); None: as many as elsewhere
    head: int = 16  # channels at full size, decoder only
    latent_channels: int = 4
    factor: int = 8  # pixels per latent pixel, each way

    def __post_init__(self):
        for name, allowed in SIZES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}")
        if self.factor not in LATENT_SCALES:
            raise ValueError(f"factor must be 4 or 8, got {self.factor}")

    @property
    def decoder_depth(self) -> int:
        """Residual blocks of the decoder where it begins."""
        return self.blocks if self.decoder_blocks is None else self.decoder_blocks

    @property
    def scale(self) -> float:
        """What diffusion sees of a latent of the VAE, as in Stable Diffusion 1.x (factor 8) and the x4-upscaler (4)."""
        return LATENT_SCALES[self.factor]

    def to_dict(self) -> dict[str, int | None]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, int | None]) -> AutoencoderConfig:
        """Raises TypeError naming a field that is unknown."""
        return cls(**values)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), channels kept."""

    def __init__(self, width: int, operations=nn, dtype=None, device=None):
        super().__init__()
        options = {"padding": 1, "dtype": dtype, "device": device}
        self.conv1 = operations.Conv2d(width, width, 3, **options)
        self.conv2 = operations.Conv2d(width, width, 3, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(functional.silu(self.conv1(functional.silu(x))))


class NanoAutoencoder(nn.Module):
    """`operations`: where Conv2d comes from, torch.nn or ComfyUI's operations."""

    PATCH = 4

    def __init__(self, config: AutoencoderConfig, operations=nn, dtype=None, device=None):
        super().__init__()
        self.config = config
        width, latent, patch = config.width, config.latent_channels, self.PATCH**2

        def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            return operations.Conv2d(
                inputs, outputs, kernel, stride=stride, padding=kernel // 2, dtype=dtype, device=device
            )

        def blocks(count: int = config.blocks) -> list[nn.Module]:
            return [ResidualBlock(width, operations, dtype, device) for _ in range(count)]

        down, up = [], blocks(config.decoder_depth)  # between a quarter and an eighth
        if config.factor == 8:
            down = [conv(width, width, stride=2), *blocks()]
            up = [*up, nn.Upsample(scale_factor=2), conv(width, width), *blocks()]
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(self.PATCH), conv(3 * patch, width), *blocks(), *down, conv(width, latent)
        )
        self.from_latent = conv(latent, latent, 1)  # undoes the scale that the encoder's last convolution has
        self.decoder = nn.Sequential(
            conv(latent, width), *up,
            conv(width, config.head * patch), nn.PixelShuffle(self.PATCH), nn.SiLU(), conv(config.head, 3),
        )  # fmt: skip

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in -1 .. 1, H and W multiples of the factor f -> (N, 4, H/f, W/f)."""
        return self.encoder(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, 4, h, w) -> (N, 3, f*h, f*w), about -1 .. 1, not clamped."""
        return self.decoder(self.from_latent(latents))
