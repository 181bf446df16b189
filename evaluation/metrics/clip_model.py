"""CLIP and DINO as Hugging Face folders: what they make of frames and of text, of unit length.

Contract: each folder is used as published, its own preprocessing and tokenizer included. Nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .base import Clip, Setup
from .weight_files import CLIP, DINO

BATCH = 16


class ClipEncoder:
    """CLIP: images and text in one space."""

    def __init__(self, setup: Setup):
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        folder, self._device = setup.path(CLIP), setup.device
        self._model = _read(CLIPModel, folder).to(self._device).eval()
        self._images, self._tokens = _read(CLIPImageProcessor, folder), _read(CLIPTokenizer, folder)

    @torch.no_grad()
    def frames(self, clip: Clip) -> np.ndarray:
        """(F, D)."""

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return self._model.visual_projection(self._model.vision_model(pixels).pooler_output)

        return clip.once("clip", lambda: _encoded(clip.frames, self._images, encode, self._device))

    @torch.no_grad()
    def text(self, prompt: str) -> np.ndarray:
        """(D,); what is beyond 77 tokens is cut off, as CLIPSIM does."""
        tokens = self._tokens(prompt, truncation=True, return_tensors="pt").to(self._device)
        made = self._model.text_projection(self._model.text_model(**tokens).pooler_output)
        return torch.nn.functional.normalize(made, dim=-1)[0].float().cpu().numpy()


class DinoEncoder:
    """DINO: the class token of each frame."""

    def __init__(self, setup: Setup):
        from transformers import ViTImageProcessor, ViTModel

        folder, self._device = setup.path(DINO), setup.device
        self._model, self._images = _read(ViTModel, folder).to(self._device).eval(), _read(ViTImageProcessor, folder)

    @torch.no_grad()
    def frames(self, clip: Clip) -> np.ndarray:
        """(F, D)."""

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return self._model(pixels).last_hidden_state[:, 0]

        return clip.once("dino", lambda: _encoded(clip.frames, self._images, encode, self._device))


def _read(kind, folder: Path):
    return kind.from_pretrained(str(folder), local_files_only=True)


def _encoded(frames: np.ndarray, processor, encode, device: str) -> np.ndarray:
    """Frames, a batch at a time, as unit vectors, float32 (F, D)."""
    made = []
    for first in range(0, len(frames), BATCH):
        pixels = processor(list(frames[first : first + BATCH]), return_tensors="pt")["pixel_values"].to(device)
        made.append(torch.nn.functional.normalize(encode(pixels), dim=-1).float().cpu())
    return torch.cat(made).numpy()
