"""All the small models that come with the pack, from nothing: `python -P -m comfyui_lavie.nano build`.

Contract: runs the commands that the recipes' heads name, one after the other, each on what those before it made, into
folders of one folder. What is finished is not done again, and a step that was stopped goes on. `times.json` in the
folder keeps the wall time of each step.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import text_encoder
from . import vae as autoencoder
from .shapes import HEADED

RECIPES = Path(__file__).with_name("recipes")
TIMES = "times.json"
BASE = ("nano_images", "nano_joint", "nano_refine", "nano_shapes")  # each begins where the one before ended
FEW_STEPS = "lavie_nano_few_steps_lora.safetensors"
INTERPOLATION = ("nano_interpolation_motion", "nano_interpolation")


@dataclass(frozen=True)
class Step:
    """One command: a room of the house and its arguments."""

    name: str
    room: str
    arguments: tuple[str, ...]

    def command(self) -> list[str]:
        return [sys.executable, "-P", "-m", f"{__package__.split('.')[0]}.{self.room}", *self.arguments]


def steps(out: Path) -> list[Step]:
    """Everything in order. Text encoder and VAEs come first: all networks are trained in their outputs.

    The VAE's better decoder is trained on what the base makes; its encoder, and so the latents, stay as they are.
    """
    text = out / "text_encoder" / text_encoder.FILE_NAME
    vae, large_vae = (out / name / autoencoder.FILE_NAMES[factor] for name, factor in (("vae", 8), ("upscaler_vae", 4)))
    unets = {
        stage: out / f"lavie_nano_{stage}.safetensors"
        for stage in ("base", "interpolation", "super_resolution", "first_frame")
    }

    def training(name: str, *arguments: str) -> Step:
        return Step(name, "training", tuple(map(str, arguments)))

    def nano(name: str, *arguments: str) -> Step:
        return Step(name, "nano", tuple(map(str, arguments)))

    def train(recipe: str, catalogues: tuple[str, ...], start: str, codec: Path = vae) -> Step:
        settings = {
            "run.out": out / recipe, "model.start": start, "encoders.text": text, "encoders.vae": codec,
            "encoders.cache": out / "cache", "data.catalogues": json.dumps([str(out / name) for name in catalogues]),
        }  # fmt: skip
        return training(f"train {recipe}", "train", RECIPES / f"{recipe}.toml", *changes(settings))

    def train_all(recipes: tuple[str, ...], catalogue: str) -> list[Step]:
        starts = ("random", *(str(out / before) for before in recipes[:-1]))
        return [train(recipe, (catalogue,), start) for recipe, start in zip(recipes, starts, strict=True)]

    def export(recipe: str, stage: str) -> Step:
        return training(f"export {recipe}", "export", out / recipe, "--out", unets[stage])

    def data(name: str, *shapes: str) -> Step:
        return nano(f"data {name}", "data", "--out", out / name, *shapes)

    headed = "+".join(HEADED)
    return [
        nano("text encoder", "text_encoder", "--out", text.parent),
        nano("VAE", "vae", "--out", vae.parent),
        nano("VAE of super-resolution", "vae",
             "--factor", 4, "--width", 64, "--steps", 10000, "--out", large_vae.parent),
        data("data", "videos=10240,images=24576"),
        *train_all(BASE, "data"),
        data("headed", f"videos=9216,images=13824,videos_of={headed},images_of={headed}", "videos=1536,images=3072"),
        train("nano_headed", ("headed",), str(out / BASE[-1])),
        train("nano_outlines", ("headed", "data"), str(out / "nano_headed")),
        data("fish", "videos=2048,images=4096,videos_of=fish,images_of=fish", "videos=2048,videos_of=fish+up+down"),
        train("nano_fish", ("headed", "fish"), str(out / "nano_outlines")),
        export("nano_fish", "base"),
        data("few", "videos=1024"),
        train("nano_distill", ("few",), str(unets["base"])),
        training("export nano_distill", "export", out / "nano_distill", "--out", out / FEW_STEPS),
        nano("decoder", "decoder", vae, "--base", unets["base"], "--text", text, "--out", out / "decoder"),
        data("smooth", "videos=3072,frames=61"),
        *train_all(INTERPOLATION, "smooth"),
        export(INTERPOLATION[-1], "interpolation"),
        data("large", "videos=8192,size=256,frames=61"),
        train("nano_super_resolution", ("large",), "random", large_vae),
        export("nano_super_resolution", "super_resolution"),
        data("steady", "videos=6144,frames=76"),
        data("pictures", "images=6144"),
        train("nano_first_frame", ("steady", "pictures"), str(unets["base"])),
        export("nano_first_frame", "first_frame"),
        nano("example LoRA", "lora", "--out", out / "nano_orange", *changes({
            "model.start": unets["base"], "encoders.text": text, "encoders.vae": vae,
        })),
        nano("colours of previews", "colors",
             vae, *(unets[stage] for stage in ("base", "interpolation", "first_frame"))),
        nano("colours of super-resolution's previews", "colors", large_vae, unets["super_resolution"]),
    ]  # fmt: skip


def changes(settings: dict) -> list[str]:
    """The arguments that change a recipe's settings."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


DESCRIPTION = """\
All the small models that come with the pack, from nothing, by the commands that the recipes' heads name, one after the
other. What is finished is not done again, and a step that was stopped goes on.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = DESCRIPTION
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="folder to work in (default: runs/nano)")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")


def run(args: argparse.Namespace) -> int:
    """Run what is not finished; returns the exit status."""
    path = args.out / TIMES
    times = json.loads(path.read_text()) if path.exists() else {}
    for step in steps(args.out):
        if args.list:
            print(shlex.join(step.command()))
            continue
        if step.name in times:
            continue
        print(f"== {step.name}", flush=True)
        began = time.monotonic()
        if status := subprocess.run(step.command()).returncode:
            print(f"{step.name} ended with status {status}; repeat this command to go on from here", file=sys.stderr)
            return status
        times[step.name] = round(time.monotonic() - began)
        args.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(times, indent=1) + "\n")
    if not args.list:
        print("\n".join(f"{seconds:6d} s  {name}" for name, seconds in times.items()))
    return 0

