"""Batches: what was read and encoded, with noise, timesteps and conditions, ready for the step.

Contract: everything random about a row is a pure function of (seed, step, row in the global batch), so that any number
of processes, and a resumed run, see the same rows. Text and latents may come from caches that invalidate themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..datasets.background import work_ahead
from ..lavie_models.conditioning import FRAMES_PER_INTERVAL, interpolation_sources, noise_low_resolution
from ..lavie_models.pixels import to_model
from .data import TrainingData
from .data.cache import TensorCache
from .encoders import load_image_codec, load_text
from .encoding import Latents, Texts
from .errors import TrainingError
from .files import file_digest
from .reading import Reader, Share, count_workers
from .recipe import Recipe
from .step import Batch, draw_noise, draw_timestep


@dataclass(frozen=True)
class Prepared:
    """A batch, the share it was made of, and the seconds that encoding took."""

    share: Share
    batch: Batch
    seconds: float


class Inputs:
    """The frozen networks of a recipe on one device, and the batches that they make."""

    def __init__(self, recipe: Recipe, device):
        self.recipe, self.device = recipe, torch.device(device)
        encoders, enlarges = recipe.encoders, recipe.model.stage == "super_resolution"
        self.vae = load_image_codec(encoders.vae).to(device)
        tokenizer, model = load_text(encoders)
        self.text_digest, self.vae_digest = file_digest(Path(encoders.text)), file_digest(Path(encoders.vae))
        self.learns_text = bool(recipe.lora and recipe.lora.text_encoder)
        chunked = encoders.long_captions == "chunks"
        if chunked and self.learns_text:
            raise TrainingError('encoders.long_captions = "chunks" cannot go with lora.text_encoder: set it to "cut"')
        cache = self._cache("text", f"{self.text_digest} in chunks" if chunked else self.text_digest)
        self.texts = Texts(tokenizer, model.to(device), cache, device, chunked)
        repeat = recipe.data.variants and not enlarges
        latent_cache = self._cache("latents", self.vae_digest) if repeat else None
        self.latents = Latents(self.vae, latent_cache, device)
        self.reader = Reader(enlarges, latent_cache)
        self.read = self.reader.read

    def _cache(self, kind: str, digest: str) -> TensorCache | None:
        encoders = self.recipe.encoders
        if not encoders.cache:
            return None
        return TensorCache(Path(encoders.cache) / kind, digest, max_bytes=int(encoders.cache_gb * 1e9 / 2))

    def batches(
        self, data: TrainingData, steps: Iterable[int], rank: int = 0, world: int = 1, local: int = 1
    ) -> Iterator[Prepared]:
        """Batches of ``steps``: while the network learns from one, another thread encodes the next and others read.

        ``local``: processes on this machine, which share its cores.
        """
        run = self.recipe.run
        shares = self.reader.read_ahead(
            data, run.seed, steps, rank, world, count_workers(run.workers, local), run.prefetch_gb * 1e9
        )
        with closing(shares), closing(work_ahead(self._prepare(share) for share in shares)) as coming:
            for prepared in coming:
                if self.device.type != "cpu":
                    now = torch.accelerator.current_stream()
                    for tensor in prepared.batch.tensors().values():
                        tensor.record_stream(now)  # its memory is not given away while the network reads it
                yield prepared

    def _prepare(self, share: Share) -> Prepared:
        """A finished batch, made on a stream of its own where there are streams."""
        begun = time.perf_counter()
        if self.device.type == "cpu":
            batch = self.batch(share)
        else:
            with torch.Stream(self.device) as stream:
                batch = self.batch(share)
            stream.synchronize()
        return Prepared(share, batch, time.perf_counter() - begun)

    def batch(self, share: Share, drop: bool = True) -> Batch:
        """The tensors of a share; ``drop``: whether captions and conditions are dropped as the recipe says."""
        objective, per_row = self.recipe.objective, 1 + share.num_images
        rngs = share.generators(0)
        timesteps = torch.tensor([draw_timestep(rng, objective.focus) for rng in rngs])
        dropped = np.concatenate([rng.random(per_row) < (objective.caption_drop if drop else 0) for rng in rngs])
        captions = ["" if gone else caption for gone, caption in zip(dropped, share.captions(), strict=True)]
        parts = [self.latents(*one) for one in zip(share.draws, share.pixels, share.latents, strict=True)]
        latents = torch.stack([torch.cat(parts[i : i + per_row]) for i in range(0, len(parts), per_row)])
        shape = latents.shape[1:]  # (F + M, 4, h, w)
        noise = draw_noise(rngs, shape, objective.offset_noise)
        frames, images = (shape[0] - share.num_images, share.num_images) if self.recipe.data.video else (0, 1)
        text = self.texts.tokens(captions) if self.learns_text else self.texts([*captions, ""])
        text, empty = (text, None) if self.learns_text else (text[:-1], text[-1:])
        batch = Batch(
            latents, noise.to(self.device), timesteps.to(self.device), text, frames, images,
            empty=empty if self.recipe.distillation else None,
        )  # fmt: skip
        return self._add_condition(batch, share, rngs, drop)

    def _add_condition(self, batch: Batch, share: Share, rngs, drop: bool) -> Batch:
        """What the stage's network is given besides noisy latents and text."""
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
            condition = noise_low_resolution(small, draw_noise(rngs, small.shape[1:]), levels)
            return replace(batch, condition=condition.to(self.device), noise_level=levels.to(self.device))
        return batch


def first_frame_condition(latents: torch.Tensor, frames: int) -> torch.Tensor:
    """(B, F + M, 4, h, w): a clip's first frame on each of its frames, nothing on images, which continue no clip."""
    condition = torch.zeros_like(latents)
    condition[:, :frames] = latents[:, :1]
    return condition


def interpolation_condition(latents: torch.Tensor) -> torch.Tensor:
    """(B, F, 4, h, w) of clips of F = 4 (n - 1) + 1 frames: each frame's source among every fourth of them."""
    sources = latents[:, ::FRAMES_PER_INTERVAL]
    return sources[:, interpolation_sources(sources.shape[1])]
