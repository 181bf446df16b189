"""The small models that come with the pack, from the command line: `python -P -m comfyui_lavie.nano COMMAND --help`."""

from __future__ import annotations

import sys

from ..commands import run_command
from ..datasets.errors import DataError
from ..lavie_models.checkpoint import CheckpointError
from ..training.errors import TrainingError

WHAT = "Make the small models that come with the pack, and measure what they reach."
COMMANDS = {  # name: (module with add_arguments and run, what it does)
    "build": ("build", "all the small models, from nothing; goes on where it was stopped"),
    "data": ("source", "write a catalogue of generated clips and images"),
    "evaluate": ("evaluate", "measure how well a base model follows captions, through a real ComfyUI"),
    "lost": ("lost", "tell at which noise a base loses the looks of things"),
    "figures": ("figures.command", "measure all the small models, and write docs/nano.md"),
    "claims": ("claims", "measure two claims of the paper on small networks, and write docs/claims.md"),
    "long_video": ("long_video", "measure the ways to a long video, and write docs/long_video.md"),
    "text_encoder": ("text_encoder", "train the small text encoder"),
    "vae": ("vae", "train a small VAE"),
    "decoder": ("decoder", "train a deeper decoder for a small VAE whose encoder stays"),
    "lora": ("example_lora", "make the example LoRA"),
    "colors": ("latent_colors", "write the colours of previews into the metadata of networks"),
}
EXPECTED = (TrainingError, DataError, CheckpointError, FileNotFoundError, ImportError, FloatingPointError)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run_command(__package__, WHAT, COMMANDS, EXPECTED, argv)


if __name__ == "__main__":
    sys.exit(main())
