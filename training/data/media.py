"""Looking into video and image files: what they hold (probe) and their pixels (decode).

Contract: a source is a path or the file's bytes. Pictures are uint8 RGB, (H, W, 3), turned upright. Frame n of a video
is the one shown at `origin + (n + 0.5) / fps` seconds, so that variable frame rates play at their true speed, and for a
constant rate it is the n-th frame. Every failure is a DataError whose text fits after "name: ".
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

import av
import av.error
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageOps

from .errors import DataError

Source = str | Path | bytes
CLOSE = 1e-4  # seconds: times that are nearer are the same
GAP_SECONDS, GAP_FRAMES = 0.5, 5  # a gap is longer than both, in seconds and in usual times between frames
CONVERT = "convert it to MP4 or Matroska, for example with ffmpeg"


@dataclass(frozen=True)
class Probed:
    """What a file holds: frames of the segment asked for, frames per second, upright size, seconds of frame 0."""

    frames: int
    fps: float
    width: int
    height: int
    origin: float = 0.0


def probe_image(source: Source) -> Probed:
    """Decode an image once."""
    height, width, _ = decode_image(source).shape
    return Probed(1, 0.0, width, height)


def decode_image(source: Source) -> np.ndarray:
    """(H, W, 3); what is transparent comes out white."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"not a readable image ({_said(error)})") from None


def probe_video(source: Source, start: float = 0.0, end: float | None = None, decode: bool = True) -> Probed:
    """Count the frames of a video, or of its part from `start` to `end` seconds after its first frame.

    With `decode` every frame is decoded, which finds all damage; without, every packet is read, which finds truncation,
    and the first frame decoded. Of a part all frames are decoded, and nothing else of the file.
    """
    if start or end is not None:
        times, shape = _part_times(source, start, np.inf if end is None else end)
    else:
        times, shape = _whole_times(source, decode)
    _check_gaps(times)
    fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
    return Probed(len(times), round(float(fps), 6), shape[1], shape[0], round(float(times[0]), 6))


def _whole_times(source: Source, decode: bool) -> tuple[np.ndarray, tuple[int, ...]]:
    """(times of all frames, shape of a picture)."""
    with _opened(source) as (container, stream):
        if decode or container.format.name == "avi":  # which has no times: only decoding shows whether they are right
            times, shape = _decoded_times(container.decode(stream))
        else:
            times, shape = _packet_times(container, stream), None
        if len(times) == 0:
            raise DataError("a video without frames")
        _check_whole(times, _declared_seconds(stream))
    return times, shape or decode_video(source, [times[0] + CLOSE])[0].shape


def _part_times(source: Source, start: float, end: float) -> tuple[np.ndarray, tuple[int, ...]]:
    """(times of the part's frames, shape of a picture); start and end in seconds after the first frame."""
    with _opened(source) as (container, stream):
        first = next((frame.time for frame in container.decode(stream)), None)
    if first is None:
        raise DataError("a video without frames")
    begin, end = first + start - CLOSE, first + end - CLOSE
    with _opened(source) as (container, stream):
        container.seek(int(begin / stream.time_base), stream=stream, backward=True)
        later = dropwhile(lambda frame: frame.time is not None and frame.time < begin, container.decode(stream))
        times, shape = _decoded_times(takewhile(lambda frame: frame.time is None or frame.time < end, later))
    if len(times) == 0:
        raise DataError(f"no frames from {start:g} s to {'its end' if np.isinf(end) else f'{end - first + CLOSE:g} s'}")
    return times, shape


def decode_video(source: Source, times: Sequence[float]) -> list[np.ndarray]:
    """The pictures shown at `times`, ascending seconds of the file's own clock: the last frame not later than each."""
    with _opened(source) as (container, stream):
        try:
            container.seek(int(times[0] / stream.time_base), stream=stream, backward=True)
            found = _pick(container.decode(stream), times)
            if found is not None:
                return found
        except av.error.FFmpegError:
            pass  # not every container can seek
    with _opened(source) as (container, stream):
        found = _pick(container.decode(stream), times)
    if found is None:
        raise DataError(f"no frame at {times[0]:.3f} s")
    return found


def _pick(frames: Iterator[av.VideoFrame], times: Sequence[float]) -> list[np.ndarray] | None:
    """None if the frames begin later than the first time. The last frame stays shown."""
    pictures, shown, wanted = [], None, list(times)
    for frame in frames:
        if frame.time is None:
            raise DataError("a frame without a time")
        while wanted and frame.time > wanted[0]:
            if shown is None:
                return None
            pictures.append(_picture(shown))
            wanted.pop(0)
        if not wanted:
            return pictures
        shown = frame
    if shown is None:
        return None
    return pictures + [_picture(shown) for _ in wanted]


def _picture(frame: av.VideoFrame) -> np.ndarray:
    if frame.is_corrupt:
        raise DataError(f"a damaged frame at {frame.time:.3f} s")
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))


def _decoded_times(frames: Iterable[av.VideoFrame]) -> tuple[np.ndarray, tuple[int, ...] | None]:
    times, size, shape = [], None, None
    for frame in frames:
        if frame.is_corrupt:
            raise DataError(f"damaged: frame {len(times)} cannot be decoded whole")
        if frame.time is None:
            raise DataError(f"a frame without a time; {CONVERT}")
        if times and frame.time <= times[-1]:
            raise DataError(f"the times of its frames do not ascend, as with H.264 in AVI; {CONVERT}")
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            raise DataError(f"the frame size changes from {size} to {(frame.width, frame.height)}; split the video")
        shape = shape or _picture(frame).shape
        times.append(frame.time)
    return np.array(times), shape


def _packet_times(container, stream) -> np.ndarray:
    times = []
    for packet in container.demux(stream):
        if not packet.size:
            continue  # the end
        if packet.is_corrupt:
            raise DataError(f"damaged: packet {len(times)} is cut short")
        if packet.pts is None:
            raise DataError(f"a frame without a time; {CONVERT}")
        if not packet.is_discard:
            times.append(float(packet.pts * packet.time_base))
    times = np.sort(np.array(times))
    if np.any(np.diff(times) <= 0):
        raise DataError(f"several frames carry the same time; {CONVERT}")
    return times


def _check_gaps(times: np.ndarray) -> None:
    """Raises DataError if pictures stand still for long among others that do not: frames were lost."""
    steps = np.diff(times)
    if len(steps) and steps.max() > max(GAP_SECONDS, GAP_FRAMES * np.median(steps)):
        where = times[steps.argmax()]
        raise DataError(f"frames are missing: none for {steps.max():.2f} s after {where:.2f} s; cut it there")


def _check_whole(times: np.ndarray, declared: float | None) -> None:
    """Raises DataError if frames end well before the file says; encoders are a little off themselves."""
    if declared is None or len(times) < 2:
        return
    length = (times[-1] - times[0]) * len(times) / (len(times) - 1)
    missing = declared - length - max(0.0, times[0])  # Matroska says when it ends, others how long it is
    if missing > max(0.1 * declared, 2 * declared / len(times)):
        raise DataError(f"cut short: it says it lasts {declared:.2f} s, but frames end {missing:.2f} s before that")


def _declared_seconds(stream) -> float | None:
    """How long the file says that its video is, if it does (Matroska and WebM do so in a tag)."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


@contextmanager
def _opened(source: Source):
    """(container, its video stream), one decoding thread: batches are decoded side by side, not frames."""
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise DataError("no video stream" + (", only sound" if container.streams.audio else ""))
            if streams[0].codec_context is None:
                raise DataError("no decoder for this kind of video here")
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except av.error.EOFError:
        raise DataError("a video without frames") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"not a readable video ({_said(error)})") from None


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).replace("\n", " ") or type(error).__name__
