"""Where a frame stands in its clip: rotary embedding, relative position bias; and when: the timestep embedding.

Paper section 3.2: temporal self-attention turns queries and keys by rotary positions and adds a learned bias per
relative distance. Tables depend on the frame count alone, so they are built once per forward pass and shared.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from .config import ROTARY_DIM

BIAS_BUCKETS = 32
BIAS_MAX_DISTANCE = 32


def rotary_frequencies(device=None) -> torch.Tensor:
    """Angle per frame of each rotated pair, (ROTARY_DIM / 2,) float32: 10000^(-2j / ROTARY_DIM)."""
    exponents = torch.arange(0, ROTARY_DIM, 2, dtype=torch.float32, device=device) / ROTARY_DIM
    return 1.0 / 10000.0**exponents


def relative_position_buckets(frames: int, device=None) -> torch.Tensor:
    """Bucket of (key frame - query frame) for every pair, (frames, frames) int64 in 0 .. BIAS_BUCKETS - 1.

    As in T5: one half of the buckets for keys at or before the query, one half for keys after it; within a half,
    short distances exactly and longer ones logarithmically, up to BIAS_MAX_DISTANCE.
    """
    position = torch.arange(frames, device=device)
    offset = position[None, :] - position[:, None]  # (query, key)
    half = BIAS_BUCKETS // 2
    exact = half // 2
    distance = offset.abs()
    log_ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(BIAS_MAX_DISTANCE / exact)
    far = (exact + (log_ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + (offset > 0) * half


class FramePositions(NamedTuple):
    """Tables for clips of F frames: ``cos`` and ``sin`` (F, 1, ROTARY_DIM / 2) float32, ``buckets`` (F, F)."""

    cos: torch.Tensor
    sin: torch.Tensor
    buckets: torch.Tensor

    @classmethod
    def of(cls, frames: int, device=None) -> FramePositions:
        position = torch.arange(frames, dtype=torch.float32, device=device)
        angle = (position[:, None] * rotary_frequencies(device))[:, None]
        return cls(angle.cos(), angle.sin(), relative_position_buckets(frames, device))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Turn interleaved channel pairs of (..., F, heads, head_size) by their frame's angle; rest unchanged."""
        even, odd = x[..., :ROTARY_DIM].float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((even * self.cos - odd * self.sin, odd * self.cos + even * self.sin), dim=-1)
        turned = turned.flatten(-2).to(x.dtype)
        return turned if x.shape[-1] == ROTARY_DIM else torch.cat((turned, x[..., ROTARY_DIM:]), dim=-1)


def timestep_embedding(timesteps: torch.Tensor, channels: int) -> torch.Tensor:
    """Sinusoidal embedding of (N,) timesteps, fractional ones too -> (N, channels) float32, cosines first."""
    half = channels // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=timesteps.device).float() / half)
    angle = timesteps.float()[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1)
