"""The example LoRA: a colour that the nano base never saw, learned from sixteen pictures beside clips of known things.

    python -P -m comfyui_lavie.nano lora

Contract: writes the pictures with their captions and the catalogue of the clips, and runs the command `lora` with the
recipe nano_joint_lora on both; the file in kohya's names is the one that comes with the pack.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ..training import __main__ as commands
from . import shapes
from .build import RECIPES
from .source import write_catalogue

COLOR = "orange"
IMAGES = 16
OTHERS = 32  # images of known colours beside them: without these a small model forgets what it knew
CLIPS = 96  # of known things, likewise: without these it forgets which way things go
FILE_NAME = "lavie_nano_orange_lora.safetensors"


def write_pictures(folder: Path, others: int = 0) -> None:
    """Write images of orange things and ``others`` of known colours, NN.png, and their captions, NN.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    things, directions, backgrounds = list(shapes.THINGS), list(shapes.DIRECTIONS), list(shapes.BACKGROUNDS)
    for i in range(IMAGES + others):
        scene = shapes.sample_scene(1000 + i)
        if i < IMAGES:
            scene = replace(
                scene, color=COLOR, thing=things[i % 6], direction=directions[i % 4], background=backgrounds[i % 3],
                background_named=bool(i % 2),
            )  # fmt: skip
        Image.fromarray(shapes.render_image(scene)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(shapes.caption(scene, "image"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = __doc__.split("\n\n")[0]
    parser.add_argument("--out", type=Path, default=Path("runs/nano_orange"), help="the run's folder")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")


def run(args: argparse.Namespace) -> int:
    """Make the LoRA; returns the exit status."""
    pictures, clips = args.out / "pictures", args.out / "clips"
    write_pictures(pictures, OTHERS)
    write_catalogue([{"videos": CLIPS, "images": 0}], clips)
    catalogues = f"data.catalogues={json.dumps([str(args.out / 'catalogue'), str(clips)])}"
    changes = [word for change in (catalogues, *args.set) for word in ("--set", change)]
    recipe = str(RECIPES / "nano_joint_lora.toml")
    status = commands.main(["lora", str(pictures), "--recipe", recipe, "--out", str(args.out), *changes])
    if status == 0:
        shutil.copy(args.out / f"{args.out.name}_kohya.safetensors", args.out / FILE_NAME)
        print(f"put {args.out / FILE_NAME} into ComfyUI/models/loras")
    return status

