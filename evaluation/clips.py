"""Clips on disk: one reader, one lossless writer.

Contract: frames are uint8 RGB (F, H, W, 3). A clip is a video file or a folder of PNG pictures whose names end in their
numbers. FFV1 in Matroska and PNG give back the very pixels that were written; other files what a player shows.
"""

from __future__ import annotations

import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ..datasets.errors import DataError
from ..datasets.media.image import decode_image
from ..datasets.media.video import probe_video
from ..datasets.video import decode_video
from ..files import whole_file
from .errors import EvaluationError

CLIP_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")
FPS = 8.0  # LaVie's own, and VBench's for it; a folder of pictures does not say


def read_clip(path: Path) -> np.ndarray:
    """All frames, uint8 (F, H, W, 3). Raises EvaluationError naming the file and what is wrong with it."""
    try:
        if not path.is_dir():
            return decode_video(path)
        pictures = [decode_image(picture) for picture in pictures_of(path)]
    except DataError as error:
        raise EvaluationError(f"{path}: {error}") from None
    if sizes := {picture.shape[:2] for picture in pictures} - {pictures[0].shape[:2]}:
        raise EvaluationError(f"{path}: expected pictures of one size, got {pictures[0].shape[:2]} and {sizes.pop()}")
    return np.stack(pictures)


def write_clip(frames: np.ndarray, path: Path, fps: float = FPS) -> None:
    """Write without loss: FFV1 if `path` ends in .mkv, else a folder of PNG. Whole or not there at all."""
    if path.suffix == ".mkv":
        with whole_file(path) as part:
            _write_ffv1(frames, part, fps)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.mkdir(parents=True)
    try:
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(part / f"{number:05d}.png")
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def probe_clip(path: Path) -> tuple[int, int, int, float]:
    """(frames, width, height, frames per second). Raises EvaluationError."""
    try:
        if path.is_dir():
            pictures = pictures_of(path)
            height, width, _ = decode_image(pictures[0]).shape
            return len(pictures), width, height, FPS
        found = probe_video(path, decode=False)
    except DataError as error:
        raise EvaluationError(f"{path}: {error}") from None
    return found.frames, found.width, found.height, found.fps or FPS


def is_clip(path: Path) -> bool:
    """Whether it is named like a video file, or is a folder that holds PNG pictures; hidden files are neither."""
    kind = any(path.glob("*.png")) if path.is_dir() else path.suffix in CLIP_SUFFIXES
    return kind and not path.name.startswith(".")


def pictures_of(folder: Path) -> list[Path]:
    """The PNG files of a clip in order. Raises EvaluationError if a number is missing, or if there are no pictures."""
    numbers = {}
    for picture in folder.glob("*.png"):
        number = re.search(r"(\d+)$", picture.stem)
        if number is None or int(number[1]) in numbers:
            raise EvaluationError(f"{folder}: expected names that end in numbers, each once, got {picture.name}")
        numbers[int(number[1])] = picture
    first, last = (min(numbers), max(numbers)) if numbers else (0, -1)
    if last - first + 1 != len(numbers) or not numbers:
        raise EvaluationError(f"{folder}: expected pictures {first} to {last} without a gap, got {len(numbers)}")
    return [numbers[number] for number in sorted(numbers)]


def _write_ffv1(frames: np.ndarray, path: Path, fps: float) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
