"""The command `buckets`: batch shapes that fit the data, as lines for a recipe."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from ..datasets.catalogue import Catalogue, Item
from .data import Bucket
from .data.plan import aspect_distance

GRID = 64  # pixels; sides of published training shapes are multiples of it
DESCRIPTION = """\
Propose [[data.buckets]] for catalogues: shapes of about equal area, so that steps take about equal memory, each near to
the shape of as many items as can be. Of all shapes on a grid of 64 pixels those are chosen, one after the other, that
lower what cropping cuts off the most. Probabilities follow the number of items. Print them into a recipe, and set
nearest_aspect = true so that every item goes where least of it is lost.
"""
EPILOG = """\
examples:
  buckets data/videos --area 512x320 --frames 16 --rows 64
  buckets data/videos data/images --count 5 >> my_recipe.toml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("catalogues", nargs="+", type=Path, metavar="CATALOGUE", help="folder that prepare made")
    parser.add_argument("--area", type=_size, default=512 * 320, metavar="WxH", help="of every shape (512x320)")
    parser.add_argument("--frames", type=int, default=16, help="of a clip (default: 16)")
    parser.add_argument("--rows", type=int, default=64, help="clips per step (default: 64)")
    parser.add_argument("--count", type=int, default=3, help="most shapes (default: 3)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    items = Catalogue.load_all(args.catalogues).items
    found = propose_buckets(items, args.area, args.frames, args.rows, args.count)
    print("# [data]: nearest_aspect = true")
    for bucket in found:
        print("\n[[data.buckets]]")
        for name in ("frames", "height", "width", "rows", "probability"):
            print(f"{name} = {getattr(bucket, name)}")
    return 0


def propose_buckets(items: tuple[Item, ...], area: int, frames: int, rows: int, count: int) -> list[Bucket]:
    """At most ``count`` buckets, the most frequent first; probabilities are of whole thousandths and sum to 1."""
    shapes = Counter((item.width, item.height) for item in items)
    sides = range(GRID, 4 * int(area**0.5), GRID)
    candidates = sorted({(width, max(GRID, round(area / width / GRID) * GRID)) for width in sides})
    loss = np.array([[aspect_distance(*shape, *one) for shape in shapes] for one in candidates])
    weights, chosen = np.array(list(shapes.values()), float), []
    best = np.full(len(shapes), np.inf)
    while len(chosen) < count:
        gain = np.minimum(loss, best) @ weights
        number = int(gain.argmin())
        if chosen and gain[number] >= best @ weights - 1e-9:
            break
        chosen.append(number)
        best = np.minimum(best, loss[number])
    nearest = loss[chosen].argmin(0)
    shares = np.array([weights[nearest == i].sum() for i in range(len(chosen))]) / weights.sum()
    thousandths = np.maximum(1, np.floor(1000 * shares)).astype(int)
    thousandths[shares.argmax()] += 1000 - thousandths.sum()
    found = [
        Bucket(frames, candidates[number][1], candidates[number][0], rows, round(int(part) / 1000, 3))
        for number, part, share in zip(chosen, thousandths, shares, strict=True) if share > 0
    ]  # fmt: skip
    return sorted(found, key=lambda bucket: -bucket.probability)


def _size(text: str) -> int:
    width, by, height = text.lower().partition("x")
    if not (by and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected width and height such as 512x320, got {text!r}")
    return int(width) * int(height)
