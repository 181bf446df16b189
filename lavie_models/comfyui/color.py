"""Colours of enlarged frames put right: their low frequencies are taken from the frames that they were made of.

A super-resolution network shifts colours a little, everywhere or in patches; what it adds is the fine detail. The
difference between the small frame, enlarged by bicubic interpolation, and the result is blurred and added to the
result, as the wavelet colour fix of other upscalers does with an a-trous wavelet in the place of the Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import comfy.model_management
import comfy.utils
import kornia
import torch

RADIUS = 2.0  # pixels of the small frames; measured, see web/docs/LaVieColorCorrection.md
LEAST_RADIUS, LARGEST_RADIUS = 0.25, 64.0
REACH = 3  # standard deviations on either side that a kernel goes
FRAMES_AT_ONCE = 4  # corrected together: some 0.2 GB a frame of 2048 x 1280


def check_reference(size: Sequence[int], reference: torch.Tensor) -> None:
    """Whether frames of ``size`` (F, H, W, ...) can have been made of ``reference`` (F, h, w, C). Raises ValueError."""
    count, height, width = size[:3]
    given, low, narrow = reference.shape[:3]
    if given != count:
        raise ValueError(
            f"reference must have a frame for each of the {count} frames, got {given}; connect the frames that "
            "they were made of"
        )
    if low > height or narrow > width or abs(height - width * low / narrow) > height / low:
        raise ValueError(
            f"reference must be the frames before enlarging, as wide and high or smaller and of the same shape as "
            f"{width} x {height}, got {narrow} x {low}"
        )


def correct_colors(images: torch.Tensor, reference: torch.Tensor, radius: float = RADIUS) -> torch.Tensor:
    """Frames (F, H, W, 3), 0 .. 1, with the low frequencies of ``reference`` (F, h, w, 3), on the device of ``images``.

    Args:
        radius: standard deviation of the Gaussian that parts low frequencies from high ones, in pixels of the
            reference: more keeps more of the images.
    """
    device = comfy.model_management.get_torch_device()
    result, small = (frames[..., :3].movedim(-1, 1).to(device) for frames in (images, reference))
    height, width = result.shape[2:]
    wanted = comfy.utils.common_upscale(small, width, height, "bicubic", "disabled").clamp(0, 1)
    sigmas = tuple(radius * large / low for large, low in zip((height, width), small.shape[2:], strict=True))
    sizes = tuple(2 * math.ceil(REACH * sigma) + 1 for sigma in sigmas)
    shift = kornia.filters.gaussian_blur2d(wanted - result, sizes, sigmas, border_type="replicate")
    return (result + shift).clamp(0, 1).movedim(1, -1).to(images)


def correct_clip(images: torch.Tensor, reference: torch.Tensor, radius: float = RADIUS) -> torch.Tensor:
    """`correct_colors` of a clip, a few frames at a time: beside the result no second clip is held.

    Raises:
        ValueError: as `check_reference` does.
        InterruptProcessingException: between two parts, when the run is cancelled.
    """
    check_reference(images.shape, reference)
    corrected, progress = torch.empty_like(images[..., :3]), comfy.utils.ProgressBar(len(images))
    for part in torch.arange(len(images)).split(FRAMES_AT_ONCE):
        comfy.model_management.throw_exception_if_processing_interrupted()
        frames = slice(part[0], part[-1] + 1)
        corrected[frames] = correct_colors(images[frames], reference[frames], radius)
        progress.update(len(part))
    return corrected
