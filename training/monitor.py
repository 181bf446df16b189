"""What is looked at while a model trains: held-out losses by timestep, videos that it makes, and their figures."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..datasets.video import contact_sheet
from ..lavie_models.schedule import TRAINED_STEPS
from .data import TrainingData
from .errors import TrainingError
from .sampling import HELDOUT_SEED, Generator, save_sample

log = logging.getLogger(__name__)

Evaluate = Callable[[Sequence[tuple[str, np.ndarray]]], dict[str, float]]  # [(caption, uint8 (F, H, W, 3))] -> figures


class Watch:
    """Looks at the averaged weights of a `Training` (the weights themselves where there is no average)."""

    def __init__(self, training, heldout: TrainingData | None):
        self.training, self.heldout = training, heldout
        self.evaluate = evaluation(training.recipe.samples.evaluate)
        self.generator = Generator(
            training.recipe, training.plain, training.inputs, training.accelerator.autocast, heldout
        )

    def __call__(self, metrics, done: bool) -> None:
        """Called after every step by all processes; the main one has ``metrics`` to write to."""
        recipe, step = self.training.recipe, self.training.step
        due = [
            settings.every and (done or step % settings.every == 0)
            for settings in (recipe.validation, recipe.samples)
        ]  # fmt: skip
        if not any(due):
            return
        with self.training.averaged():
            losses = self.losses() if due[0] else {}
            videos = list(self.generator.videos(recipe.samples)) if due[1] else []
        if metrics and losses:
            metrics.record("heldout", losses, step)
            log.info("step %d held-out loss: %s", step, ", ".join(f"{k} {v:.4f}" for k, v in losses.items()))
        if metrics and videos and self.evaluate:
            figures = self.evaluate(videos)
            metrics.record("samples", figures, step)
            log.info("step %d samples: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        for number, (caption, frames) in enumerate(videos if metrics else []):
            save_sample(frames, Path(recipe.run.out) / "samples" / f"{step:08d}_{number}.mp4")
            sheet = np.asarray(contact_sheet(frames))
            metrics.board.add_image(f"samples/{number}", sheet, step, dataformats="HWC")
            metrics.board.add_text(f"samples/{number}", caption, step)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Mean squared error on held-out clips at the middle of each part of the timesteps: {"t100": ..., ...}.

        Where rows are images, on held-out images.
        """
        training, settings = self.training, self.training.recipe.validation
        edges = np.linspace(0, TRAINED_STEPS, settings.quantiles + 1)
        kind = 0 if training.recipe.data.video else 1
        sums = {int(t): 0.0 for t in (edges[:-1] + edges[1:]) / 2}
        for number in range(settings.batches):
            share = training.inputs.read(self.heldout, HELDOUT_SEED, number, training.rank, training.world)
            batch = training.inputs.batch(share, drop=False)
            for t in sums:
                with training.accelerator.autocast():
                    losses = training.plain(replace(batch, timesteps=torch.full_like(batch.timesteps, t)))[:, kind]
                sums[t] += training.accelerator.gather(losses).double().mean().item() / settings.batches
        return {f"t{t}": value for t, value in sums.items()}


def evaluation(name: str) -> Evaluate | None:
    """The function that "module:function" names; None for "". Raises TrainingError if there is none."""
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise TrainingError(f"samples.evaluate: expected module:function, got {name!r} ({error})") from None
