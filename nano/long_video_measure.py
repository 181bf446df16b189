"""The ways to a long video, and what is measured of one: seams, drift, and what still follows the prompt.

Contract: pixels in, numbers out. A part is the first clip or what one extension adds (windows: as many frames). A seam
is the mean difference of neighbouring frames where a clip or window begins, in parts of the same elsewhere. Drift is
how far a part's mean colour is from the first one's, of 255. Colour, thing and direction are right if they are the
prompt's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ..comfyui_api.clips import Generate
from ..evaluation.metrics.drift import drifts
from ..evaluation.metrics.seams import seams
from .evaluate import heldout_scenes
from .measure import measure_clip
from .shapes import Scene, caption

CLIP, RECURSIONS = 16, 5
SLOW = 4.0  # pixels that a part goes at least to have a direction; what fits into a long video is slower than a clip
WINDOWS, LOOP, EXTENDED, ONE_CLIP = (
    f"lavie_nano_{use}.json" for use in ("long_video", "looping_video", "long_video_extended", "text_to_video")
)


@dataclass(frozen=True)
class Way:
    """A workflow with its settings.

    Attributes:
        new: frames that an extension adds.
        borders: the frames with which clips or windows begin, the first one's left out; a loop's windows begin
            elsewhere at every step.
        first_frame: extensions are made by the first-frame-conditioned base.
    """

    name: str
    workflow: str
    settings: dict
    new: int
    borders: tuple[int, ...]
    first_frame: bool = False

    @property
    def frames(self) -> int:
        return CLIP + RECURSIONS * self.new

    @property
    def parts(self) -> list[slice]:
        starts = range(CLIP, self.frames, self.new)
        return [slice(0, CLIP), *(slice(start, start + self.new) for start in starts)]

CLIP_BORDERS = tuple(range(CLIP, 76, 12))
WINDOW_BORDERS = (*range(8, 60, 8), 60)  # the last window ends with the video
WAYS = (
    Way("context windows, FreeNoise", WINDOWS, {"frames": 76}, 12, WINDOW_BORDERS),
    Way("context windows, no FreeNoise", WINDOWS, {"frames": 76, "freenoise": False}, 12, WINDOW_BORDERS),
    Way("context windows, FreeNoise, overlap 4", WINDOWS, {"frames": 76, "overlap": 4}, 12, tuple(range(12, 72, 12))),
    Way("context windows, loop", LOOP, {"frames": 76}, 12, ()),
    Way("LaVie Extend Video", EXTENDED, {"total_frames": 76}, 12, CLIP_BORDERS),
    Way("LaVie Extend Video, denoise 1", EXTENDED, {"total_frames": 76, "denoise": 1.0}, 12, CLIP_BORDERS),
    Way("LaVie Extend Video, overlap 8", EXTENDED, {"total_frames": 56, "overlap": 8}, 8, tuple(range(CLIP, 56, 8))),
    Way(
        "first-frame-conditioned base", EXTENDED, {"total_frames": 91, "overlap": 1}, 15, tuple(range(CLIP, 91, 15)),
        first_frame=True,
    ),
)  # fmt: skip
APART = Way("for comparison: clips apart, joined", ONE_CLIP, {}, CLIP, tuple(range(CLIP, 96, CLIP)))
Measured = list[tuple[Way, list["Video"]]]


@dataclass(frozen=True)
class VideoPart:
    """One part of one video; ``seam`` is that of the borders in it, NaN for none."""

    color: bool
    thing: bool
    direction: bool
    seam: float
    drift: float


@dataclass(frozen=True)
class Video:
    """What was measured of one video: its parts, the first clip at the head; ``end_to_start``, the seam of a loop."""

    scene: Scene
    parts: list[VideoPart]
    end_to_start: float

    @property
    def seam(self) -> float:
        """Of all its parts; NaN without borders."""
        found = [part.seam for part in self.parts if not math.isnan(part.seam)]
        return fmean(found) if found else math.nan


def apart(generate: Generate) -> Generate:
    """Clips with seeds of their own, one behind the other."""

    def joined(prompt: str, seed: int) -> np.ndarray:
        return np.concatenate([generate(prompt, 1000 * seed + i) for i in range(1 + RECURSIONS)])

    return joined


def seams_of_parts(frames: np.ndarray, way: Way) -> list[float]:
    """Of each part of frames (F, H, W, 3), the mean seam of the borders in it; NaN for none."""
    found = dict(zip(way.borders, seams(frames, way.borders), strict=True))
    of_parts = [[found[b] for b in way.borders if part.start <= b < part.stop] for part in way.parts]
    return [float(np.mean(some)) if some else math.nan for some in of_parts]


def measure(frames: np.ndarray, way: Way, scene: Scene) -> Video:
    """Raises ValueError if a way's workflow makes another number of frames than it should."""
    if len(frames) != way.frames:
        raise ValueError(f"{way.workflow} makes {len(frames)} frames, but {way.frames} are measured")
    starts = [part.start for part in way.parts[1:]]
    parts = []
    for part, drift, seam in zip(way.parts, drifts(frames, starts), seams_of_parts(frames, way), strict=True):
        seen = measure_clip(frames[part], SLOW)
        right = (seen.color == scene.color, seen.thing == scene.thing, seen.direction == scene.direction)
        parts.append(VideoPart(*right, seam, drift))
    [around] = seams(np.concatenate([frames, frames[:1]]), [len(frames)])
    return Video(scene, parts, float(around))


def videos_of(way: Way, generate: Generate, count: int) -> list[Video]:
    scenes = enumerate(heldout_scenes(count))
    return [measure(generate(caption(scene), seed), way, scene) for seed, scene in scenes]
