"""The command `lora`: images in, a LoRA file out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..datasets.prepare import Limits, prepare, summary
from .errors import TrainingError
from .export import DTYPES, export_adapters
from .lora import FORMATS
from .recipe import Recipe
from .recipe_file import read_recipe
from .train import train

DESCRIPTION = """\
Teach a model a new thing, person, colour or style from a handful of captioned images (16 will do), as small adapters on
its spatial layers. Temporal layers are not touched, so the new thing moves as others do. If it does not go where the
prompt says, learn jointly: a folder of captioned clips of known things beside the images, and a recipe with data.images
above 0 and buckets of several frames, such as nano/recipes/nano_joint_lora.toml.

IMAGES is a folder (or list, or shard; see `prepare --help`). Each file needs a caption: image.txt beside image.png, a
captions.csv, or --caption for all. Use a word the model does not know for what is new, and describe the rest plainly.

The run's folder gets the catalogue, checkpoints, and at the end the LoRA in both formats; put one into
ComfyUI/models/loras and load it with ComfyUI's own Load LoRA. A stopped run goes on when the command is repeated.
"""
EPILOG = """\
examples:
  lora photos/cats --caption "a photo of a sks cat" --out runs/cats
  lora photos/orange --recipe my_lora.toml --out runs/orange --set run.steps=300
  lora photos/orange clips/others --recipe my_joint_lora.toml --out runs/orange
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGES", help="folder, list or shard of images")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; its name becomes the file's")
    parser.add_argument("--recipe", default="lora", help="a recipe with a [lora] table (default: lora)")
    parser.add_argument("--caption", default="", help="caption of images that have none")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="of the LoRA files; default: fp16")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    catalogue = args.out / "catalogue"
    found = prepare(args.images, catalogue, Limits(), args.caption, progress=False)
    print(summary(found, catalogue))
    recipe = lora_recipe(args.recipe, catalogue, args.out, args.set)
    train(recipe)
    for naming in FORMATS:
        path = args.out / f"{args.out.name}_{naming}.safetensors"
        export_adapters(args.out, path, naming, DTYPES[args.dtype])
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def lora_recipe(name: str, catalogue: Path, out: Path, changes: list[str]) -> Recipe:
    """A recipe with its data and folder filled in. Raises TrainingError if it trains no LoRA."""
    places = [f"data.catalogues={json.dumps([str(catalogue)])}", f"run.out={json.dumps(str(out))}"]
    recipe = read_recipe(name, [*places, *changes])
    if recipe.lora is None:
        raise TrainingError(f"recipe {name} has no [lora] table; use `train` for it, or another recipe")
    return recipe
