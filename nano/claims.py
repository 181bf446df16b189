"""The command `claims`: two claims of the paper, measured on small networks by the commands of this package.

Contract: all variants begin with one image model, the spatial layers of a base; they are trained by the recipe
`claims`, which the variants of a claim change in what the claim is about and in nothing else; measured through a real
ComfyUI (`claims_measure`); written as one page (`claims_page`). What is finished is not done again, and a stopped
command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..datasets.prepare import positive
from ..lavie_models import LaVieUNet
from ..lavie_models.metadata import CONFIG, PREDICTION, STAGE
from ..lavie_models.unet import is_temporal
from ..lavie_models.weights_file import write_weights
from ..place import ROOT, SetupError
from ..training.checkpoints import NAME, Checkpoints
from ..training.errors import TrainingError
from ..training.files import file_digest
from ..training.recipe import Recipe
from ..training.recipe_file import read_recipe, recipe_of_run
from ..training.start import read_source
from ..training.train import train
from .build import RECIPES
from .claims_measure import GUIDANCE, VIDEO_WORDS, Run, known, measure_runs, mixed_scenes, scenes_of_words
from .claims_page import page
from .claims_plot import plot
from .evaluate import BASE, heldout_scenes
from .shapes import Scene, caption
from .source import write_catalogue

DESCRIPTION = """\
Measure two claims of the LaVie paper on small networks and generated shapes, and write what comes out:

  1  simple temporal self-attention with rotary positions suffices
  2  joint fine-tuning on images and videos is pivotal

Prepares the data, takes the spatial layers of a base as the image model, trains all variants from it (recipe claims),
generates clips in a real ComfyUI, measures them by their pixels. Stop it as you like: the same command goes on.
"""
EPILOG = """\
examples:
  claims                                    # an hour and a half on one CPU core
  claims --clips 144 --sampling-steps 25 --seeds1 0 1 2 --seeds2 0 1 2 3 4 --videos 10240 \\
    --set run.steps=5000 --set run.decay=2000 --work runs/claims_large --out runs/claims_large.md
"""


@dataclass(frozen=True)
class Variant:
    """One way to train: the name of its runs, what it is in words, what it changes in the recipe `claims`."""

    key: str
    name: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """What is compared.

    ``videos``: catalogue of its clips; ``scenes``: what to ask for, by the number of clips; ``watched``: whether its
    trainings are looked at while they run; ``changes``: what all its variants change in the recipe `claims`.
    """

    number: int
    videos: str
    scenes: Callable[[int], list[Scene]]
    variants: tuple[Variant, ...]
    watched: bool = False
    changes: tuple[str, ...] = ()


TEMPORAL = "model.train=temporal"
BEFORE = Variant("images", "before fine-tuning")
CLAIMS = (  # in the order in which they are trained
    Claim(2, "some_videos", mixed_scenes, (
        Variant("video_only", "video only", ("data.images=0",)),
        Variant("temporal_only", "video only, temporal layers only", ("data.images=0", TEMPORAL)),
        Variant("joint", "jointly with images of all words", ("data.images=2",)),
    ), watched=True, changes=("run.steps=1500", "samples.every=300")),
    Claim(1, "videos", heldout_scenes, (
        Variant("rotary", "rotary positions and bias", (TEMPORAL,)),
        Variant("rotary_alone", "rotary positions alone", (TEMPORAL, 'model.config.positions="rotary"')),
        Variant("bias_alone", "bias alone", (TEMPORAL, 'model.config.positions="bias"')),
        Variant("no_positions", "no positions", (TEMPORAL, "model.config.positions=false")),
        Variant("no_temporal", "no temporal attention", ("model.train=spatial",)),
    )),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "claims.md", help="page to write")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "claims", help="folder of data, runs and cache")
    for name, default, what in (
        ("--images", 24576, "images to prepare"), ("--videos", 4096, "videos to prepare, of each choice of words"),
        ("--clips", 48, "clips to measure of each run"), ("--sampling-steps", 10, "steps of the sampler"),
        ("--watched", 24, "clips at each look during a training of claim 2"),
    ):  # fmt: skip
        parser.add_argument(name, type=positive, default=default, metavar="N", help=f"{what} (default: {default})")
    for number, default in ((1, [0, 1, 2]), (2, [0, 1, 2])):
        words = f"seeds of claim {number}, a training of each variant for each (default: {default})"
        parser.add_argument(f"--seeds{number}", type=int, nargs="+", default=default, metavar="SEED", help=words)
    parser.add_argument("--base", type=Path, default=BASE, help="its spatial layers are the image model")
    words = "change one setting of the recipe claims"
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=words)


def runs_of(args: argparse.Namespace) -> list[Run]:
    """The image model, then all trainings. Raises RecipeError naming what is wrong with --set."""
    image_model = args.work / BEFORE.key / f"image_model_{file_digest(args.base)[:8]}.safetensors"
    bucket = "data.buckets=[{ frames = 1, height = 64, width = 64, rows = 1 }]"
    pictures = _recipe(args, BEFORE.key, ["images"], [*args.set, bucket, "data.video=false", "data.images=0"])
    looks = {  # at what no video had
        "samples.prompts": [caption(scene) for scene in scenes_of_words(args.watched, False)],
        "samples.steps": 10, "samples.guidance": GUIDANCE, "samples.evaluate": f"{known.__module__}:{known.__name__}",
    }  # fmt: skip
    runs = [Run(CLAIMS[0].number, BEFORE.name, pictures, CLAIMS[0].scenes(args.clips), image_model)]
    for claim in CLAIMS:
        for variant in claim.variants:
            for seed in args.seeds1 if claim.number == 1 else args.seeds2:
                forced = {"model.start": str(image_model), "run.seed": seed, **(looks if claim.watched else {})}
                changes = [*claim.changes, *args.set, *_changes(forced), *variant.changes]
                recipe = _recipe(args, f"{variant.key}_{seed}", [claim.videos, "images"], changes)
                runs.append(Run(claim.number, variant.name, recipe, claim.scenes(args.clips)))
    return runs


def _recipe(args, folder: str, catalogues: list[str], changes: list[str]) -> Recipe:
    places = {
        "run.out": str(args.work / folder), "encoders.cache": str(args.work / "cache"),
        "data.catalogues": [str(args.work / "data" / catalogue) for catalogue in catalogues],
    }  # fmt: skip
    return read_recipe(RECIPES / "claims.toml", [*changes, *_changes(places)])


def _changes(values: dict) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def prepare_data(args: argparse.Namespace, frames: int, size: int) -> None:
    """Three catalogues: images of all words, videos of all words, videos of VIDEO_WORDS."""
    videos = {"videos": args.videos, "images": 0, "size": size, "frames": frames}
    for name, shapes in {
        "images": {**videos, "videos": 0, "images": args.images},
        "videos": videos,
        "some_videos": {**videos, "videos_of": VIDEO_WORDS},
    }.items():
        write_catalogue([shapes], args.work / "data" / name)


def write_image_model(base: Path, out: Path, recipe: Recipe) -> None:
    """A base whose temporal layers begin anew, without effect; what its spatial layers make of pictures stays."""
    source = read_source(replace(recipe, model=replace(recipe.model, start=str(base))))
    torch.manual_seed(0)
    fresh = LaVieUNet(source.config).state_dict()
    spatial = {key: value.float() for key, value in source.weights.items() if not is_temporal(key)}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_weights(out, fresh | spatial, {
        STAGE: source.config.stage, CONFIG: json.dumps(source.config.to_dict()), PREDICTION: recipe.model.prediction,
    })  # fmt: skip


def train_once(recipe: Recipe) -> None:
    """Train or go on; nothing where the folder has the finished run of this very recipe.

    Raises TrainingError where it has a longer one.
    """
    folder, steps = recipe.run.out, recipe.run.steps
    files = Checkpoints(folder).files()
    done = int(NAME.fullmatch(files[-1].name)[1]) if files else 0
    if done > steps:
        raise TrainingError(f"{folder} has made {done} steps, but {steps} are asked for; delete it, or ask for {done}")
    if done < steps or recipe_of_run(folder).settings() != recipe.settings():
        train(recipe)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from ..comfyui_api.graphs import WorkflowError
    from ..comfyui_api.server import ServerError

    runs = runs_of(args)
    bucket = runs[-1].recipe.data.buckets[0]
    try:
        prepare_data(args, bucket.frames, max(bucket.width, bucket.height))
        if not runs[0].weights.exists():  # it is named after the base's content
            write_image_model(args.base, runs[0].weights, runs[0].recipe)
        for one in runs[1:]:
            train_once(one.recipe)
        with tempfile.TemporaryDirectory() as folder:
            measure_runs(runs, args.sampling_steps, Path(folder))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        plot(runs, args.sampling_steps, args.out.with_suffix(".svg"))
        args.out.write_text(page(runs, args.sampling_steps), encoding="utf-8")
    except (SetupError, ServerError, WorkflowError, ValueError, OSError) as error:
        print(f"claims: {error}", file=sys.stderr)
        return 1
    print(f"{args.out} is written")
    return 0
