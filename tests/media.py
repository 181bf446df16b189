"""Tiny real videos, sounds and images, written by PyAV and Pillow, whose frames tell their own number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

STEP = 6  # frame i of `numbered` is gray of this times i
CODECS = {".webm": "libvpx-vp9", ".avi": "mpeg4"}


def numbered(count: int, width: int = 48, height: int = 32) -> np.ndarray:
    """(count, height, width, 3): plain frames of which `numbers` reads which they are; at most 43."""
    return np.repeat(np.arange(count, dtype=np.uint8) * STEP, height * width * 3).reshape(count, height, width, 3)


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of `numbered` these are, whatever compression did to them."""
    return np.rint(frames.mean((1, 2, 3)) / STEP).astype(int).tolist()


def write_video(path: Path, frames: np.ndarray, fps=10, ticks=None, sound: bool = False, codec: str = "") -> Path:
    """`ticks`: times of the frames in 1 / (100 fps) s (default: a constant rate). H.264 is written with B-frames."""
    with av.open(str(path), "w") as container:
        codec = codec or CODECS.get(path.suffix, "libx264")
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.gop_size, stream.bit_rate = 12, 4_000_000
        if codec == "libx264":
            stream.options = {"x264-params": "scenecut=0:b-adapt=0:bframes=2"}
        if ticks:
            stream.codec_context.time_base = 1 / Fraction(100 * fps)
        if sound:
            container.add_stream("aac", rate=16000)
        container.start_encoding()  # else a video without frames would not be written at all
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if ticks:
                frame.pts, frame.time_base = ticks[i], 1 / Fraction(100 * fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            _write_silence(container, container.streams.audio[0])
    return path


def write_planes(path: Path, frames, pixels: str, codec: str = "ffv1", options=None, rate=10, **facts) -> Path:
    """Frames of planes (height, width), as they are; `facts` are set on the stream's codec context (color_trc, ...)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames[0][0].shape[:2], pixels
        for name, value in facts.items():
            setattr(stream.codec_context, name, value)
        for planes in frames:
            container.mux(stream.encode(planar_frame(planes, pixels)))
        container.mux(stream.encode())
    return path


def planar_frame(planes, pixels: str) -> av.VideoFrame:
    """A frame of these planes, each (height, width) or (height, width, interleaved components)."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixels)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((len(values), plane.line_size), np.uint8)
        content = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        rows[:, : content.shape[1]] = content
        plane.update(rows.tobytes())
    return frame


def write_sound(path: Path) -> Path:
    """A file with a sound track and no picture."""
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=16000))
    return path


def _write_silence(container, stream) -> None:
    for start in range(0, 16000, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_image(path: Path, width: int = 48, height: int = 32, seed: int = 0) -> Path:
    """Noise, losslessly where the suffix allows."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def zero_middle(path: Path, begin: float = 0.4, end: float = 0.6) -> Path:
    """Overwrite a part of a file, given as fractions of its length, with zeros."""
    content = bytearray(path.read_bytes())
    first, last = int(begin * len(content)), int(end * len(content))
    content[first:last] = bytes(last - first)
    path.write_bytes(content)
    return path
