"""Videos of a model in training or of a run's result, and the command `sample`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..datasets.catalogue import Catalogue
from ..datasets.video import contact_sheet, encode_video
from ..lavie_models.schedule import ddim_step
from .batch import Inputs
from .checkpoints import Checkpoints
from .data import TrainingData
from .errors import TrainingError
from .fsdp import scatter_whole
from .recipe import Recipe, SampleSettings
from .recipe_file import recipe_of_run
from .step import Batch, denoise
from .trainee import Trainee, find_trained

HELDOUT_SEED = 1_000_003  # of held-out batches: the same at every look
FPS = 8
DESCRIPTION = """\
Make videos with a run's averaged weights, without ComfyUI: to look at a run before it is exported.

With prompts, those; without, the captions of clips kept out of training (validation.heldout of the recipe), which also
give what a later stage starts from: the first frame, the frames to interpolate, the low-resolution frames.
Each video gets a picture of all its frames beside it.
"""
EPILOG = """\
examples:
  sample runs/nano_refine --prompt "a red fish moving right" --prompt "a blue car moving up" --guidance 4
  sample runs/interpolation --count 8 --out looks/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("run", type=Path, help="folder of a run (run.out of its recipe)")
    parser.add_argument("--prompt", action="append", default=[], help="what to show; may be repeated")
    parser.add_argument("--count", type=int, help="clips to make without prompts (default: the recipe's)")
    parser.add_argument("--frames", type=int, help="of a video made from a prompt (default: the recipe's)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the recipe's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance (default: the recipe's)")
    parser.add_argument("--seed", type=int, help="noise of the first video; each further one adds 1")
    parser.add_argument("--out", type=Path, help="folder to write to (default: RUN/samples)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    recipe = recipe_of_run(args.run)
    names = ("count", "frames", "steps", "guidance", "seed")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    settings = dataclasses.replace(recipe.samples, prompts=tuple(args.prompt), **given)
    if args.prompt and (recipe.model.first_frame or recipe.model.stage != "base"):
        raise TrainingError("this model continues given frames; leave --prompt out to sample from held-out clips")
    generator, step = load_run(args.run, recipe, with_data=not args.prompt)
    for number, (caption, frames) in enumerate(generator.videos(settings)):
        path = (args.out or args.run / "samples") / f"{step:08d}_{number}.mp4"
        save_sample(frames, path)
        print(f"{path}: {caption}")
    return 0


class Generator:
    """Makes videos with the networks of a `Trainee` as they are when it is asked.

    ``heldout``: clips that give captions and conditions. ``autocast``: makes the context that networks run in.
    """

    def __init__(self, recipe: Recipe, trainee: Trainee, inputs: Inputs, autocast, heldout: TrainingData | None):
        self.recipe, self.trainee, self.inputs = recipe, trainee, inputs
        self.autocast, self.heldout = autocast, heldout

    def videos(self, settings: SampleSettings) -> Iterator[tuple[str, np.ndarray]]:
        """(caption, uint8 frames (F, H, W, 3)) of each video."""
        bucket, factor = self.recipe.data.buckets[0], self.inputs.vae.factor
        size = (settings.frames or bucket.frames, 4, bucket.height // factor, bucket.width // factor)
        given = [(prompt, None) for prompt in settings.prompts] or self._heldout_rows(settings.count)
        empty = self._context([""])
        for number, (caption, row) in enumerate(given):
            known = {}
            if row is not None:
                size = (row.num_frames or size[0], *row.latents.shape[2:])
                condition = None if row.condition is None else row.condition[:, : row.num_frames]
                known = {"condition": condition, "noise_level": row.noise_level}
            with self.autocast():
                latents = sample_clip(
                    self.trainee.unet, self._context([caption]), empty, size, self.trainee.alphas,
                    self.trainee.prediction, settings.steps, settings.guidance, settings.seed + number, **known,
                )  # fmt: skip
            yield caption, self.inputs.vae.decode(latents).numpy()

    def _heldout_rows(self, count: int) -> list[tuple[str, Batch]]:
        """(caption, row of one clip) of the first held-out batches."""
        if self.heldout is None:
            raise TrainingError("without prompts, videos are made from held-out clips: set validation.heldout")
        rows: list[tuple[str, Batch]] = []
        while len(rows) < count:
            share = self.inputs.read(self.heldout, HELDOUT_SEED, len(rows))
            batch, per_row = self.inputs.batch(share, drop=False), 1 + share.num_images  # draws
            rows += [(share.captions()[i * per_row], batch.rows(i, i + 1)) for i in range(len(batch.timesteps))]
        return rows[:count]

    @torch.no_grad()
    def _context(self, captions: list[str]) -> torch.Tensor:
        texts = self.inputs.texts
        return self.trainee.context(texts.tokens(captions) if self.trainee.text is not None else texts(captions))


def load_run(folder: Path, recipe: Recipe, with_data: bool = True) -> tuple[Generator, int]:
    """(generator with the averaged weights of a run's newest checkpoint, its step).

    ``with_data``: False where prompts are enough; the catalogues may then be gone.
    """
    state = Checkpoints(folder).load()
    if state is None:
        raise TrainingError(f"{folder} has no checkpoint yet")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    inputs = Inputs(recipe, device)
    trainee = Trainee(recipe, inputs.texts.model, device)
    if trainee.source != state["settings"]["start"]:
        raise TrainingError(f"model.start, {recipe.model.start}, is not what it was when {folder} was trained")
    scatter_whole(state["average"] or state["model"], find_trained(trainee))
    heldout = None
    if with_data and (count := recipe.validation.heldout):
        catalogue = Catalogue.load_all(recipe.data.catalogues, recipe.data.repeats)
        heldout = TrainingData(recipe.data, catalogue.split(count)[1])
    kind = torch.bfloat16 if recipe.run.precision != "no" else None
    autocast = lambda: torch.autocast(device.type, kind, enabled=kind is not None)  # noqa: E731
    return Generator(recipe, trainee, inputs, autocast, heldout), state["step"]


@torch.no_grad()
def sample_clip(
    unet, text: torch.Tensor, empty: torch.Tensor, shape: tuple[int, int, int, int], alphas_cumprod: torch.Tensor,
    prediction: str, steps: int = 25, guidance: float = 4.0, seed: int = 0,
    condition: torch.Tensor | None = None, noise_level: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """One clip by deterministic DDIM with guidance, on the training's own schedule.

    Args:
        text, empty: (1, tokens, width) of the prompt and of the empty caption.
        shape: (frames, channels, height, width) of the latents.
        steps: evenly spaced timesteps, largest first. guidance: 1 uses the prompt alone.
        condition: (1, frames, C, height, width) of the UNet's further input channels; noise_level: (1,) of theirs.

    Returns:
        Latents of that shape, float32.
    """
    device = text.device
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    context = torch.cat((text, empty))
    both = [None if value is None else torch.cat((value, value)) for value in (condition, noise_level)]
    timesteps = torch.linspace(len(alphas_cumprod) - 1, 0, steps).round().long()
    for i, t in enumerate(timesteps):
        alpha = alphas_cumprod[t]
        following = alphas_cumprod[timesteps[i + 1]] if i + 1 < steps else torch.ones_like(alpha)
        out = denoise(unet, torch.stack((x, x)), t.to(device).expand(2), context, shape[0], 0, *both)
        conditional, unconditional = out.unbind()
        x = ddim_step(prediction, unconditional + guidance * (conditional - unconditional), x, alpha, following)
    return x


def save_sample(frames: np.ndarray, path: Path) -> None:
    """A video and, beside it, all its frames as one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_video(frames, path, FPS)
    contact_sheet(frames).save(path.with_suffix(".png"))
