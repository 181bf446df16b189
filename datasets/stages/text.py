"""Text in the picture: how much of it, for how long, and what; text that stays in its place is a watermark.

PP-OCR models of the package rapidocr, which brings their weights. What it reads with less confidence than `confidence`
is no text: real footage gives false boxes of about 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..shots import Shot
from .base import Stage

SAME_PLACE = 0.5  # intersection over union
WHOLE = 0.9  # of the picture: some pictures without text are read as one large letter


@dataclass(frozen=True)
class Text(Stage):
    """confidence: least of a reading, 0 to 1."""

    confidence: float = 0.8

    name = "text"
    packages = ("rapidocr", "onnxruntime")
    columns = {"text_area": "float64", "text_time": "float64", "watermark_area": "float64", "text": "string"}

    def setup(self, device: str, folder: Path) -> Any:
        """The reader."""
        import logging

        from rapidocr import RapidOCR

        reader = RapidOCR(params={"Global.log_level": "critical"})
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)  # it warns of every picture without text
        return reader

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """text_area, watermark_area: shares of the picture; text_time: share of the stills that show text."""
        return [self._read(shot, models) for shot in shots]

    def _read(self, shot: Shot, reader) -> dict[str, Any]:
        found = [self._boxes(picture, reader) for picture in shot.pixels.stills]
        areas = [sum(map(_area, boxes)) for boxes, _ in found]
        boxes = [boxes for boxes, _ in found]
        staying = [box for box in boxes[0] if all(any(_overlap(box, o) >= SAME_PLACE for o in b) for b in boxes[1:])]
        size = shot.width * shot.height
        return {
            "text_area": float(np.mean(areas)) / size, "text_time": float(np.mean([area > 0 for area in areas])),
            "watermark_area": sum(map(_area, staying)) / size,
            "text": " | ".join(dict.fromkeys(word for _, words in found for word in words)),
        }  # fmt: skip

    def _boxes(self, picture: np.ndarray, reader) -> tuple[list[np.ndarray], list[str]]:
        """([left, top, right, bottom] each, what they say)."""
        result = reader(np.ascontiguousarray(picture[..., ::-1]))  # it reads BGR
        if result.boxes is None or not result.txts:
            return [], []
        read = zip(result.boxes, result.txts, result.scores, strict=True)
        sure = [(np.concatenate([box.min(0), box.max(0)]), text.strip()) for box, text, score in read
                if score >= self.confidence and text.strip()]  # fmt: skip
        size = picture.shape[0] * picture.shape[1]
        sure = [(box, text) for box, text in sure if _area(box) < WHOLE * size]
        return [box for box, _ in sure], [text for _, text in sure]


def _area(box: np.ndarray) -> float:
    return float(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    shared = _area(np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])]))
    return shared / max(1e-9, _area(one) + _area(other) - shared)
