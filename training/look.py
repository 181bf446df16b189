"""The command `look`: sheets of exactly what the loader hands to a training, with captions."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..datasets.catalogue import Catalogue
from ..datasets.video import contact_sheet
from .data import TrainingData
from .reading import Reader
from .recipe_file import read_recipe

TEXT_SIZE, LETTERS = 14, 110  # pixels; of a line of a caption
DESCRIPTION = """\
Look at the data of a recipe before it costs a night: for each step a picture of every row, all frames of its clip and
its images as they are cut, resized and mirrored for the network, each with its caption. Super-resolution shows the
degraded clips too. Steps and seed are those of the training, so what is seen is what it will see. Neither weights nor
encoders are needed. What cannot be read is named.
"""
EPILOG = """\
examples:
  look base --out looks/
  look my_recipe.toml --steps 5 --set data.fps=8 --out looks/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("recipe", help="a .toml file, or the name of a shipped recipe")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument("--first", type=int, default=0, help="step to begin with (default: 0)")
    parser.add_argument("--steps", type=int, default=2, help="steps to show (default: 2)")
    parser.add_argument("--rows", type=int, default=8, help="most rows of a step to show (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    recipe = read_recipe(args.recipe, args.set)
    catalogue = Catalogue.load_all(recipe.data.catalogues, recipe.data.repeats)
    data = TrainingData(recipe.data, catalogue.split(recipe.validation.heldout)[0])
    reader = Reader(recipe.model.stage == "super_resolution")
    args.out.mkdir(parents=True, exist_ok=True)
    for step in range(args.first, args.first + args.steps):
        share = reader.read(data, recipe.run.seed, step)
        per_row = 1 + share.num_images
        for row in range(min(args.rows, len(share.draws) // per_row)):
            parts = list(zip(share.draws, share.pixels, strict=True))[row * per_row : (row + 1) * per_row]
            cells = [(f"{draw.item.key}: {draw.item.caption}", pixels) for draw, pixels in parts]
            cells += [("degraded", share.small[row])] if share.small else []
            path = args.out / f"step{step:06d}_row{row:02d}.png"
            stack([caption_sheet(pixels, text) for text, pixels in cells]).save(path)
            print(f"{path}: {cells[0][0]}")
        for sentence in share.bad:
            print(f"step {step}: replaced: {sentence}")
    return 0


def caption_sheet(frames: np.ndarray, text: str) -> Image.Image:
    """All frames of a clip, or one image, with a text below."""
    sheet, font = contact_sheet(frames), ImageFont.load_default(TEXT_SIZE)
    lines = textwrap.wrap(text, LETTERS) or [""]
    box = ImageDraw.Draw(sheet).multiline_textbbox((0, 0), "\n".join(lines), font=font)
    whole = Image.new("RGB", (max(sheet.width, int(box[2]) + 8), sheet.height + int(box[3]) + 8), "white")
    whole.paste(sheet, (0, 0))
    ImageDraw.Draw(whole).multiline_text((4, sheet.height), "\n".join(lines), fill="black", font=font)
    return whole


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    whole, top = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole
