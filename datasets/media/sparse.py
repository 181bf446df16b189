"""Decoding some frames of a video without all those between them.

Contract: the frames shown at the asked times come out as they would if all were decoded. What is left out are frames
that no other frame refers to (non-reference pictures of H.264 and HEVC: about half of a usual file).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import av

from .container import check_time_limit, frames_of

DECODERS = ("h264", "hevc")


def frames_for(container, stream, times: Sequence[float]) -> Iterator[av.VideoFrame]:
    """Frames from where the container stands to the last of `times`, ascending seconds, those at them among them."""
    context = stream.codec_context
    if context.name not in DECODERS:
        yield from frames_of(container, stream)
        return
    packets = []
    for packet in container.demux(stream):
        check_time_limit()
        if packet.size:
            packets.append(packet)
        if packet.dts is not None and packet.dts * packet.time_base > times[-1]:
            break  # no frame is shown before it is decoded
    there = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
    shown = [bisect_right(there, time / stream.time_base) - 1 for time in times]
    wanted = {there[place] for place in shown if place >= 0}
    for packet in packets:
        check_time_limit()
        needed = packet.pts is None or packet.pts in wanted
        context.skip_frame = "DEFAULT" if needed else "NONREF"
        yield from context.decode(packet)
    for frame in context.decode(None):  # those that waited for frames to be shown before them
        frame.time_base = stream.time_base
        yield frame
