"""Looking into video files: their frames and times (probe) and their pixels (decode).

Contract: frame n of a video is the one shown at `origin + (n + 0.5) / fps` seconds, so that variable frame rates play
at their true speed, and for a constant rate it is the n-th frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import dropwhile, groupby, takewhile

import av
import av.error
import numpy as np

from ..errors import DataError
from .container import frames_of, opened
from .file import Probed, Source
from .picture import Pictures
from .sparse import frames_for

CLOSE = 1e-4  # seconds: times that are nearer are the same
GAP_SECONDS, GAP_FRAMES = 0.5, 5  # a gap is longer than both, in seconds and in usual times between frames
CONVERT = "convert it to MP4 or Matroska, for example with ffmpeg"


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
    with opened(source) as (container, stream):
        if decode or container.format.name == "avi":  # which has no times: only decoding shows whether they are right
            times, shape = decoded_times(frames_of(container, stream), stream)
        else:
            times, shape = _packet_times(container, stream), None
        if len(times) == 0:
            raise DataError("a video without frames")
        check_whole(times, declared_seconds(stream))
    return times, shape or decode_video(source, [times[0] + CLOSE])[0].shape


def _part_times(source: Source, start: float, end: float) -> tuple[np.ndarray, tuple[int, ...]]:
    """(times of the part's frames, shape of a picture); start and end in seconds after the first frame."""
    with opened(source) as (container, stream):
        first = next((frame.time for frame in frames_of(container, stream)), None)
    if first is None:
        raise DataError("a video without frames")
    begin, end = first + start - CLOSE, first + end - CLOSE
    with opened(source) as (container, stream):
        times, shape = decoded_times(frames_between(container, stream, begin, end), stream)
    if len(times) == 0:
        until = "its end" if np.isinf(end) else f"{end - first + CLOSE:g} s"
        raise DataError(f"no frames in this part: from {start:g} s to {until}")
    return times, shape


def frames_between(container, stream, begin: float, end: float) -> Iterator[av.VideoFrame]:
    """Decoded frames whose times are at least `begin` and less than `end`, seconds of the file's own clock."""
    container.seek(int(begin / stream.time_base), stream=stream, backward=True)
    later = dropwhile(lambda frame: frame.time is not None and frame.time < begin, frames_of(container, stream))
    return takewhile(lambda frame: frame.time is None or frame.time < end, later)


def decode_video(source: Source, times: Sequence[float]) -> list[np.ndarray]:
    """The pictures shown at `times`, ascending seconds of the file's own clock: the last frame not later than each."""
    with opened(source) as (container, stream):
        try:
            container.seek(int(times[0] / stream.time_base), stream=stream, backward=True)
            found = _pick(frames_for(container, stream, times), times)
            if found is not None:
                return _pictures(found, stream)
        except av.error.FFmpegError:
            pass  # not every container can seek
    with opened(source) as (container, stream):
        found = _pick(frames_of(container, stream), times)
        if found is None:
            raise DataError(f"no frame at this time: {times[0]:.3f} s")
        return _pictures(found, stream)


def _pictures(frames: list[av.VideoFrame], stream) -> list[np.ndarray]:
    """Their pictures; a frame may be there several times in a row."""
    for frame in frames:
        if frame.is_corrupt:
            raise DataError(f"damaged: the frame at {frame.time:.3f} s")
    runs = [list(run) for _, run in groupby(frames, id)]
    pictures = Pictures(stream).convert(run[0] for run in runs)
    return [picture for run, picture in zip(runs, pictures, strict=True) for _ in run]


def _pick(frames: Iterator[av.VideoFrame], times: Sequence[float]) -> list[av.VideoFrame] | None:
    """The frames shown at `times`; None if all begin later than the first. The last frame stays shown."""
    chosen, shown, wanted = [], None, list(times)
    for frame in frames:
        if frame.time is None:
            raise DataError("a frame without a time")
        while wanted and frame.time > wanted[0]:
            if shown is None:
                return None
            chosen.append(shown)
            wanted.pop(0)
        if not wanted:
            return chosen
        shown = frame
    if shown is None:
        return None
    return chosen + [shown] * len(wanted)


def decoded_times(frames: Iterable[av.VideoFrame], stream) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """(times of all frames, shape of the first one's picture). Raises DataError for what cannot be trained on."""
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
            raise DataError(f"the frame size changes: from {size} to {(frame.width, frame.height)}; split the video")
        shape = shape or _pictures([frame], stream)[0].shape
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


def check_whole(times: np.ndarray, declared: float | None) -> None:
    """Raises DataError if frames end well before the file says; encoders are a little off themselves."""
    if declared is None or len(times) < 2:
        return
    length = (times[-1] - times[0]) * len(times) / (len(times) - 1)
    missing = declared - length - max(0.0, times[0])  # Matroska says when it ends, others how long it is
    if missing > max(0.1 * declared, 2 * declared / len(times)):
        raise DataError(f"cut short: it says it lasts {declared:.2f} s, but frames end {missing:.2f} s before that")


def declared_seconds(stream) -> float | None:
    """How long the file says that its video is, if it does (Matroska and WebM do so in a tag)."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None
