"""Motion: how far things move in half a second, and how much of it is the camera's.

Dense inverse search flow (OpenCV; Kroeger et al., arXiv 1603.03590), no weights, between small pictures. The camera's
part is the similarity transform that most of the picture follows; the rest is what objects do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..shots import SERIES_SECONDS, Shot
from .base import Stage

GRID = 8  # pixels between the points that the camera's motion is fitted to
INLIER = 1.0  # pixels


@dataclass(frozen=True)
class Motion(Stage):
    """max_pairs: at most so many pairs of pictures, spread over the shot."""

    max_pairs: int = 8

    name = "motion"
    packages = ("cv2",)
    columns = {"motion": "float64", "motion_camera": "float64", "motion_objects": "float64", "motion_least": "float64"}

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """Pixels in half a second at 256 pixels of the longer side: mean over picture and pairs; least of a pair."""
        import cv2

        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        return [self._measure(shot, flow, cv2) for shot in shots]

    def _measure(self, shot: Shot, flow, cv2) -> dict[str, Any]:
        greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in shot.pixels.series]
        if len(greys) < 2 or min(greys[0].shape) < 16:
            return dict.fromkeys(self.columns)
        count = min(self.max_pairs, len(greys) - 1)
        firsts = np.linspace(0, len(greys) - 2, count).round().astype(int)
        fields = [flow.calc(greys[i], greys[i + 1], None) for i in firsts]
        scale = SERIES_SECONDS / shot.pixels.pace
        total = scale * np.array([np.linalg.norm(field, axis=2).mean() for field in fields])
        parts = scale * np.array([_camera_and_objects(field, cv2) for field in fields])
        camera, objects = parts.mean(0)
        return {
            "motion": float(total.mean()), "motion_camera": float(camera), "motion_objects": float(objects),
            "motion_least": float(total.min()),
        }  # fmt: skip


def _camera_and_objects(field: np.ndarray, cv2) -> tuple[float, float]:
    """Mean length of what one similarity transform explains of a flow (H, W, 2), and of the rest."""
    height, width, _ = field.shape
    points = np.stack(np.meshgrid(np.arange(0, width, GRID), np.arange(0, height, GRID)), -1).reshape(-1, 2)
    vectors = field[points[:, 1], points[:, 0]]
    cv2.setRNGSeed(0)
    transform, _ = cv2.estimateAffinePartial2D(
        points.astype(np.float32), points + vectors, method=cv2.RANSAC, ransacReprojThreshold=INLIER
    )  # fmt: skip
    if transform is None:
        return 0.0, float(np.linalg.norm(vectors, axis=1).mean())
    camera = points @ transform[:, :2].T + transform[:, 2] - points
    return float(np.linalg.norm(camera, axis=1).mean()), float(np.linalg.norm(vectors - camera, axis=1).mean())
