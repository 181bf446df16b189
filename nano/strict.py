"""How near generated clips come to true ones, frame by frame: outlines, steadiness, and each frame judged alone.

Contract: pixels and the scene that was asked for in, numbers out, by the segmentation of `measure`. Nothing here is
averaged over a clip before it is judged, so a thing that changes its outline from frame to frame cannot pass. A frame
without a single thing counts as 0, or as wrong. True clips through the VAE, measured alike, are the ceiling.

* outline: intersection over union (IoU) of a frame's mask and the mask of the asked thing, drawn turned as asked at
  the length and the place, in quarter pixels, that fit best. Lengths are those of training.
* steadiness: IoU of neighbouring frames' masks, the second moved so that both have the same centroid.
* thing, facing: what a frame shows, judged alone, is what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from ..evaluation.statistics import mean
from ..tables import markdown_table
from .measure import cover_of, segment, thing_of, to_chroma
from .shapes import HEADED, LOW, REFERENCE_SIZE, Scene, render

_LENGTHS = 9  # drawn between the smallest and the largest of training
_PHASES = 4  # places within a pixel, each way


@dataclass(frozen=True)
class Strictness:
    """Means over the frames of one clip, 0 .. 1; facing is None for things without a heading."""

    outline: float
    steadiness: float
    thing: float
    facing: float | None


MEASURES = {
    "outline": "outline, IoU",
    "steadiness": "steadiness, IoU",
    "thing": "thing, by single frames",
    "facing": "facing, by single frames",
}  # fields of Strictness, as tables name them


def measure_frames(frames: np.ndarray, scene: Scene) -> Strictness:
    """Measure a clip, uint8 (F, H, W, 3) with H = W >= 64, that was asked to show the scene's thing and direction."""
    chroma = to_chroma(frames)
    found = [segment(one) for one in chroma]
    masks = [mask for mask, _ in found]
    covers = [cover_of(one, *pair) if pair[0].any() else 0 * one for one, pair in zip(chroma, found, strict=True)]
    facing = scene.direction if scene.thing in HEADED else None
    drawings = _drawings(scene.thing, facing)
    seen = [thing_of(cover) if mask.any() else (None, None) for cover, mask in zip(covers, masks, strict=True)]
    return Strictness(
        outline=float(np.mean([_best_overlap(mask, drawings) for mask in masks])),
        steadiness=float(np.mean([_steady(*pair) for pair in zip(covers, covers[1:], strict=False)] or [1.0])),
        thing=float(np.mean([thing == scene.thing for thing, _ in seen])),
        facing=None if facing is None else float(np.mean([way == facing for _, way in seen])),
    )


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union over the last two axes, bool (..., H, W) both; 0 where both are empty."""
    union = (first | second).sum((-2, -1))
    return (first & second).sum((-2, -1)) / np.maximum(union, 1)


def table(clips: Sequence[Strictness], ceiling: Sequence[Strictness]) -> str:
    """Means over clips with their intervals, the ceiling's and the parts of it that are reached, in Markdown."""
    rows = []
    for field, name in MEASURES.items():
        values, best = (values_of(of, field) for of in (clips, ceiling))
        if values and best:
            parts = f"{np.mean(values) / np.mean(best):.3f}"
            rows.append((name, len(values), mean(values).text(3), mean(best).text(3), parts))
    return markdown_table(["measured", "clips", "mean", "true clips through the VAE", "part of these"], rows)


def values_of(clips: Sequence[Strictness], field: str) -> list[float]:
    """One measure of those clips that have it."""
    return [value for clip in clips if (value := getattr(clip, field)) is not None]


def _best_overlap(mask: np.ndarray, drawings: tuple[np.ndarray, np.ndarray]) -> float:
    """The largest IoU with a drawing, moved by whole pixels to where its centroid is nearest to the mask's."""
    if not mask.any():
        return 0.0
    masks, centroids = drawings
    moves = np.rint(np.array(ndimage.center_of_mass(mask)) - centroids).astype(int)  # (N, 2) as y, x
    return max(
        float(overlap(_moved(masks[(moves == move).all(1)], *move), mask).max()) for move in np.unique(moves, axis=0)
    )


def _moved(masks: np.ndarray, down: int, right: int) -> np.ndarray:
    """Masks, (N, H, W), elsewhere in the frame; what is moved out of it is lost."""
    height, width = masks.shape[1:]
    out = np.zeros_like(masks)
    out[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = masks[
        :, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return out


def _steady(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of where two covers, float (H, W), exceed a half, the second moved to the first's centroid."""
    if not (first.any() and second.any()):
        return 0.0
    way = np.array(ndimage.center_of_mass(first)) - ndimage.center_of_mass(second)
    return float(overlap(first > 0.5, ndimage.shift(second, way, order=1) > 0.5))


@lru_cache(maxsize=32)
def _drawings(thing: str, facing: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(masks, bool (N, H, W); their centroids, (N, 2) as y, x) of a thing at every length and phase."""
    low, high = (LOW.length * (1 + sign * LOW.length_variation) for sign in (-1, 1))
    phases = np.arange(_PHASES) / _PHASES
    middle = REFERENCE_SIZE / 2
    scenes = [
        Scene("red", thing, facing or "right", "black", False, (middle + dx, middle + dy), 0.0, length, 0.5)
        for length in np.linspace(low, high, _LENGTHS) for dx in phases for dy in phases
    ]  # fmt: skip
    masks = np.stack([segment(to_chroma(render(scene, frames=1))[0])[0] for scene in scenes])
    return masks, np.array([ndimage.center_of_mass(mask) for mask in masks])
