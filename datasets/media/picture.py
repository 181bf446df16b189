"""Decoded frames as what a viewer sees: uint8 RGB, upright, square pixels, whole frames, over white.

Contract: each frame's picture depends on that frame alone. Interlaced frames keep the lines of their first field; the
others are interpolated along edges (libavfilter's estdif). Numbers are rounded, not cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby

import av
import av.filter
import numpy as np

from ..errors import DataError
from .color import Color, color_of
from .hdr import to_sdr
from .orientation import Orientation, orient, orientation_of

EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"  # libswscale's default is up to 2 levels dark in 10 bits
MAX_ASPECT = 4  # of a pixel; files that say more do not mean it


@dataclass(frozen=True)
class Look:
    """What decides how a frame becomes a picture; frames of one look share a filter graph."""

    pixels: str
    size: tuple[int, int]
    color: Color
    alpha: bool
    interlaced: bool
    orientation: Orientation
    bits: int

    @property
    def white(self) -> int:
        """Of 65535, where libswscale puts white: limited range at 255 of 256, full range at its top level."""
        if self.color.rgb:
            return 65535
        return ((1 << self.bits) - 1) << (16 - self.bits) if self.color.full else 255 << 8


class Pictures:
    """Turns frames of a stream into pictures. Raises DataError for a stream that cannot be shown right."""

    def __init__(self, stream):
        self._codec = stream.codec_context
        self._aspect = _pixel_aspect(stream)

    def convert(self, frames: Iterable[av.VideoFrame]) -> Iterator[np.ndarray]:
        """One picture (H, W, 3) per frame, in order. Raises DataError for frames that cannot be shown right."""
        for look, alike in groupby(frames, self._look):
            for picture in _filtered(alike, self._filters(look)):
                yield _finished(picture, look)

    def _look(self, frame: av.VideoFrame) -> Look:
        pixels = frame.format
        alpha = pixels.has_palette or any(component.is_alpha for component in pixels.components)
        color, orientation = color_of(frame, self._codec), orientation_of(frame)
        bits = max(component.bits for component in pixels.components)
        return Look(pixels.name, (frame.width, frame.height), color, alpha, frame.interlaced_frame, orientation, bits)

    def _filters(self, look: Look) -> list[tuple[str, str]]:
        """Filters of libavfilter with their options."""
        width, height = look.size
        pixels = {
            (False, False): "rgb24", (False, True): "rgba", (True, False): "rgb48le", (True, True): "rgba64le"
        }[look.color.needs_mapping, look.alpha]  # fmt: skip
        scale = (
            f"w={max(1, round(width * self._aspect))}:h={height}:in_color_matrix={look.color.matrix}:"
            f"in_range={'full' if look.color.full else 'limited'}:out_range=full:flags={EXACT}"
        )
        filters = [("scale", scale), ("format", pixels)]
        return [("estdif", "mode=frame"), *filters] if look.interlaced else filters


def _pixel_aspect(stream) -> Fraction:
    """Width of a pixel over its height. Raises DataError for one that cannot be meant."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, MAX_ASPECT) <= aspect <= MAX_ASPECT:
        raise DataError(f"a pixel aspect that cannot be meant: {aspect} times as wide as high; set it right")
    return aspect


def _finished(frame: av.VideoFrame, look: Look) -> np.ndarray:
    picture = frame.to_ndarray()
    if look.alpha:
        picture = over_white(picture)
    if look.color.needs_mapping:
        picture = to_sdr(picture, look.color.transfer, look.white)
    return orient(picture, look.orientation)


def _filtered(frames: Iterator[av.VideoFrame], filters: list[tuple[str, str]]) -> Iterator[av.VideoFrame]:
    """As many frames as go in, one at least."""
    first = next(frames)
    graph = av.filter.Graph()
    shape = {"width": first.width, "height": first.height, "format": first.format.name}
    ends = [graph.add_buffer(**shape, time_base=first.time_base or Fraction(1))]
    for name, options in [*filters, ("buffersink", None)]:
        ends.append(graph.add(name, options))
        ends[-2].link_to(ends[-1])
    graph.configure()
    for frame in chain([first], frames, [None]):
        graph.push(frame)
        while True:
            try:
                yield graph.vpull()
            except (BlockingIOError, EOFError):
                break


def over_white(picture: np.ndarray) -> np.ndarray:
    """(H, W, 4) with straight alpha, uint8 or uint16, as (H, W, 3)."""
    top = np.iinfo(picture.dtype).max
    color, alpha = picture[..., :3].astype(np.uint64), picture[..., 3:].astype(np.uint64)
    return ((color * alpha + top * (top - alpha) + top // 2) // top).astype(picture.dtype)
