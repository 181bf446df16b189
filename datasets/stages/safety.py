"""Safety: nudity, by the detector that the package nudenet brings. Off unless a blueprint asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shots import Shot
from .base import Stage

EXPOSED = {
    "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "FEMALE_BREAST_EXPOSED", "ANUS_EXPOSED", "BUTTOCKS_EXPOSED"
}  # fmt: skip


@dataclass(frozen=True)
class Safety(Stage):
    """No settings."""

    name = "safety"
    packages = ("nudenet",)
    columns = {"nudity": "float64"}

    def setup(self, device: str, folder: Path) -> Any:
        """The detector."""
        from nudenet import NudeDetector

        return NudeDetector()

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """nudity: the highest confidence, 0 to 1, that any still shows exposed parts."""
        return [{"nudity": max(_score(models, picture) for picture in shot.pixels.stills)} for shot in shots]


def _score(detector, picture) -> float:
    found = detector.detect(picture[..., ::-1].copy())  # it reads BGR
    return max((float(box["score"]) for box in found if box["class"] in EXPOSED), default=0.0)
