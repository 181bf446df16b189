"""What is measured on frames whose truth is known. Pixels in, numbers out; pixels are uint8 RGB (F, H, W, 3).

Cover is how much of each pixel the one coloured thing fills, 0 .. 1, read from chroma: backgrounds and a thing's small
details have none. Lengths are in pixels of the frames given. What needs no scene is in `evaluation.metrics`.
"""

from __future__ import annotations

import numpy as np

from ..shapes import COLORS, DIRECTIONS, Scene


def cover(frames: np.ndarray, scene: Scene) -> np.ndarray:
    """Cover of the scene's thing, float32 (F, H, W), turned so that the motion runs along the last axis, rightwards."""
    chroma = frames.max(-1).astype(np.float32) - frames.min(-1)
    filled = np.clip(chroma / np.ptp(COLORS[scene.color]), 0, 1)
    dx, dy = DIRECTIONS[scene.direction]
    filled = filled.swapaxes(1, 2) if dy else filled
    return filled[..., ::-1] if dx + dy < 0 else filled


def outline(covers: np.ndarray) -> np.ndarray:
    """(F, 2, H): where each line along the motion first and last crosses half cover; NaN on empty lines.

    Linear between pixels, which is good to a tenth of a pixel.
    """
    width = covers.shape[2]
    covers = np.pad(covers, ((0, 0), (0, 0), (1, 1)))
    high = covers >= 0.5
    first = high.argmax(2)
    last = width + 1 - high[..., ::-1].argmax(2)

    def crossing(inside: np.ndarray, step: int) -> np.ndarray:
        into = np.take_along_axis(covers, inside[..., None], 2)[..., 0]
        out_of = np.take_along_axis(covers, inside[..., None] + step, 2)[..., 0]
        return inside - 1 + 0.5 + step * (into - 0.5) / np.maximum(into - out_of, 1e-6)

    ends = np.stack([crossing(first, -1), crossing(np.minimum(last, width), 1)], 1)
    return np.where(high.any(2)[:, None], ends, np.nan)


def outline_shift(seen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(F, 2) how far the trailing and the leading outline of cover `seen` are ahead of the truth's, pixels.

    Medians over the lines that cross both; NaN in frames without a thing.
    """
    difference = outline(seen) - outline(truth)
    empty = np.isnan(difference).all(2)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty[..., None], 0, difference), 2))


def cover_error(seen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(F,) wrong cover, in pixels of motion: the sum of |difference| over what the truth's moving by a pixel makes.

    A whole copy that is off by d <= 1 pixels scores d; ghosts and blurred outlines score too. Only the strip is looked
    at that the thing passes in the clip.
    """
    strip = truth.max(0) > 0
    moved = np.abs(np.diff(truth, axis=2, prepend=0, append=0)).sum((1, 2))  # of shifting by one pixel
    return (np.abs(seen - truth) * strip).sum((1, 2)) / np.maximum(moved, 1e-6)


def rmse(seen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(F,) root mean square error of the colours, of 255."""
    return np.sqrt(np.square(seen.astype(np.float32) - truth).mean((1, 2, 3)))
