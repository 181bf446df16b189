"""Quality without weights: sharpness, exposure, contrast, colour, blocks of strong compression.

These are scores to look at, not to trust: good footage with motion blur has little sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..shots import Shot
from .base import Stage

BLOCK = 8  # pixels: of JPEG, MPEG-2, MPEG-4 and H.264's 8x8 transform
DARK, BRIGHT = 8, 247  # levels beyond which nothing is seen


@dataclass(frozen=True)
class Quality(Stage):
    """No settings."""

    name = "quality"
    packages = ("cv2",)
    columns = {
        "sharpness": "float64", "brightness": "float64", "contrast": "float64", "clipped": "float64",
        "colorfulness": "float64", "blockiness": "float64",
    }  # fmt: skip

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """Medians over the stills.

        sharpness: variance of the Laplacian. brightness, contrast: mean and standard deviation of luma, levels.
        clipped: share of pixels that are all but black or white. colorfulness: Hasler and Suesstrunk 2003, section 7.
        blockiness: steps at multiples of 8 pixels over steps elsewhere; 1 without blocks.
        """
        rows = [[_measure(picture) for picture in shot.pixels.stills] for shot in shots]
        return [dict(zip(self.columns, np.median(stills, axis=0).tolist(), strict=True)) for stills in rows]


def _measure(picture: np.ndarray) -> list[float]:
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    red, green, blue = np.moveaxis(picture.astype(np.float32), -1, 0)
    opponents = red - green, (red + green) / 2 - blue
    spread = np.hypot(*(axis.std() for axis in opponents))
    offset = np.hypot(*(axis.mean() for axis in opponents))
    return [
        float(cv2.Laplacian(grey, cv2.CV_64F).var()), float(grey.mean()), float(grey.std()),
        float(((grey < DARK) | (grey > BRIGHT)).mean()), float(spread + 0.3 * offset), blockiness(grey),
    ]  # fmt: skip


def blockiness(grey: np.ndarray) -> float:
    """Mean step across the borders of blocks over the mean step elsewhere, of both directions."""
    ratios = []
    for image in (grey, grey.T):
        steps = np.abs(np.diff(image.astype(np.float32), axis=1)).mean(0)  # (W - 1,): from column x to x + 1
        border = np.arange(len(steps)) % BLOCK == BLOCK - 1
        if border.any():
            ratios.append((steps[border].mean() + 0.01) / (steps[~border].mean() + 0.01))
    return float(np.mean(ratios)) if ratios else 1.0
