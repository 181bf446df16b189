"""Opening a video file and decoding the frames of its one video stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import av
import av.error
from av.stream import Disposition

from ..errors import DataError
from .file import Source, readable, reason_of

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave the alpha of WebM out

_deadline: ContextVar[tuple[float, float] | None] = ContextVar("deadline", default=None)  # (until, seconds allowed)


@contextmanager
def opened(source: Source):
    """(container, its video stream), one decoding thread: batches are decoded side by side, not frames."""
    try:
        with av.open(readable(source), timeout=check_time_limit()) as container:
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
        raise DataError(f"not a readable video ({reason_of(error)})") from None


def frames_of(container, stream) -> Iterator[av.VideoFrame]:
    """Decoded frames from where the container stands, with their alpha."""
    decoder = ALPHA_DECODERS.get(stream.codec_context.name) if stream.metadata.get("alpha_mode") == "1" else None
    context = None
    if decoder is not None:
        context = av.CodecContext.create(decoder, "r")
        context.thread_count = 1
    for packet in container.demux(stream):
        check_time_limit()
        yield from packet.decode() if context is None else context.decode(packet)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let what this thread reads of videos in the block end with a DataError after `seconds`."""
    before = _deadline.set((time.monotonic() + seconds, seconds))
    try:
        yield
    finally:
        _deadline.reset(before)


def check_time_limit() -> float | None:
    """Seconds left of the `time_limit` around this, None without one. Raises DataError where none are left."""
    if (deadline := _deadline.get()) is None:
        return None
    if (left := deadline[0] - time.monotonic()) <= 0:
        raise DataError(f"takes too long: more than {deadline[1]:g} s")
    return left
