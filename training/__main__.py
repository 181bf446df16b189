"""Training from the command line: `python -m comfyui_lavie.training COMMAND --help`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

from ..lavie_models.checkpoint import CheckpointError
from .data.errors import DataError
from .errors import TrainingError

COMMANDS = {  # name: (module with add_arguments and run, what it does)
    "prepare": ("data.prepare", "look at videos and images, and write the catalogue that recipes read"),
    "train": ("train", "train by a recipe, or go on where a run was stopped"),
    "lora": ("train_lora", "teach a model something new from a handful of captioned images"),
    "export": ("export", "write a run's result as the files that ComfyUI loads"),
    "sample": ("generate", "make videos with a run's result, without ComfyUI"),
    "evaluate": ("evaluate_shapes", "measure how well a model follows captions, through a real ComfyUI"),
    "figures": ("figures.command", "measure all the small models that come with the pack, and write docs/nano.md"),
    "claims": ("claims", "measure two claims of the paper on small networks, and write what comes out"),
    "scale": ("scale", "memory per GPU and steps per second for 1, 8 and 64 GPUs, computed"),
}
EXPECTED = (TrainingError, DataError, CheckpointError, FileNotFoundError, ImportError, FloatingPointError)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name not in COMMANDS:
        width = max(map(len, COMMANDS))
        lines = [f"  {command:{width}}  {what}" for command, (_, what) in COMMANDS.items()]
        usage = "usage: python -m comfyui_lavie.training COMMAND ...\n\nTrain LaVie models. A training is a recipe: "
        usage += "prepare data, train, export.\n\n" + "\n".join(lines) + "\n\nCOMMAND --help tells more."
        asked = name in ("-h", "--help")
        print(usage if asked else f"unknown command {name}\n\n{usage}", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
    parser = argparse.ArgumentParser(
        prog=f"python -m comfyui_lavie.training {name}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "urllib3", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return module.run(arguments)
    except EXPECTED as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; repeat the command to go on from the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
