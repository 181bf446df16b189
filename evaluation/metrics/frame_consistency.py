"""Frame consistency: how much each frame looks like the one before, to a network for pictures.

A still picture has 1, so that it means nothing without a measure of motion beside it.
"""

from __future__ import annotations

import numpy as np

from .base import NOT_MEASURED, Clip, Metric, Setup
from .weight_files import CLIP, DINO


def neighbour_cosine(features: np.ndarray) -> float:
    """Mean cosine of neighbouring unit vectors, (F, D)."""
    return float((features[1:] * features[:-1]).sum(1).mean()) if len(features) > 1 else NOT_MEASURED


def _starter(encoder_name: str):
    def start(setup: Setup):
        from . import clip_model  # torch is slow to import

        encoder = getattr(clip_model, encoder_name)(setup)

        def measure(clip: Clip) -> float:
            return neighbour_cosine(encoder.frames(clip))

        return measure

    return start


METRICS = (
    Metric(
        "frame_consistency_clip", "frame consistency, CLIP", "higher",
        "Mean cosine of neighbouring frames in OpenAI's CLIP ViT-B/32 (image embeddings).",
        _starter("ClipEncoder"), needs=(CLIP,), digits=4,
    ),
    Metric(
        "frame_consistency_dino", "frame consistency, DINO", "higher",
        "Mean cosine of neighbouring frames in DINO ViT-B/16 (class token).",
        _starter("DinoEncoder"), needs=(DINO,), digits=4,
    ),
)  # fmt: skip
