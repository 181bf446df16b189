"""From frames of a file to the pixels of a batch: cut out, resize, mirror."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .plan import Draw
from .sources import read_frames


def render(draw: Draw) -> np.ndarray:
    """The pixels of a draw, uint8 (count, height, width, 3). Raises DataError naming the item if it cannot be read."""
    if draw.kind == "pan":
        frames = np.broadcast_to(still := read_frames(draw.item, [0]), (draw.count, *still.shape[1:]))
    else:
        frames = read_frames(draw.item, range(draw.start, draw.start + draw.count * draw.stride, draw.stride))
    left, top, width, height = draw.box
    way = np.linspace(0.0, 1.0, draw.count) if draw.count > 1 else np.zeros(1)
    boxes = [(left + at * draw.drift[0], top + at * draw.drift[1], width, height) for at in way]
    cut = np.stack([_cut(frame, box, draw.size) for frame, box in zip(frames, boxes, strict=True)])
    return np.ascontiguousarray(cut[:, :, ::-1]) if draw.flip else cut


def _cut(frame: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Pixels are copied where the box is whole pixels of the right size, else resampled (antialiased bicubic)."""
    left, top, width, height = box
    if (width, height) == size and left == int(left) and top == int(top):
        return frame[int(top) : int(top) + size[1], int(left) : int(left) + size[0]]
    edges = (left, top, min(left + width, frame.shape[1]), min(top + height, frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box=edges))
