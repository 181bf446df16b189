"""Metrics, one file each: what it computes, what it needs, its protocol in words and its source.

A new one is a file with METRICS, and its name in the list below.
"""

from __future__ import annotations

from . import (
    clipsim,
    drift,
    flicker,
    frame_consistency,
    fvd,
    inception_score,
    lpips,
    motion,
    psnr_ssim,
    seams,
    sharpness,
    warping_error,
)
from .base import Metric

FILES = (
    fvd, inception_score, clipsim, frame_consistency, flicker, motion, warping_error, sharpness, psnr_ssim, lpips,
    seams, drift,
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for file in FILES for metric in file.METRICS}
