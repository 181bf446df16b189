"""Work on large activations a part at a time, where no gradient needs them whole.

Contract: results are those of the whole, up to rounding. What is per frame (convolutions over pixels, attention within
a frame) goes by frames; what spans frames (temporal convolutions and attention) goes by pixels. A GroupNorm spans a
clip: `ClipNorm` takes its statistics first and then normalises any part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .clips import ClipLayout

# Values that are worked on at a time. On the CPU a part also stays in cache; elsewhere large kernels matter more.
CHUNK_VALUES_CPU = 2**19
CHUNK_VALUES = 2**23
PROBE = 8.0  # so far above any GroupNorm's eps that eps does not show


def chunk_values(x: torch.Tensor) -> int:
    """Values that are worked on at a time on the device of ``x``."""
    return CHUNK_VALUES_CPU if x.device.type == "cpu" else CHUNK_VALUES


def chunks(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
    """Views of ``x`` along ``dim``, of about the number of values that fit."""
    return x.split(max(1, chunk_values(x) * x.shape[dim] // max(1, x.numel())), dim)


def keeps_whole(x: torch.Tensor, clips: ClipLayout) -> bool:
    """Whether to compute on ``x`` as a whole: for gradients, where images are joined, and where it is small."""
    return torch.is_grad_enabled() or bool(clips.images) or x.numel() <= chunk_values(x)


def frame_parts(x: torch.Tensor, clips: ClipLayout) -> Iterator[tuple[int, slice]]:
    """(video, frames of the batch) for (N, ...) videos: as many frames of one video as fit, one at least."""
    step = max(1, chunk_values(x) * x.shape[0] // x.numel())
    for video in range(clips.videos):
        start, end = video * clips.frames, (video + 1) * clips.frames
        for first in range(start, end, step):
            yield video, slice(first, min(first + step, end))


def pixel_parts(x: torch.Tensor, clips: ClipLayout) -> Iterator[tuple[int, slice, slice]]:
    """(video, its frames, rows) for (N, C, H, W) videos: as many rows of all frames of one video as fit."""
    height = x.shape[2]
    step = max(1, chunk_values(x) * clips.videos * height // x.numel())
    for video in range(clips.videos):
        frames = slice(video * clips.frames, (video + 1) * clips.frames)
        for first in range(0, height, step):
            yield video, frames, slice(first, min(first + step, height))


def _affine(norm: nn.GroupNorm, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a norm layer as it applies them, (C,) float32: what it answers to a known input.

    Reading its parameters would pass by what ComfyUI's layers do to them: LoRAs, casts, moves between devices.
    """
    probe = like.new_zeros(1, norm.num_channels, 4)
    probe[..., 0], probe[..., 1] = PROBE, -PROBE
    high, low, zero, _ = norm(probe).float().unbind(-1)
    normalised = PROBE / math.sqrt(PROBE**2 / 2 + norm.eps)
    return ((high - low) / (2 * normalised))[0], zero[0]


class _Moments(NamedTuple):
    """Of some values of each channel: how many, their mean (C,) and the sum of squared distances from it (C,)."""

    count: int
    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> _Moments:
        """(N, C, H, W)"""
        flat = x.permute(0, 2, 3, 1).flatten(0, 2).float()
        mean = flat.mean(0)
        return cls(flat.shape[0], mean, (flat - mean).square_().sum(0))

    @staticmethod
    def join(moments: list[_Moments], groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (C,) of each channel's group over all of ``moments``."""
        count = sum(m.count for m in moments)
        means = torch.stack([m.mean for m in moments]).unflatten(1, (groups, -1))  # (parts, groups, channels)
        shares = [m.count / count for m in moments]  # plain numbers: nothing is copied to the device
        mean = sum(share * of_part.mean(1, keepdim=True) for share, of_part in zip(shares, means, strict=True))
        spread = sum(m.spread for m in moments).unflatten(0, (groups, -1)).mean(1) / count
        offsets = (means - mean).square().mean(2)
        variance = spread + sum(share * of_part for share, of_part in zip(shares, offsets, strict=True))
        width = means.shape[2]
        return mean[:, 0].repeat_interleave(width), variance.repeat_interleave(width)


class ClipNorm:
    """SiLU of a GroupNorm whose statistics span a clip, for parts of it. `see` every part, then call it with any.

    Results are new tensors; ``norm`` is one of the network's layers, ``clips`` the layout of what it will see.
    """

    def __init__(self, norm: nn.GroupNorm, clips: ClipLayout):
        self._norm = norm
        self._moments: list[list[_Moments]] = [[] for _ in range(clips.videos)]
        self._known: list | None = None
        self._affine = None

    def see(self, video: int, *tensors: torch.Tensor) -> None:
        """Take (n, C, h, w) of a video into the statistics; of several tensors the channels stand side by side."""
        height, values = tensors[0].shape[2], sum(t.numel() for t in tensors)
        step = max(1, chunk_values(tensors[0]) * height // values)
        for first in range(0, height, step):
            seen = [_Moments.of(t[:, :, first : first + step]) for t in tensors]
            joined = (torch.cat([getattr(m, name) for m in seen]) for name in ("mean", "spread"))
            self._moments[video].append(_Moments(seen[0].count, *joined))

    def __call__(self, video: int, x: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) of a video, normalised by the whole video's statistics, and SiLU of it."""
        if self._known is None:
            self._known = [_Moments.join(moments, self._norm.num_groups) for moments in self._moments]
            self._affine = _affine(self._norm, x)
        mean, variance = self._known[video]
        return F.silu(F.batch_norm(x, mean, variance, *self._affine, False, 0.0, self._norm.eps), inplace=True)
