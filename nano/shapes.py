"""Captioned clips and images of simple things, as a pure function of a seed.

Contract: every function here depends on its arguments alone, so a seed always names the same pixels and the same
caption. Frames are uint8 RGB, (F, H, W, 3). Lengths are given in pixels of a 64 x 64 frame and scale with the frame.

A clip shows one thing crossing the centre of a plain achromatic background at constant speed along one axis. Fish,
rockets and cars have a heading and are drawn turned the way they go; circles, squares and triangles look the same
whichever way they move. `drawing` has the drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np

from .drawing import LAYERS, PAINTS, draw

COLORS = {
    "red": (228, 28, 28),
    "green": (20, 176, 52),
    "blue": (28, 64, 240),
    "yellow": (248, 222, 16),
    "purple": (150, 30, 204),
    "cyan": (16, 212, 226),
}
NEW_COLORS = {"orange": (250, 130, 10)}  # in no training clip: for what is learned later, as by LoRA
HEADED = ("fish", "rocket", "car")
SYMMETRIC = ("circle", "square", "triangle")
THINGS = HEADED + SYMMETRIC
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # unit (x, y), y grows downwards
BACKGROUNDS = {"black": (12, 12, 12), "gray": (128, 128, 128), "white": (242, 242, 242)}
REFERENCE_SIZE = 64  # the frame size, in pixels, in which every length of this module is given

# Rows are the (x, y) directions of a drawing's own forward and downward axes. "left" mirrors, so that cars keep their
# wheels on the ground; "up" and "down" are quarter turns.
_AXES = {
    "right": ((1, 0), (0, 1)),
    "left": ((-1, 0), (0, 1)),
    "up": ((0, -1), (1, 0)),
    "down": ((0, 1), (-1, 0)),
}

Triple = tuple[str, str, str]  # colour, thing, direction
TRIPLES: tuple[Triple, ...] = tuple(product(COLORS, THINGS, DIRECTIONS))


def _held_out() -> frozenset[Triple]:
    """24 of the 144 triples: each colour and each thing 4 times, once per direction, each direction 6 times.

    No pair of words is held out as a whole: a colour and thing lose at most one of four directions.
    """
    colors, things, directions = tuple(COLORS), tuple(THINGS), tuple(DIRECTIONS)
    return frozenset(
        (colors[i], things[(i + shift) % len(things)], directions[shift])
        for i in range(len(colors))
        for shift in range(len(directions))
    )


HELDOUT = _held_out()
_SPLITS = {
    "train": tuple(t for t in TRIPLES if t not in HELDOUT),
    "heldout": tuple(t for t in TRIPLES if t in HELDOUT),
    "all": TRIPLES,
}


@dataclass(frozen=True)
class Variation:
    """How much clips of one caption may differ; ranges are uniform, lengths in pixels of a 64 x 64 frame."""

    travel: tuple[float, float] = (24.0, 32.0)  # way from the first frame to the last
    jitter_along: float = 3.0  # +- offset of the middle of the way from the centre, along the motion
    jitter_across: float = 6.0  # the same, across the motion
    length: float = 24.0  # extent of a thing along its longest side
    length_variation: float = 0.1  # +- fraction of `length`
    named_background: float = 0.5  # fraction of captions that name the background
    inside: bool = False  # offsets are scaled down to what the thing's way leaves of the picture


LOW = Variation()
WIDE = Variation(travel=(7.5, 33.0), jitter_along=20.0, jitter_across=20.0, inside=True)  # anywhere, 0.5 .. 2.2 a frame
VARIATIONS = {"low": LOW, "wide": WIDE}


@dataclass(frozen=True)
class Scene:
    """One thing and its straight way; enough to draw a clip or an image and to caption it."""

    color: str
    thing: str
    direction: str
    background: str
    background_named: bool
    center: tuple[float, float]  # (x, y) of the middle of the way, pixels of a 64 x 64 frame
    travel: float  # length of the way, same unit
    length: float  # extent of the thing, same unit
    moment: float  # 0 .. 1: where on the way `render_image` takes its picture


def caption(scene: Scene, kind: Literal["video", "image"] = "video") -> str:
    """The text that belongs to a clip ("moving") or to a single image ("facing") of the scene."""
    verb = {"video": "moving", "image": "facing"}[kind]
    text = f"a {scene.color} {scene.thing} {verb} {scene.direction}"
    return f"{text} on a {scene.background} background" if scene.background_named else text


@lru_cache
def triples_of(split: str, only: tuple[str, ...] = ()) -> tuple[Triple, ...]:
    """The triples of a split with none but the words in `only`; of a kind of word that it does not name, all."""
    kinds = [set(kind).intersection(only) or set(kind) for kind in (COLORS, THINGS, DIRECTIONS)]
    return tuple(t for t in _SPLITS[split] if all(word in kind for word, kind in zip(t, kinds, strict=True)))


def sample_scene(seed: int, split: str = "train", only: Sequence[str] = (), variation: Variation = LOW) -> Scene:
    """Draw a scene whose (colour, thing, direction) is in `triples_of`; `seed` is any non-negative integer.

    Its background is one of those in `only`, if it names any.
    """
    rng = _rng(seed, 0)
    triples = triples_of(split, tuple(only))
    color, thing, direction = triples[rng.integers(len(triples))]
    along = rng.uniform(-variation.jitter_along, variation.jitter_along)
    across = rng.uniform(-variation.jitter_across, variation.jitter_across)
    backgrounds = [name for name in BACKGROUNDS if name in only] or list(BACKGROUNDS)
    background = backgrounds[rng.integers(len(backgrounds))]
    named = bool(rng.random() < variation.named_background)
    travel = rng.uniform(*variation.travel)
    length = variation.length * (1 + rng.uniform(-variation.length_variation, variation.length_variation))
    middle = REFERENCE_SIZE / 2
    if variation.inside:
        room = middle - length / 2
        along *= min(1.0, (room - travel / 2) / variation.jitter_along)
        across *= min(1.0, room / variation.jitter_across)
    dx, dy = DIRECTIONS[direction]
    center = (middle + along * dx + across * dy, middle + along * dy + across * dx)
    return Scene(color, thing, direction, background, named, center, travel, length, moment=rng.random())


def render(scene: Scene, frames: int = 16, size: int = REFERENCE_SIZE, only: Sequence[int] | None = None) -> np.ndarray:
    """Draw the clip, uint8 (frames, size, size, 3), or `only` some of its frames.

    More frames cover the same way in smaller steps.
    """
    moments = np.linspace(0.0, 1.0, frames) if frames > 1 else np.array([0.5])
    return _render_moments(scene, moments if only is None else moments[list(only)], size)


def render_image(scene: Scene, size: int = REFERENCE_SIZE) -> np.ndarray:
    """Draw one picture, uint8 (size, size, 3), of the thing somewhere on its way."""
    return _render_moments(scene, np.array([scene.moment]), size)[0]


def details(scene: Scene, size: int = REFERENCE_SIZE) -> np.ndarray:
    """Where the picture of `render_image` shows the thing's eye, windows or wheels: bool (size, size)."""
    moment = np.array([scene.moment])
    whole, bare = (_render_moments(scene, moment, size, paints)[0] for paints in (PAINTS, ("body",)))
    return (whole != bare).any(-1)


def render_dense(seed: int, size: int = REFERENCE_SIZE) -> np.ndarray:
    """Draw 3 to 6 things and blobs of any colour, size and rotation, uint8 (size, size, 3), to train an autoencoder."""
    rng = _rng(seed, 1)
    canvas = _dense_background(rng, size)[None]
    for _ in range(rng.integers(3, 7)):
        radius = rng.uniform(4.0, 15.0) * size / REFERENCE_SIZE
        angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.integers(4) * np.pi / 2
        cos, sin = np.cos(angle), np.sin(angle)
        flip = rng.choice((-1, 1))
        axes = ((cos, sin), (-flip * sin, flip * cos))
        thing = rng.choice((*THINGS, "blob"))
        layers = _blob_layers(rng) if thing == "blob" else LAYERS[thing]
        draw(canvas, rng.uniform(0, size, (1, 2)), radius, axes, layers, _dense_color(rng))
    return _to_uint8(canvas)[0]


def _render_moments(scene: Scene, moments: np.ndarray, size: int, paints: Sequence[str] = PAINTS) -> np.ndarray:
    scale = size / REFERENCE_SIZE
    canvas = np.empty((len(moments), size, size, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    way = (moments[:, None] - 0.5) * scene.travel * np.array(DIRECTIONS[scene.direction])  # (F, 2)
    axes = _AXES[scene.direction if scene.thing in HEADED else "right"]
    layers = [layer for layer in LAYERS[scene.thing] if layer[0] in paints]
    draw(canvas, (np.array(scene.center) + way) * scale, scene.length / 2 * scale, axes, layers,
          (COLORS | NEW_COLORS)[scene.color])
    return _to_uint8(canvas)


def _blob_layers(rng: np.random.Generator):
    """A lumpy silhouette of 2 to 4 overlapping ellipses."""
    count = rng.integers(2, 5)
    lumps = (("ellipse", *rng.uniform(-0.45, 0.45, 2), *rng.uniform(0.3, 0.8, 2)) for _ in range(count))
    return (("body", tuple(lumps)),)


def _dense_color(rng: np.random.Generator) -> np.ndarray:
    """One of the caption colours with a little jitter, a saturated colour, or any colour at all."""
    kind = rng.integers(3)
    if kind == 0:
        return np.clip(np.array(tuple(COLORS.values())[rng.integers(len(COLORS))]) + rng.normal(0, 8, 3), 0, 255)
    color = rng.uniform(0, 255, 3)
    if kind == 1:
        color[rng.integers(3)], color[rng.integers(3)] = rng.uniform(0, 40), rng.uniform(200, 255)
    return color


def _dense_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A caption's background, any flat colour, or a linear gradient between two colours; float32 (size, size, 3)."""
    kind = rng.random()
    if kind < 0.5:
        first = second = np.array(tuple(BACKGROUNDS.values())[rng.integers(len(BACKGROUNDS))]) + rng.normal(0, 3)
    elif kind < 0.75:
        first = second = _dense_color(rng)
    else:
        first, second = _dense_color(rng), _dense_color(rng)
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-0.5, 0.5, size)
    ramp = np.clip(0.5 + np.cos(angle) * line + np.sin(angle) * line[:, None], 0, 1)[..., None]
    return (first + ramp * (second - first)).astype(np.float32)


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, stream)))


def _to_uint8(canvas: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
