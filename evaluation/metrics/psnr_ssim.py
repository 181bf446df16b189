"""PSNR and SSIM against a reference, for interpolation, super-resolution and decoders."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from .base import Clip, Metric, Setup

PERFECT_DB = 99.0  # stands for the infinite PSNR of a clip without error
SIGMA, RADIUS = 1.5, 5  # of SSIM's window of 11 x 11
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(seen: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio of all pixels of a clip together, dB; PERFECT_DB at most. uint8 (F, H, W, 3)."""
    mse = np.square(seen.astype(np.float32) - truth).mean(dtype=np.float64)
    return min(PERFECT_DB, float(10 * np.log10(255**2 / max(mse, 1e-12))))


def ssim(seen: np.ndarray, truth: np.ndarray) -> float:
    """Mean SSIM (Wang et al. 2004) of the colours of all frames; the window lies inside the picture."""
    return float(np.mean([_ssim(one.astype(np.float64), other) for one, other in zip(seen, truth, strict=True)]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Of two pictures (H, W, 3)."""

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (SIGMA, SIGMA, 0), radius=(RADIUS, RADIUS, 0))[RADIUS:-RADIUS, RADIUS:-RADIUS]

    y = y.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    spread_x, spread_y, both = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return float((light * (2 * both + C2) / (spread_x + spread_y + C2)).mean())


def _against(figure):
    def start(_setup: Setup):
        def measure(clip: Clip) -> float:
            return figure(clip.frames, clip.reference)

        return measure

    return start


METRICS = (
    Metric(
        "psnr", "PSNR, dB", "higher",
        f"10 log10(255^2 / mean squared error) of all pixels of a clip together, RGB; {PERFECT_DB:g} for no error; "
        "mean over clips.",
        _against(psnr), reference=True, digits=2,
    ),
    Metric(
        "ssim", "SSIM", "higher",
        "Wang et al. 2004 on RGB of 255, Gaussian window 11 x 11 of sigma 1.5, constants 0.01 and 0.03, windows inside "
        "the picture; mean over frames.",
        _against(ssim), reference=True, digits=4,
    ),
)  # fmt: skip
