"""The command `cache`: texts and latents of a recipe, encoded ahead of its run."""

from __future__ import annotations

import argparse
import os
from itertools import islice

import torch
from tqdm import tqdm

from ..datasets.background import ordered_map
from ..datasets.catalogue import Catalogue
from ..datasets.errors import DataError
from .batch import Inputs
from .data import Draw, TrainingData, render
from .errors import TrainingError
from .reading import count_workers
from .recipe import Recipe
from .recipe_file import read_recipe

TEXTS = 64  # captions that are encoded together
DESCRIPTION = """\
Encode what a recipe will ask for, into encoders.cache: every caption, and the latents of every draw where data.variants
makes draws repeat. A run then waits for neither encoder. What is there already is left as it is, so the command may be
stopped and repeated; a run fills what is missing by itself.

Many processes, on one machine or several that see the folder, divide the work: start each with its own --part, or
start them with torchrun, whose ranks are parts. On a Ray cluster, submit one job per part.
"""
EPILOG = """\
examples:
  cache my_lora.toml
  cache my_recipe.toml --part 3/8
  torchrun --nproc-per-node 8 -m comfyui_lavie.training cache my_recipe.toml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("recipe", help="a .toml file, or the name of a shipped recipe")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument("--part", type=_part, metavar="I/N", help="do the I-th of N parts (torchrun: by rank)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    recipe = read_recipe(args.recipe, args.set)
    if not recipe.encoders.cache:
        raise TrainingError("encoders.cache is empty: name a folder, with --set encoders.cache=FOLDER for example")
    rank, world = args.part or tuple(int(os.environ.get(*one)) for one in (("RANK", 0), ("WORLD_SIZE", 1)))
    texts, latents, bad = fill_cache(recipe, rank, world)
    print(f"{recipe.encoders.cache}: {texts} captions and {latents} clips or images encoded, {len(bad)} unreadable")
    for sentence in bad:
        print(f"  {sentence}")
    return 0


def fill_cache(recipe: Recipe, rank: int = 0, world: int = 1) -> tuple[int, int, list[str]]:
    """(captions looked up or encoded, draws encoded, what could not be read) of the ``rank``-th of ``world`` parts."""
    catalogue = Catalogue.load_all(recipe.data.catalogues)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    inputs, data = Inputs(recipe, device), TrainingData(recipe.data, catalogue)
    captions = sorted({"", *(item.caption for item in catalogue.items)})[rank::world]
    if not inputs.learns_text:
        left = iter(captions)
        while part := list(islice(left, TEXTS)):
            inputs.texts(part)
    cache, bad, made = inputs.latents.cache, [], 0
    draws = {draw.name: draw for draw in data.repeating_draws()} if cache else {}
    workers = count_workers(recipe.run.workers, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    missing = (draw for name, draw in sorted(draws.items())[rank::world] if cache.get(name) is None)
    for draw, pixels in tqdm(ordered_map(_read, missing, workers, 2 * workers), desc="latents", unit="draw"):
        if isinstance(pixels, str):
            bad.append(pixels)
            continue
        inputs.latents(draw, pixels, None)
        made += 1
    return len(captions), made, bad


def _read(draw: Draw):
    try:
        return draw, render(draw)
    except (DataError, OSError) as error:
        return draw, str(error)


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not (number.isdecimal() and count.isdecimal()) or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f"expected a part such as 3/8, got {text!r}")
    return int(number) - 1, int(count)
