"""From clips, images and captions to what the network is given: latents, text, noise, timesteps, conditions.

Contract: everything random about a row is a pure function of (seed, step, row in the global batch), so that any number
of processes, and a resumed run, see the same rows. Text and latents may come from caches that invalidate themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..lavie_models.conditioning import FRAMES_PER_INTERVAL, UPSCALE, interpolation_sources, noise_low_resolution
from ..lavie_models.schedule import TRAINED_STEPS
from .config import FocusSettings, Recipe
from .data import Draw, TrainingData, render
from .data.cache import TensorCache
from .data.degrade import degrade
from .encoders import load_image_codec, load_text
from .files import file_digest
from .objective import Batch
from .text_encoder import encode, tokens_of
from .vae import to_model

TEXTS_AT_ONCE = 64  # on an accelerator; on the CPU one, so that a text's numbers never depend on its company
REMEMBERED = 4096  # texts kept in memory


@dataclass(frozen=True)
class Share:
    """One process's rows of one step, read.

    Attributes:
        seed, step, first_row: which rows of which global batch these are.
        draws: row by row, the clip's and then its M images'.
        pixels: of each draw, uint8 (F or 1, H, W, 3); None where ``latents`` has its cached latents.
        small: degraded clips, uint8 (F, H / 4, W / 4, 3) per row; super-resolution only.
        num_images: M.
    """

    seed: int
    step: int
    first_row: int
    draws: list[Draw]
    pixels: list[np.ndarray | None]
    latents: list[torch.Tensor | None]
    small: list[np.ndarray]
    num_images: int

    def generators(self, stream: int) -> list[np.random.Generator]:
        """One per row, the same whichever process has the row."""
        rows = len(self.draws) // (1 + self.num_images)
        return [np.random.default_rng((self.seed, self.step, self.first_row + i, stream)) for i in range(rows)]

    def captions(self) -> list[str]:
        return [draw.item.caption for draw in self.draws]


class Texts:
    """A frozen text encoder that remembers what it has encoded, on disk too if there is a cache."""

    def __init__(self, tokenizer, model, cache: TensorCache | None, device):
        self.tokenizer, self.model, self.cache, self.device = tokenizer, model, cache, device
        self._known: dict[str, torch.Tensor] = {}

    def __call__(self, captions: list[str]) -> torch.Tensor:
        """(N, tokens, width) on the device."""
        missing = sorted({caption for caption in captions if caption not in self._known})
        if self.cache:
            found = {caption: self.cache.get(caption) for caption in missing}
            self._known |= {caption: tensors["text"] for caption, tensors in found.items() if tensors}
            missing = [caption for caption in missing if caption not in self._known]
        at_once = 1 if torch.device(self.device).type == "cpu" else TEXTS_AT_ONCE
        for start in range(0, len(missing), at_once):
            part = missing[start : start + at_once]
            for caption, text in zip(part, encode(self.tokenizer, self.model, part).cpu(), strict=True):
                self._known[caption] = text
                if self.cache:
                    self.cache.put(caption, {"text": text})
        chosen = torch.stack([self._known[caption] for caption in captions])
        if len(self._known) > REMEMBERED:
            self._known.clear()
        return chosen.to(self.device)

    def tokens(self, captions: list[str]) -> torch.Tensor:
        """(N, tokens) numbers, for a text encoder that learns."""
        return tokens_of(self.tokenizer, captions).to(self.device)


class Inputs:
    """Reads and prepares batches for one recipe on one device."""

    def __init__(self, recipe: Recipe, device):
        self.recipe, self.device = recipe, device
        encoders = recipe.encoders
        self.vae = load_image_codec(encoders.vae).to(device)
        tokenizer, model = load_text(encoders)
        self.text_digest, self.vae_digest = file_digest(Path(encoders.text)), file_digest(Path(encoders.vae))
        self.learns_text = bool(recipe.lora and recipe.lora.text_encoder)
        self.texts = Texts(tokenizer, model.to(device), self._cache("text", self.text_digest), device)
        self.latent_cache = None
        if recipe.data.variants and recipe.model.stage != "super_resolution":
            self.latent_cache = self._cache("latents", self.vae_digest)

    def _cache(self, kind: str, digest: str) -> TensorCache | None:
        encoders = self.recipe.encoders
        if not encoders.cache:
            return None
        return TensorCache(Path(encoders.cache) / kind, digest, max_bytes=int(encoders.cache_gb * 1e9 / 2))

    def read(self, data: TrainingData, seed: int, step: int, rank: int = 0, world: int = 1) -> Share:
        """Decode what is not cached; safe in threads."""
        draws, images = data.plan(seed, step, rank, world), data.settings.images
        cached = [self.latent_cache.get(draw.name) if self.latent_cache else None for draw in draws]
        pixels = [render(draw) if found is None else None for draw, found in zip(draws, cached, strict=True)]
        first_row = rank * len(draws) // (1 + images)
        latents = [found and found["latents"] for found in cached]
        share = Share(seed, step, first_row, draws, pixels, latents, [], images)
        if self.recipe.model.stage != "super_resolution":
            return share
        small = [degrade(clip, rng, UPSCALE) for clip, rng in zip(pixels, share.generators(1), strict=True)]
        return replace(share, small=small)

    def batch(self, share: Share, drop: bool = True) -> Batch:
        """The tensors of a share; ``drop``: whether captions and conditions are dropped as the recipe says."""
        objective, per_row = self.recipe.objective, 1 + share.num_images
        rngs = share.generators(0)
        timesteps = torch.tensor([draw_timestep(rng, objective.focus) for rng in rngs])
        dropped = np.concatenate([rng.random(per_row) < (objective.caption_drop if drop else 0) for rng in rngs])
        captions = ["" if gone else caption for gone, caption in zip(dropped, share.captions(), strict=True)]
        latents = self._latents(share)
        shape = latents.shape[1:]
        noise = _noise(rngs, shape)
        frames, images = (shape[0] - share.num_images, share.num_images) if self.recipe.data.video else (0, 1)
        batch = Batch(
            latents, noise.to(self.device), timesteps.to(self.device),
            self.texts.tokens(captions) if self.learns_text else self.texts(captions), frames, images,
        )  # fmt: skip
        return self._with_condition(batch, share, rngs, drop)

    def _latents(self, share: Share) -> torch.Tensor:
        """(B, F + M, 4, h, w): what was not cached goes through the VAE, a draw at a time, and into the cache."""
        parts = []
        for draw, pixels, latents in zip(share.draws, share.pixels, share.latents, strict=True):
            if latents is None:
                latents = self.vae.encode(pixels)
                if self.latent_cache:
                    latents = latents.half().cpu()
                    self.latent_cache.put(draw.name, {"latents": latents})
            parts.append(latents.to(self.device, torch.float32))
        per_row = 1 + share.num_images
        return torch.stack([torch.cat(parts[i : i + per_row]) for i in range(0, len(parts), per_row)])

    def _with_condition(self, batch: Batch, share: Share, rngs, drop: bool) -> Batch:
        """Add what the stage's network is given besides noisy latents and text."""
        model, frames = self.recipe.model, batch.num_frames
        if model.first_frame:
            condition = first_frame_condition(batch.latents, frames)
            gone = [drop and rng.random() < self.recipe.objective.condition_drop for rng in rngs]
            condition[torch.tensor(gone)] = 0
            return replace(batch, condition=condition)
        if model.stage == "interpolation":
            return replace(batch, condition=interpolation_condition(batch.latents))
        if model.stage == "super_resolution":
            low, high = self.recipe.objective.noise_level
            levels = torch.tensor([int(rng.integers(low, high + 1)) for rng in rngs])
            small = torch.stack([to_model(clip) for clip in share.small])
            noise = _noise(rngs, small.shape[1:])
            condition = noise_low_resolution(small, noise, levels)
            return replace(batch, condition=condition.to(self.device), noise_level=levels.to(self.device))
        return batch


def _noise(rngs: list[np.random.Generator], shape) -> torch.Tensor:
    return torch.from_numpy(np.stack([rng.standard_normal(tuple(shape), np.float32) for rng in rngs]))


def draw_timestep(rng: np.random.Generator, focus: FocusSettings | None) -> int:
    """0 .. 999: uniform, or a share of them from a narrower range."""
    if focus and rng.random() < focus.fraction:
        return int(rng.integers(focus.low, focus.high))
    return int(rng.integers(TRAINED_STEPS))


def first_frame_condition(latents: torch.Tensor, frames: int) -> torch.Tensor:
    """(B, F + M, 4, h, w): a clip's first frame on each of its frames, nothing on images, which continue no clip."""
    condition = torch.zeros_like(latents)
    condition[:, :frames] = latents[:, :1]
    return condition


def interpolation_condition(latents: torch.Tensor) -> torch.Tensor:
    """(B, F, 4, h, w) of clips of F = 4 (n - 1) + 1 frames: each frame's source among every fourth of them."""
    sources = latents[:, ::FRAMES_PER_INTERVAL]
    return sources[:, interpolation_sources(sources.shape[1])]
