"""CLIPSIM (Wu et al., GODIVA, 2021): how near frames are to their prompt."""

from __future__ import annotations

from .base import NOT_MEASURED, Clip, Metric, Setup
from .weight_files import CLIP


def _start(setup: Setup):
    from .clip_model import ClipEncoder  # torch is slow to import

    encoder = ClipEncoder(setup)

    def measure(clip: Clip) -> float:
        if clip.record.prompt is None:
            return NOT_MEASURED
        return float((encoder.frames(clip) @ encoder.text(clip.record.prompt)).mean())

    return measure


METRICS = (
    Metric(
        "clipsim", "CLIPSIM", "higher",
        "Mean over all frames of the cosine of frame and prompt in OpenAI's CLIP ViT-B/32, with its own preprocessing "
        "(short side to 224, bicubic, centre square); the prompt alone, without a template.",
        _start, needs=(CLIP,), prompt=True, digits=4,
    ),
)  # fmt: skip
