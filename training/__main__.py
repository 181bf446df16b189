"""Training from the command line: `python -P -m comfyui_lavie.training COMMAND --help`."""

from __future__ import annotations

import sys

from ..commands import run_command
from ..datasets.errors import DataError
from ..lavie_models.checkpoint import CheckpointError
from .errors import TrainingError

WHAT = "Train LaVie models. A training is a recipe: prepare data, train, export."
COMMANDS = {  # name: (module with add_arguments and run, what it does)
    "train": ("train", "train by a recipe, or go on where a run was stopped"),
    "buckets": ("buckets", "propose batch shapes that fit the shapes of the data"),
    "look": ("look", "see what a training sees: sheets of clips and images with their captions"),
    "cache": ("fill_cache", "encode texts and latents ahead of a run"),
    "lora": ("train_lora", "teach a model something new from a handful of captioned images"),
    "export": ("export", "write a run's result as the files that ComfyUI loads"),
    "sample": ("sampling", "make videos with a run's result, without ComfyUI"),
}
EXPECTED = (TrainingError, DataError, CheckpointError, FileNotFoundError, ImportError, FloatingPointError)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run_command(__package__, WHAT, COMMANDS, EXPECTED, argv)


if __name__ == "__main__":
    sys.exit(main())
