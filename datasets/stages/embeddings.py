"""Embeddings: where CLIP puts a shot, by which `select` finds shots that show the same, however they are framed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shots import Shot
from .base import Stage, Weights
from .clip import CLIP_SOURCE, ClipEncoder


@dataclass(frozen=True)
class Embeddings(Stage):
    """clip: a folder in the weights' folder."""

    clip: str = "clip-vit-large-patch14"

    name = "embeddings"
    packages = ("torch", "transformers")
    columns = {"embedding": "list<float>"}
    needs_device = True

    def weights(self, folder: Path) -> list[Weights]:
        """CLIP."""
        return [Weights(folder / self.clip, CLIP_SOURCE)]

    def setup(self, device: str, folder: Path) -> Any:
        """CLIP."""
        return ClipEncoder.load(folder / self.clip, device)

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """embedding: the mean over the stills, of length 1: 768 numbers of ViT-L/14, 3 kB a shot."""
        means = models.embed_shots(shots).mean(1)
        units = means / means.norm(dim=-1, keepdim=True)
        return [{"embedding": unit} for unit in units.tolist()]
