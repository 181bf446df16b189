"""Pictures as pixels and as what networks read."""

from __future__ import annotations

import numpy as np
import torch


def to_model(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in -1 .. 1, channels last in memory."""
    return torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in -1 .. 1, clamped -> uint8 (N, H, W, 3) on the CPU."""
    return (images.float().cpu().clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1)
