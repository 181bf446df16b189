"""Encoding: captions and pixels through the frozen text encoder and VAE, or out of their caches.

Contract: deterministic; on the CPU a text's and a clip's numbers never depend on what is encoded beside them. Objects
here may be used by several threads, one at a time.
"""

from __future__ import annotations

import math
import threading

import torch

from .data import Draw
from .data.cache import TensorCache
from .pack_encoders import encode, encode_chunks, tokens_of

TEXTS_AT_ONCE = 64  # on an accelerator; on the CPU one, so that a text's numbers never depend on its company
REMEMBERED = 4096  # texts kept in memory


class Texts:
    """A frozen text encoder that remembers what it has encoded, on disk too if there is a cache.

    chunked: whether texts of more than 77 tokens are read whole; `long_captions` of a recipe.
    """

    def __init__(self, tokenizer, model, cache: TensorCache | None, device, chunked: bool = False):
        self.tokenizer, self.model, self.cache, self.device, self.chunked = tokenizer, model, cache, device, chunked
        self._known: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, captions: list[str]) -> torch.Tensor:
        """(N, tokens, width) on the device; texts of fewer chunks are repeated, which attention cannot tell."""
        with self._lock:
            self._learn(sorted({caption for caption in captions if caption not in self._known}))
            chosen = [self._known[caption] for caption in captions]
            if len(self._known) > REMEMBERED:
                self._known.clear()
        tokens = math.lcm(*map(len, chosen))
        return torch.stack([text.repeat(tokens // len(text), 1) for text in chosen]).to(self.device)

    def tokens(self, captions: list[str]) -> torch.Tensor:
        """(N, tokens) numbers, for a text encoder that learns."""
        return tokens_of(self.tokenizer, captions).to(self.device)

    def _learn(self, missing: list[str]) -> None:
        if self.cache:
            found = {caption: self.cache.get(caption) for caption in missing}
            self._known |= {caption: tensors["text"] for caption, tensors in found.items() if tensors}
            missing = [caption for caption in missing if caption not in self._known]
        at_once = 1 if self.chunked or torch.device(self.device).type == "cpu" else TEXTS_AT_ONCE
        for start in range(0, len(missing), at_once):
            part = missing[start : start + at_once]
            for caption, text in zip(part, self._encode(part), strict=True):
                self._known[caption] = text.cpu()
                if self.cache:
                    self.cache.put(caption, {"text": self._known[caption]})

    def _encode(self, captions: list[str]) -> list[torch.Tensor]:
        if self.chunked:
            return [encode_chunks(self.tokenizer, self.model, caption) for caption in captions]
        return list(encode(self.tokenizer, self.model, captions))


class Latents:
    """A VAE and, where draws repeat, the cache of what it made."""

    def __init__(self, vae, cache: TensorCache | None, device):
        self.vae, self.cache, self.device = vae, cache, device

    def __call__(self, draw: Draw, pixels, cached: torch.Tensor | None) -> torch.Tensor:
        """(frames, 4, h, w) float32 on the device; what was not cached goes through the VAE and into the cache."""
        if cached is None:
            cached = self.vae.encode(pixels)
            if self.cache:
                cached = cached.half().cpu()
                self.cache.put(draw.name, {"latents": cached})
        return cached.to(self.device, torch.float32)
