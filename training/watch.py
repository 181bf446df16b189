"""What is looked at while a model trains: its loss on held-out clips by timestep, and videos it makes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..lavie_models.schedule import TRAINED_STEPS
from ..tools.video import contact_sheet, encode_video
from .data import TrainingData
from .objective import Batch
from .sample import sample

SEED = 1_000_003  # of held-out batches: the same at every look
FPS = 8
log = logging.getLogger(__name__)


class Watch:
    """Looks at the averaged weights of a `Training` (the weights themselves where there is no average)."""

    def __init__(self, training, heldout: TrainingData | None):
        self.training, self.heldout = training, heldout

    def __call__(self, metrics, done: bool) -> None:
        """Called after every step by all processes; the main one has ``metrics``."""
        recipe, step = self.training.recipe, self.training.step
        looks = [settings.every and (done or step % settings.every == 0)
                 for settings in (recipe.validation, recipe.samples)]  # fmt: skip
        if not any(looks):
            return
        with self.training.averaged():
            if looks[0]:
                losses = self.losses()
                if metrics:
                    metrics.record("heldout", losses, step)
                    log.info("step %d held-out loss %s", step, ", ".join(f"{k} {v:.4f}" for k, v in losses.items()))
            if looks[1]:
                for number, (caption, frames) in enumerate(self.videos()):
                    if metrics:
                        name = f"{step:08d}_{number}"
                        save_sample(frames, Path(recipe.run.out) / "samples" / f"{name}.mp4")
                        sheet = np.asarray(contact_sheet(frames))
                        metrics.board.add_image(f"samples/{number}", sheet, step, dataformats="HWC")
                        metrics.board.add_text(f"samples/{number}", caption, step)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Mean squared error on held-out clips at the middle of each part of the timesteps: {"t100": ..., ...}."""
        training, settings = self.training, self.training.recipe.validation
        edges = np.linspace(0, TRAINED_STEPS, settings.quantiles + 1)
        middles = [int(t) for t in (edges[:-1] + edges[1:]) / 2]
        sums = dict.fromkeys(middles, 0.0)
        for number in range(settings.batches):
            batch = self._heldout_batch(number)
            for t in middles:
                at = replace(batch, timesteps=torch.full_like(batch.timesteps, t))
                with training.accelerator.autocast():
                    losses = training.plain(at)[:, 0]
                sums[t] += training.accelerator.gather(losses).double().mean().item() / settings.batches
        return {f"t{t}": value for t, value in sums.items()}

    def _heldout_batch(self, number: int) -> Batch:
        training = self.training
        share = training.inputs.read(self.heldout, SEED, number, training.rank, training.world)
        return training.inputs.batch(share, drop=False)

    def videos(self):
        """(caption, uint8 frames (F, H, W, 3)) of each sample, the same on all processes."""
        training, settings = self.training, self.training.recipe.samples
        inputs, bucket = training.inputs, training.recipe.data.buckets[0]
        empty = self._context([""])
        given: list[tuple[str, Batch | None]] = [(prompt, None) for prompt in settings.prompts]
        step = 0
        while len(given) < settings.count and not settings.prompts:
            share = inputs.read(self.heldout, SEED, step)
            batch, per_row = inputs.batch(share, drop=False), 1 + share.num_images
            given += [(share.captions()[i * per_row], batch.rows(i, i + 1)) for i in range(len(batch.timesteps))]
            step += 1
        for number, (caption, row) in enumerate(given[: settings.count if not settings.prompts else None]):
            shape = (bucket.frames, 4, bucket.height // inputs.vae.factor, bucket.width // inputs.vae.factor)
            if row is not None:
                shape = (row.num_frames, *row.latents.shape[2:])
            with training.accelerator.autocast():
                latents = sample(
                    training.plain.unet, self._context([caption]), empty, shape, training.plain.alphas,
                    training.prediction, settings.steps, settings.guidance, settings.seed + number,
                    condition=None if row is None or row.condition is None else row.condition[:, : shape[0]],
                    noise_level=None if row is None else row.noise_level,
                )  # fmt: skip
            yield caption, inputs.vae.decode(latents).numpy()

    @torch.no_grad()
    def _context(self, captions: list[str]) -> torch.Tensor:
        texts, plain = self.training.inputs.texts, self.training.plain
        return plain.context(texts.tokens(captions) if plain.text is not None else texts(captions))


def save_sample(frames: np.ndarray, path: Path) -> None:
    """A video and, beside it, all its frames as one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_video(frames, path, FPS)
    sheet: Image.Image = contact_sheet(frames)
    sheet.save(path.with_suffix(".png"))
