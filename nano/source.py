"""The generated shapes as a source, so that the nano models are trained on the path that everybody's data takes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..datasets.catalogue import Catalogue, Item
from ..datasets.prepare import positive, summary
from .shapes import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    THINGS,
    VARIATIONS,
    caption,
    render,
    render_image,
    sample_scene,
    triples_of,
)

IMAGE_SEEDS = 1 << 40  # images are drawn of other scenes than clips
FPS = 8.0
DESCRIPTION = "Write a catalogue of generated clips and images, which recipes name in [data] catalogues."
EPILOG = """\
examples:
  data --out data/nano videos=10240,images=24576
  data --out data/some videos=4096,videos_of=red+fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument(
        "shapes", type=_shapes, nargs="+", metavar="videos=N,images=N,...",
        help="how many; also size=64 (pixels), frames=16, split=train (or heldout, all), videos_of=red+fish: "
        "videos of these colours, things, directions or backgrounds alone (of kinds that it does not name, all); "
        "images_of=red+fish: images of them; "
        "variation=low (or wide: things begin anywhere, and are slow too)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the catalogue")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    catalogue = write_catalogue(args.shapes, args.out)
    print(summary(catalogue, args.out))
    return 0


def write_catalogue(parts: list[dict], out: Path) -> Catalogue:
    """The catalogue of one or more calls of `shapes`, by their arguments, written to `out`."""
    catalogue = Catalogue.of([item for arguments in parts for item in shapes(**arguments)], [])
    catalogue.save(out)
    return catalogue


def shapes(
    videos: int, images: int, split: str = "train", size: int = 64, frames: int = 16, videos_of: Sequence[str] = (),
    images_of: Sequence[str] = (), variation: str = "low",
) -> Iterator[Item]:  # fmt: skip
    """Clip i is `sample_scene(i, split, videos_of)` in `frames` frames, all of the variation of that name.

    Image i is likewise the scene of the seed IMAGE_SEEDS + i and of `images_of`.
    """
    for kind, count, first, words in (("video", videos, 0, videos_of), ("image", images, IMAGE_SEEDS, images_of)):
        length, fps = (frames, FPS) if kind == "video" else (1, 0.0)
        only = list(words)
        for i in range(count):
            text = caption(sample_scene(first + i, split, only, VARIATIONS[variation]), kind)
            locator = {"source": "generated", "module": __name__, "split": split, "seed": first + i}
            locator |= {"only": only} if only else {}
            locator |= {} if variation == "low" else {"variation": variation}
            limits = ["+".join(only)] if only else []
            key = ":".join(["shapes", split, *limits, *([] if variation == "low" else [variation]), kind, str(i)])
            yield Item(key, kind, text, length, fps, size, size, locator)


def render_frames(item: Item, indices: Sequence[int]) -> np.ndarray:
    """(len(indices), size, size, 3) uint8."""
    variation = VARIATIONS[item.locator.get("variation", "low")]
    scene = sample_scene(item.locator["seed"], item.locator["split"], item.locator.get("only", ()), variation)
    if item.kind == "image":
        return np.repeat(render_image(scene, item.width)[None], len(indices), axis=0)
    return render(scene, item.frames, item.width, only=indices)


def _shapes(text: str) -> dict:
    kinds = {
        "videos": positive, "images": positive, "size": positive, "frames": positive, "split": str,
        "videos_of": _words, "images_of": _words, "variation": str,
    }  # fmt: skip
    found = {"videos": 0, "images": 0}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in kinds:
            raise argparse.ArgumentTypeError(f"expected {', '.join(kinds)}, got {name!r}")
        try:
            found[name] = kinds[name](value)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from None
    if found.get("split", "train") not in ("train", "heldout", "all") or found["videos"] + found["images"] < 1:
        raise argparse.ArgumentTypeError("expected videos or images of 1 or more, and a split of train, heldout or all")
    if found.get("variation", "low") not in VARIATIONS:
        raise argparse.ArgumentTypeError(f"expected a variation of {' or '.join(VARIATIONS)}, got {found['variation']}")
    for name in ("videos_of", "images_of"):
        if not triples_of(found.get("split", "train"), words := found.get(name, ())):
            raise argparse.ArgumentTypeError(f"{name}: no caption of this split has only the words {'+'.join(words)}")
    return found


def _words(text: str) -> tuple[str, ...]:
    words, known = tuple(text.split("+")), (*COLORS, *THINGS, *DIRECTIONS, *BACKGROUNDS)
    if unknown := [word for word in words if word not in known]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {', '.join(unknown)!r}")
    return words
