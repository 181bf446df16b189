"""Which pixels a training step sees: a pure function of (seed, step) and of the catalogue.

Contract: a step takes one bucket; its rows and their images come from shuffled rounds: each eligible item once, in an
order drawn anew per round (a permutation that is computed, not stored, so any step can be planned by itself; where
there are several buckets, each passes over the places of the steps that took another). Ranks take equal runs of
neighbouring rows. Nothing here reads a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...datasets.catalogue import Item
from .settings import Bucket, DataSettings

FPS_TOLERANCE = 0.25  # how far, as a fraction, a clip may play from the rate that was asked for
PAN_MARGIN = 1.25  # an image that becomes a clip is at least this many buckets wide and high
PAN_REACH = 0.5  # and moves by at most this fraction of the bucket
PAN_FPS = 8.0  # what such a clip is said to play at where no rate is asked for


@dataclass(frozen=True)
class Draw:
    """Everything that decides one clip's or image's pixels.

    Attributes:
        kind: "clip", "image" or "pan" (a clip out of an image).
        start, stride, count: source frames `start + i * stride`.
        box: left, top, width, height of the cut-out in source pixels; drift: how far it moves until the last frame.
        size: width, height of the result. fps: frames per second as it plays, 0 for images.
    """

    item: Item
    kind: str
    start: int
    stride: int
    count: int
    box: tuple[float, float, float, float]
    drift: tuple[float, float]
    size: tuple[int, int]
    flip: bool
    fps: float

    @property
    def bytes(self) -> int:
        """Of its pixels."""
        return 3 * self.count * self.size[0] * self.size[1]

    @property
    def name(self) -> str:
        """Equal names mean equal pixels: the key of a latent cache."""
        box = ",".join(f"{value:.4f}" for value in (*self.box, *self.drift))
        width, height = self.size
        return (
            f"{self.item.key} {self.item.identity} {self.kind} {self.start}+{self.count}x{self.stride} "
            f"[{box}] {width}x{height}{' flipped' if self.flip else ''}"
        )


def random(*parts) -> np.random.Generator:
    """A generator that depends on the values of `parts` alone."""
    digest = hashlib.sha256("|".join(map(repr, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def shuffled(position: int, size: int, *key) -> tuple[int, int]:
    """(which of `size` things, how many rounds before): each round visits each thing once, in its own order."""
    round_number, place = divmod(position, size)
    half = max(1, -(-(size - 1).bit_length() // 2))
    mask = (1 << half) - 1
    secret = hashlib.sha256(repr((*key, round_number)).encode()).digest()
    while True:  # a Feistel network permutes 0 .. 4**half - 1; walk until within size (four steps on average at most)
        left, right = place >> half, place & mask
        for turn in range(4):
            digest = hashlib.blake2b(b"%d,%d" % (turn, right), key=secret, digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        place = left << half | right
        if place < size:
            return place, round_number


def pick_bucket(buckets: Sequence[Bucket], seed: int, step: int) -> int:
    """The number of the bucket that a step takes."""
    edges = np.cumsum([bucket.probability for bucket in buckets])
    return int(np.searchsorted(edges, random("bucket", seed, step).random() * edges[-1], side="right"))


def nearest_stride(rate: float, wanted: float) -> int:
    """The whole stride at which `rate` frames per second play nearest to `wanted`; of two as near the smaller."""
    below = max(1, int(rate / wanted))
    return min((below, below + 1), key=lambda stride: abs(rate / stride - wanted))


def strides(item: Item, frames: int, settings: DataSettings) -> tuple[int, int] | str:
    """Smallest and largest stride at which a video fills `frames`, or why there is none."""
    if frames == 1:
        return (1, 1)
    longest = (item.frames - 1) // (frames - 1)
    low, high = settings.stride
    if settings.fps is not None:
        low = high = nearest_stride(item.fps, settings.fps)
        if abs(item.fps / low / settings.fps - 1) > FPS_TOLERANCE:
            return f"plays at {item.fps / low:g} fps at best, fps = {settings.fps:g}"
    if longest < low:
        return f"has {item.frames} frames, {frames} at stride {low} take {(frames - 1) * low + 1}"
    return low, min(high, longest)


def aspect_distance(width: int, height: int, other_width: int, other_height: int) -> float:
    """How much two shapes differ: 0 for equal ones, the logarithm of what one must be stretched by for others."""
    return abs(float(np.log(width * other_height / (height * other_width))))


def find_misfit(item: Item, kind: str, bucket: Bucket, settings: DataSettings) -> str | None:
    """Why an item cannot be drawn as `kind` ("clip", "image", "pan") in this bucket, or None."""
    margin = PAN_MARGIN if kind == "pan" else 1.0
    if item.width < margin * bucket.width or item.height < margin * bucket.height:
        if kind == "pan":
            return f"is {item.width}x{item.height}: too small to move a {bucket.width}x{bucket.height} cut-out over"
        if not settings.enlarge:
            return f"is {item.width}x{item.height}, smaller than {bucket.width}x{bucket.height}, and enlarge is false"
    if kind == "clip":
        found = strides(item, bucket.frames, settings)
        return found if isinstance(found, str) else None
    return None


def draw(item: Item, kind: str, bucket: Bucket, settings: DataSettings, rng: np.random.Generator) -> Draw:
    """Cut one clip or image out of an item that is not a misfit (see `find_misfit`)."""
    count, start, stride, fps = 1, 0, 1, 0.0
    if kind == "clip":
        count = bucket.frames
        low, high = strides(item, count, settings)
        stride = int(rng.integers(low, high + 1))
        start = int(rng.integers(item.frames - (count - 1) * stride))
        fps = item.fps / stride
    elif kind == "pan":
        count, stride, fps = bucket.frames, 0, settings.fps or PAN_FPS
    shrink = min(item.width / bucket.width, item.height / bucket.height)
    if kind == "pan" or settings.crop == "native":
        shrink = min(shrink, 1.0)
    width, height = bucket.width * shrink, bucket.height * shrink
    left = int(rng.integers(int(item.width - width + 1e-6) + 1))
    top = int(rng.integers(int(item.height - height + 1e-6) + 1))
    drift = (0.0, 0.0)
    if kind == "pan":
        ends = (_reach(left, width, item.width, rng), _reach(top, height, item.height, rng))
        drift = (ends[0] - left, ends[1] - top)
    flip = bool(rng.random() < settings.flip)
    box = (float(left), float(top), width, height)
    return Draw(item, kind, start, stride, count, box, drift, (bucket.width, bucket.height), flip, fps)


def _reach(begin: float, length: float, whole: int, rng: np.random.Generator) -> float:
    """Where a moving cut-out ends along one axis."""
    reach = PAN_REACH * length
    return round(float(rng.uniform(max(0.0, begin - reach), min(whole - length, begin + reach))), 4)
