"""The command `train`."""

from __future__ import annotations

import argparse
import gc
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ..datasets.locks import locked_folder
from .recipe import Recipe
from .recipe_file import read_recipe

DESCRIPTION = """\
Train by a recipe. A recipe is a TOML file; those that come with the pack are named without suffix:

  base, interpolation, super_resolution     the three networks of the cascade, from published weights
  first_frame                               a base network that continues a given frame, for long videos
  lora                                      adapters on spatial layers (see the command lora)
  distill                                   adapters with which few steps are enough

Copy one and change it, or change single settings with --set. Everything that is wrong with a recipe is said at once,
before anything is loaded. The run's folder (run.out) gets checkpoints, metrics.jsonl, TensorBoard's events and samples.

A run that was stopped, even by kill -9, goes on from its last checkpoint when the command is repeated. Length, logging
and checkpoint settings may change between runs; what decides the result may not, and changes are named.

Several GPUs: accelerate launch --module comfyui_lavie.training train RECIPE, or torchrun. rows in [data] counts the
whole batch, so the number of processes changes speed, not the result.
"""
EPILOG = """\
examples:
  train base
  train my_recipe.toml --set run.steps=20000 --set optimizer.lr=5e-5
  train base --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("recipe", help="a .toml file, or the name of a shipped recipe")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument(
        "--accept-data", action="store_true", help="go on with data that has changed; the run's record notes what"
    )
    parser.add_argument("--check", action="store_true", help="read the recipe, say what is wrong, and stop")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    recipe = read_recipe(args.recipe, args.set)
    if args.check:
        print(f"{args.recipe} is sound")
        return 0
    train(recipe, args.accept_data)
    return 0


def train(recipe: Recipe, accept_data: bool = False) -> None:
    """Run or resume a recipe, alone in its folder, and leave the process group properly.

    Its threads end with the last reference to it; one that were still at work when Python ends would abort the process.
    Of shards torch keeps references of its own.
    """
    from .loop import Training  # slow to import

    with _lock_run(recipe):
        training = Training(recipe, accept_data)
        training.run()
        training.accelerator.end_training()
        del training
        gc.collect()


def _lock_run(recipe: Recipe) -> AbstractContextManager:
    """The run's folder, locked by the first of its processes. Raises DataError naming another run that is there."""
    if int(os.environ.get("RANK", 0)):
        return nullcontext()
    Path(recipe.run.out).mkdir(parents=True, exist_ok=True)
    return locked_folder(recipe.run.out, "training")
