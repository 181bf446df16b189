"""Agreement of picture and caption, and the category a shot belongs to, both by CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shots import Shot
from .base import Stage, Weights
from .clip import CLIP_SOURCE, ClipEncoder

CATEGORIES = (
    "people", "animals", "nature", "buildings and cities", "vehicles", "food", "sports", "technology", "art", "indoor"
)  # fmt: skip


@dataclass(frozen=True)
class Agreement(Stage):
    """clip: a folder in the weights' folder. categories: words for what a shot may show."""

    clip: str = "clip-vit-large-patch14"
    categories: tuple[str, ...] = CATEGORIES

    name = "agreement"
    packages = ("torch", "transformers")
    columns = {"agreement": "float64", "category": "string"}
    reads = ("captions",)
    needs_device = True

    def weights(self, folder: Path) -> list[Weights]:
        """CLIP with its tokenizer."""
        return [Weights(folder / self.clip, CLIP_SOURCE)]

    def setup(self, device: str, folder: Path) -> Any:
        """(CLIP, embeddings of the categories)."""
        clip = ClipEncoder.load(folder / self.clip, device)
        return clip, clip.embed_texts([f"a photo of {name}" for name in self.categories])

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """agreement: cosine, mean over the stills; null without a caption. category: the nearest one."""
        import torch

        clip, categories = models
        captions = [shot.row.get("caption") for shot in shots]
        pictures = clip.embed_shots(shots)  # (shots, stills, features)
        texts = clip.embed_texts([text or "" for text in captions])
        agreements = torch.einsum("sif,sf->s", pictures, texts) / pictures.shape[1]
        nearest = (pictures.mean(1) @ categories.T).argmax(1)
        return [
            {"agreement": score if text else None, "category": self.categories[index]}
            for score, text, index in zip(agreements.tolist(), captions, nearest.tolist(), strict=True)
        ]
