"""Networks that are given as TorchScript files: their code comes with their weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import EvaluationError
from .base import Clip


def load_network(path: Path, device: str) -> torch.jit.ScriptModule:
    """The network of a TorchScript file. Raises EvaluationError if it is none."""
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EvaluationError(f"{path} is no TorchScript file ({reason}); get it again from its source") from None


def video_tensor(frames: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (F, H, W, 3) -> float32 (1, 3, F, H, W), 0 .. 255."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(3, 0, 1, 2)[None].float()


def centre_square(video: torch.Tensor) -> torch.Tensor:
    """The middle of (..., H, W), as wide as high."""
    height, width = video.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return video[..., top : top + side, left : left + side]


def resize(video: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(1, 3, F, H, W) -> (1, 3, F, height, width), bilinear, corners not aligned, no antialiasing."""
    frames = video[0].transpose(0, 1)
    return F.interpolate(frames, (height, width), mode="bilinear", align_corners=False).transpose(0, 1)[None]


def feature_function(
    network: torch.nn.Module, prepare: Callable[[torch.Tensor], torch.Tensor], frames: int, width: int, device: str,
    random_offset: bool = False, **options,
) -> Callable[[Clip], np.ndarray]:  # fmt: skip
    """A function of a clip: what the network says, float32 (width,), of `frames` frames as `prepare` makes them.

    They are the clip's first ones; with `random_offset`, those of a real clip begin where its content decides.
    Raises EvaluationError for shorter clips, and for a network that says something else.
    """

    @torch.no_grad()
    def features(clip: Clip) -> np.ndarray:
        places = len(clip.frames) - frames + 1
        if places < 1:
            raise EvaluationError(f"{clip.record.file} has {len(clip.frames)} frames; expected {frames} at least")
        first = zlib.crc32(clip.record.id.encode()) % places if random_offset and clip.real else 0
        said = network(prepare(video_tensor(clip.frames[first : first + frames], device)), **options)
        if tuple(said.shape) != (1, width):
            raise EvaluationError(f"the network gives {tuple(said.shape)}, expected (1, {width}): it is another one")
        return said[0].float().cpu().numpy()

    return features
