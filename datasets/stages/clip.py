"""CLIP as a Hugging Face folder: unit embeddings of pictures and texts, for the stages that compare them.

Contract: stages that name the same folder share one network, and a shot's stills pass through it once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

from PIL import Image

from ..shots import Shot

CLIP_SOURCE = "openai/clip-vit-large-patch14 on Hugging Face, the folder"


class ClipEncoder:
    """The networks with what makes their inputs, on a device; several threads may use it."""

    def __init__(self, folder: Path, device: str):
        """folder: that transformers saved."""
        from transformers import CLIPModel, CLIPProcessor

        self.network = CLIPModel.from_pretrained(folder).to(device).eval()
        self.processor = CLIPProcessor.from_pretrained(folder)
        self.device = device
        self._lock = threading.Lock()
        self._seen: WeakKeyDictionary = WeakKeyDictionary()  # {Pixels: (stills, features)}

    @staticmethod
    @lru_cache(maxsize=2)
    def load(folder: Path, device: str) -> ClipEncoder:
        """That of a folder, read once."""
        return ClipEncoder(folder, device)

    def embed_shots(self, shots: Sequence[Shot]):
        """(shots, stills, features) of the stills of shots."""
        import torch

        with self._lock, torch.inference_mode():
            if todo := [shot.pixels for shot in shots if shot.pixels not in self._seen]:
                images = [Image.fromarray(still) for pixels in todo for still in pixels.stills]
                inputs = self.processor(images=images, return_tensors="pt")["pixel_values"].to(self.device)
                features = _unit(self.network.visual_projection(self.network.vision_model(inputs).pooler_output))
                self._seen.update(zip(todo, features.reshape(len(todo), -1, features.shape[1]), strict=True))
            return torch.stack([self._seen[shot.pixels] for shot in shots])

    def embed_texts(self, texts: Sequence[str]):
        """(n, features) of texts; what lies beyond CLIP's 77 tokens is not read."""
        import torch

        with self._lock, torch.inference_mode():
            inputs = self.processor(text=list(texts), return_tensors="pt", padding=True, truncation=True)
            pooled = self.network.text_model(**inputs.to(self.device)).pooler_output
            return _unit(self.network.text_projection(pooled))


def _unit(features):
    return features / features.norm(dim=-1, keepdim=True)
