"""Optical flow without weights: DIS (Kroeger et al. 2016) of OpenCV, and looking up pictures along it.

Contract: a flow is float32 (H, W, 2), x before y, pixels; the pixel at p of the one frame is at p + flow(p) in the
other. Frames are uint8 RGB.
"""

from __future__ import annotations

import numpy as np

from .base import Clip

SMALLEST = 32  # pixels; the patches of DIS need so much


def flow_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where the pixels of `one` went in `other`; DIS at its medium preset, on luma."""
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    one, other = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (one, other))
    return dis.calc(one, other, None)


def forward_flows(clip: Clip) -> np.ndarray:
    """(F - 1, H, W, 2) from each frame to the next; made once a clip."""
    return clip.once("forward flows", lambda: _flows(clip.frames[:-1], clip.frames[1:]))


def backward_flows(clip: Clip) -> np.ndarray:
    """(F - 1, H, W, 2) from each frame but the first to the one before; made once a clip."""
    return clip.once("backward flows", lambda: _flows(clip.frames[1:], clip.frames[:-1]))


def has_flow(clip: Clip) -> bool:
    """Whether there are two frames, and large enough."""
    return len(clip.frames) > 1 and min(clip.frames.shape[1:3]) >= SMALLEST


def look_up(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """float32 (H, W, ...) whose value at p is the picture's at p + flow(p), bilinear; outside it is NaN."""
    import cv2

    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    place = (x + flow[..., 0], y + flow[..., 1])
    inside = (place[0] >= 0) & (place[0] <= width - 1) & (place[1] >= 0) & (place[1] <= height - 1)
    found = cv2.remap(picture.astype(np.float32), *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found[~inside] = np.nan
    return found


def _flows(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.stack([flow_between(one, other) for one, other in zip(ones, others, strict=True)])
