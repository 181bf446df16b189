"""What a clip shows, read from its pixels alone.

Contract: `measure_clip` knows the drawings and colours of `shapes` but nothing of the caption, the seed or the model.
Each answer is a word of the caption grammar or NONE, which stands for "cannot be told" and counts as wrong.

Method: backgrounds are achromatic, so chroma (largest minus smallest of R, G, B) is zero outside the thing and
proportional to coverage at its edge, whatever its colour. The largest connected region of high chroma is the thing. Its
hue gives the colour, its correlation with templates drawn by `shapes` the kind and the facing, the regression of its
centroid over time the motion. The thresholds leave room for an autoencoder's blur and a sampler's noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from .shapes import BACKGROUNDS, COLORS, DIRECTIONS, HEADED, LOW, REFERENCE_SIZE, THINGS, Scene, render

NONE = "none"

_MIN_CHROMA = 60  # of 255; the palest caption colour has 156
_PEAK_RANK = 60  # chroma of the 60th strongest pixel stands for the thing's colour; the smallest thing has about 120
_AREA = (50, 1000)  # pixels of a 64 x 64 frame that a thing may cover
_MIN_SHARE = 0.6  # of all high-chroma pixels that the largest region must hold, else there is no single thing
_MIN_PRESENCE = 0.75  # of the frames that must show a thing before anything is said about it
_MIN_HUE_SHARE = 0.5  # of the chroma that must vote for the winning colour
_MIN_CORRELATION = 0.8  # with the best template; true clips reach 0.95 and more
_MIN_TRAVEL = 8.0  # pixels over the clip, below which no direction is told; most true clips travel 24 to 32
_MIN_STRAIGHTNESS = 0.8  # R^2 of position against time
_MAX_SLANT = 0.5  # travel across / travel along
_MAX_BACKGROUND_CHROMA = 40
_PATCH = 40  # side of the window compared with templates, pixels
_BLUR = 0.8  # sigma applied to clip and templates alike, pixels
_SOFT = 1.5  # sigma of the softened templates, pixels


@dataclass(frozen=True)
class Measurement:
    """Words of the caption grammar, or NONE. `facing` is NONE for things without a heading."""

    color: str
    thing: str
    facing: str
    axis: str  # "horizontal", "vertical" or NONE
    direction: str
    background: str
    speed: float  # pixels of a 64 x 64 frame per frame, along the fitted line; 0 when it cannot be told
    correlation: float  # with the best template, -1 .. 1
    presence: tuple[bool, ...]  # per frame: is there exactly one thing


_NOTHING = {**dict.fromkeys(("color", "thing", "facing", "axis", "direction"), NONE), "speed": 0.0, "correlation": 0.0}


def measure_clip(frames: np.ndarray, min_travel: float = _MIN_TRAVEL) -> Measurement:
    """Measure a clip, uint8 (F, H, W, 3) with H = W >= 64. With F = 1 there is no motion to report.

    What goes less than `min_travel` pixels of a 64 x 64 frame from first to last has no direction.
    """
    frames = _to_reference_size(frames)
    chroma = _chroma(frames)
    masks, peaks = zip(*(segment(c) for c in chroma), strict=True)
    presence = tuple(bool(m.any()) for m in masks)
    background = _background(frames, np.array(masks))
    if np.mean(presence) < _MIN_PRESENCE:
        return Measurement(background=background, presence=presence, **_NOTHING)
    here = np.flatnonzero(presence)
    cover = np.stack([cover_of(chroma[f], masks[f], peaks[f]) for f in here])
    centroids = np.array([ndimage.center_of_mass(c)[::-1] for c in cover])  # (N, 2) as x, y
    axis, direction, speed = _motion(here, centroids, min_travel)
    thing, facing, correlation = _thing(cover, centroids)
    color = _color(frames[here].astype(np.float32), np.where(np.array(masks)[here], chroma[here], 0))
    return Measurement(color, thing, facing, axis, direction, background, speed, correlation, presence)


def to_chroma(frames: np.ndarray) -> np.ndarray:
    """How far each pixel is from gray, float32 (F, 64, 64) in 0 .. 255, of a clip as `measure_clip` takes it."""
    return _chroma(_to_reference_size(frames))


def _chroma(frames: np.ndarray) -> np.ndarray:
    return (frames.max(-1) - frames.min(-1)).astype(np.float32)


def thing_of(cover: np.ndarray) -> tuple[str, str]:
    """(thing, facing) of one frame's cover, (H, W), that is not empty: words of the caption grammar, or NONE."""
    return _thing(cover[None], np.array([ndimage.center_of_mass(cover)[::-1]]))[:2]


def _to_reference_size(frames: np.ndarray) -> np.ndarray:
    square = frames.ndim == 4 and frames.shape[3] == 3 and frames.shape[1] == frames.shape[2] >= REFERENCE_SIZE
    if frames.dtype != np.uint8 or not square:
        raise ValueError(
            f"Expected a clip as uint8 (frames, size, size, 3) with size >= {REFERENCE_SIZE}, got {frames.dtype} "
            f"{frames.shape}. Scale floats by 255 and crop frames to a square first."
        )
    if frames.shape[1] == REFERENCE_SIZE:
        return frames
    side = (REFERENCE_SIZE, REFERENCE_SIZE)
    return np.stack([np.asarray(Image.fromarray(f).resize(side, Image.Resampling.BOX)) for f in frames])


def segment(chroma: np.ndarray) -> tuple[np.ndarray, float]:
    """The thing's region, bool (H, W), empty if there is no single thing; and the chroma of its body."""
    smooth = ndimage.gaussian_filter(chroma, _BLUR)
    peak = float(np.partition(smooth.ravel(), -_PEAK_RANK)[-_PEAK_RANK])
    if peak < _MIN_CHROMA:
        return np.zeros(chroma.shape, bool), peak
    high = smooth > peak / 2
    labels, _ = ndimage.label(high)
    areas = np.bincount(labels.ravel())[1:]
    area = areas.max()
    if not _AREA[0] <= area <= _AREA[1] or area < _MIN_SHARE * areas.sum():
        return np.zeros(chroma.shape, bool), peak
    return labels == areas.argmax() + 1, peak


def cover_of(chroma: np.ndarray, mask: np.ndarray, peak: float) -> np.ndarray:
    """How much of each pixel the thing's colour covers, 0 .. 1, float (H, W); zero away from its region."""
    return np.where(ndimage.binary_dilation(mask, iterations=2), np.clip(chroma / peak, 0, 1), 0)


def _motion(times: np.ndarray, centroids: np.ndarray, min_travel: float) -> tuple[str, str, float]:
    """(axis, direction, speed) from a straight line fitted to the centroids, (N, 2), of the frames `times`, (N,)."""
    if len(times) < 3:
        return NONE, NONE, 0.0
    time, place = times - times.mean(), centroids - centroids.mean(0)
    slope = time @ place / (time @ time)  # (2,) pixels per frame
    along = int(np.argmax(np.abs(slope)))
    spread = float((place[:, along] ** 2).sum())
    straightness = slope[along] ** 2 * (time @ time) / spread if spread > 0 else 0.0
    travel = abs(slope) * np.ptp(times)
    slanted = travel[1 - along] > _MAX_SLANT * travel[along]
    if travel[along] < min_travel or slanted or straightness < _MIN_STRAIGHTNESS:
        return NONE, NONE, float(np.hypot(*slope))
    step = [0, 0]
    step[along] = int(np.sign(slope[along]))
    direction = next(name for name, unit in DIRECTIONS.items() if unit == tuple(step))
    return ("horizontal", "vertical")[along], direction, float(np.hypot(*slope))


def _thing(cover: np.ndarray, centroids: np.ndarray) -> tuple[str, str, float]:
    """(thing, facing, correlation): the template that agrees best with all frames together."""
    names, templates = _templates()
    scores = _patches(cover, centroids) @ templates.T  # (N, names * variants)
    scores = scores.reshape(len(cover), len(names), -1).max(-1).mean(0)
    best = int(scores.argmax())
    if scores[best] < _MIN_CORRELATION:
        return NONE, NONE, float(scores[best])
    thing, facing = names[best]
    return thing, facing, float(scores[best])


@lru_cache(maxsize=1)
def _templates() -> tuple[tuple[tuple[str, str], ...], np.ndarray]:
    """((thing, facing), ...) and float (names * variants, pixels): each drawing in each orientation, normalised.

    The variants of a drawing are its lengths, as drawn and softened as a lossy codec would.
    """
    names = tuple((thing, facing) for thing in THINGS for facing in (DIRECTIONS if thing in HEADED else (NONE,)))
    lengths = LOW.length * np.linspace(0.75, 1.25, 11)
    middle = (REFERENCE_SIZE / 2, REFERENCE_SIZE / 2)
    rows = []
    for thing, facing in names:
        direction = "right" if facing == NONE else facing
        clips = [render(Scene("red", thing, direction, "black", False, middle, 0.0, n, 0.5), frames=1) for n in lengths]
        sharp = np.concatenate(clips).astype(np.float32)
        images = np.concatenate([sharp, ndimage.gaussian_filter(sharp, (0, _SOFT, _SOFT, 0))])
        cover = np.stack([cover_of(c, *segment(c)) for c in _chroma(images)])
        rows.append(_patches(cover, np.array([ndimage.center_of_mass(c)[::-1] for c in cover])))
    return names, np.concatenate(rows)


def _patches(cover: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Blurred windows around the centroids, float (N, pixels), of zero mean and unit norm: dot products correlate."""
    grid = np.arange(_PATCH) - (_PATCH - 1) / 2
    patches = np.empty((len(cover), _PATCH, _PATCH))
    for patch, image, (x, y) in zip(patches, cover, centroids, strict=True):
        rows, columns = np.meshgrid(grid + y, grid + x, indexing="ij")
        patch[:] = ndimage.map_coordinates(ndimage.gaussian_filter(image, _BLUR), (rows, columns), order=1)
    flat = patches.reshape(len(cover), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _color(frames: np.ndarray, weight: np.ndarray) -> str:
    """The caption colour nearest in hue to most of the thing; frames (N, H, W, 3), weight (N, H, W)."""
    palette = _hue(np.array(tuple(COLORS.values()), np.float32))  # (6,) degrees
    chosen = weight > 0
    apart = np.abs((_hue(frames[chosen])[:, None] - palette + 180) % 360 - 180)  # (pixels, 6)
    votes = np.bincount(apart.argmin(1), weights=weight[chosen], minlength=len(palette))
    winner = int(votes.argmax())
    return tuple(COLORS)[winner] if votes[winner] >= _MIN_HUE_SHARE * votes.sum() else NONE


def _hue(rgb: np.ndarray) -> np.ndarray:
    """Hue in degrees of (..., 3) RGB, from the two opponent axes."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    return np.degrees(np.arctan2(math.sqrt(3) * (g - b), 2 * r - g - b)) % 360


def _background(frames: np.ndarray, masks: np.ndarray) -> str:
    """The nearest gray level of the pixels well away from the thing, or NONE if they have a colour of their own."""
    away = ~ndimage.binary_dilation(masks, structure=np.ones((1, 7, 7), bool))
    if not away.any():
        return NONE
    median = np.median(frames[away], axis=0)
    if np.ptp(median) > _MAX_BACKGROUND_CHROMA:
        return NONE
    return min(BACKGROUNDS, key=lambda name: abs(BACKGROUNDS[name][0] - median.mean()))
