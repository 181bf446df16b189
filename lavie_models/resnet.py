"""Convolutional parts of the UNet, and the layout of clips and images on the batch axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .config import NORM_GROUPS


@dataclass(frozen=True)
class ClipLayout:
    """How a batch of N frames divides: ``videos`` clips of ``frames`` adjacent frames, then ``images`` single images.

    Images meet a video in shared parameters only: their statistics and attention are their own.
    """

    videos: int
    frames: int
    images: int = 0

    @property
    def video_frames(self) -> int:
        return self.videos * self.frames

    def apart(self, function, x: torch.Tensor, *args) -> torch.Tensor:
        """``function(clips, x, ...)`` with the videos as clips and each image as a clip of one frame, joined again."""
        if not self.images:
            return function(self, x, *args)
        videos, images = ClipLayout(self.videos, self.frames), ClipLayout(self.images, 1)
        parts = x.split((self.video_frames, self.images))
        return torch.cat([function(clips, part, *args) for clips, part in zip((videos, images), parts, strict=True)])

    def videos_only(self, function, x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        """``function(clips, x, ...)`` of the videos alone; images pass by unchanged."""
        if not self.images:
            return function(self, x, *args)
        videos = function(ClipLayout(self.videos, self.frames), *(t[: self.video_frames] for t in (x, *args)))
        return torch.cat((videos, x[self.video_frames :]))


def _clip_group_norm(clips: ClipLayout, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    if clips.frames == 1:
        return norm(x)
    _, c, h, w = x.shape
    # Channels-last memory is (clip, frame, h, w, c): with frames and rows seen as one axis it is again a
    # channels-last image, so the ordinary kernel normalises over (channels of the group, F, H, W) without a copy.
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    x = norm(x.reshape(clips.videos, clips.frames * h, w, c).permute(0, 3, 1, 2))
    x = x.permute(0, 2, 3, 1).reshape(clips.video_frames, h, w, c)
    return x.permute(0, 3, 1, 2)


def clip_group_norm(norm: nn.Module, x: torch.Tensor, clips: ClipLayout) -> torch.Tensor:
    """GroupNorm of (N, C, H, W) whose statistics span all frames of a clip."""
    return clips.apart(_clip_group_norm, x, norm)


def silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU of a temporary: in place where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add(temporary: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The sum, kept in the temporary's memory where no gradient needs it."""
    return temporary + x if torch.is_grad_enabled() else temporary.add_(x)


class ResBlock(nn.Module):
    """Two convolutions per frame with clip-wide GroupNorm and the timestep embedding between them."""

    def __init__(self, in_channels, out_channels, time_dim, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.in_layers = nn.Sequential(
            operations.GroupNorm(NORM_GROUPS, in_channels, **factory),
            nn.SiLU(),
            operations.Conv2d(in_channels, out_channels, 3, padding=1, **factory),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(time_dim, out_channels, **factory))
        self.out_layers = nn.Sequential(
            operations.GroupNorm(NORM_GROUPS, out_channels, **factory),
            nn.SiLU(),
            nn.Identity(),  # keeps the published index of the convolution; dropout there is zero
            operations.Conv2d(out_channels, out_channels, 3, padding=1, **factory),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else operations.Conv2d(in_channels, out_channels, 1, **factory)

    def forward(self, x, emb, clips: ClipLayout):
        """(N, in_channels, H, W), emb (N, time_dim) -> (N, out_channels, H, W)."""
        h = self.in_layers[2](silu(clip_group_norm(self.in_layers[0], x, clips)))
        h = add(h, self.emb_layers(emb).to(h.dtype)[:, :, None, None])
        h = self.out_layers[3](silu(clip_group_norm(self.out_layers[0], h, clips)))
        return add(h, self.skip_connection(x))


def _frame_convolution(channels, kernel, operations, factory):
    """Over height and width where ``kernel`` is None, else over ``kernel`` frames."""
    if kernel is None:
        return operations.Conv2d(channels, channels, 3, padding=1, **factory)
    return operations.Conv3d(channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0), **factory)


class ClipResBlock(nn.Module):
    """Residual block of super-resolution: two convolutions over frames, or over pixels; names as published.

    Args:
        kernels: frames that each convolution spans; None: 3 x 3 pixels of one frame.
        time_dim: width of the timestep embedding; None: the block does not know the timestep.
    """

    def __init__(self, channels, kernels, operations, time_dim=None, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm1, self.norm2 = (operations.GroupNorm(NORM_GROUPS, channels, eps=1e-6, **factory) for _ in range(2))
        self.conv1, self.conv2 = (_frame_convolution(channels, kernel, operations, factory) for kernel in kernels)
        self.time_emb_proj = None if time_dim is None else operations.Linear(time_dim, channels, **factory)

    def forward(self, clips: ClipLayout, x, emb=None):
        """(N, channels, H, W) of whole clips -> the same."""
        h = self._convolve(self.conv1, silu(clip_group_norm(self.norm1, x, clips)), clips)
        if self.time_emb_proj is not None:
            h = add(h, self.time_emb_proj(F.silu(emb)).to(h.dtype)[:, :, None, None])
        h = self._convolve(self.conv2, silu(clip_group_norm(self.norm2, h, clips)), clips)
        return add(h, x)

    @staticmethod
    def _convolve(convolution, x, clips: ClipLayout):
        if convolution.weight.ndim == 4:
            return convolution(x)
        # Channels-last frames of a clip are a channels-last volume: (clip, frame, h, w, c) in memory.
        x = x.contiguous(memory_format=torch.channels_last)
        volume = x.unflatten(0, (clips.videos, clips.frames)).transpose(1, 2)
        return convolution(volume).transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


class TemporalModule(nn.Module):
    """What super-resolution adds after each level: convolutions over frames, then over pixels, then a 1x1 one.

    The last convolution starts at zero, so that a freshly inflated model equals its image model.
    """

    def __init__(self, channels, time_dim, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.resblocks_3d_t = ClipResBlock(channels, (5, 3), operations, time_dim, **factory)
        self.resblocks_3d_s = ClipResBlock(channels, (None, None), operations, time_dim, **factory)
        self.shift_conv = operations.Conv2d(channels, channels, 1, **factory)
        for parameter in self.shift_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, clips: ClipLayout, x, emb):
        """(N, channels, H, W) of whole clips -> the same."""
        h = self.resblocks_3d_s(clips, self.resblocks_3d_t(clips, x, emb), emb)
        return add(self.shift_conv(h), x)


class Downsample(nn.Module):
    """Halve height and width (rounding up) by a strided convolution."""

    def __init__(self, channels, operations, dtype=None, device=None):
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1, dtype=dtype, device=device)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour resize to the size of the skip that comes next, then a convolution."""

    def __init__(self, channels, operations, dtype=None, device=None):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, dtype=dtype, device=device)

    def forward(self, x, size: tuple[int, int]):
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
