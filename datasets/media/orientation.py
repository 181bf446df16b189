"""Turning and mirroring pictures as their file says: the display matrix of a video, the EXIF tag of an image.

A display matrix (ISO/IEC 14496-12, 8.3.2) sends a pixel (x, y) to (a x + c y, b x + d y): nine whole numbers, rows
(a, b, u), (c, d, v), (x, y, w). Eight of them are orientations; what it enlarges or moves is ignored, as players do.
"""

from __future__ import annotations

import struct

import numpy as np
from av.sidedata.sidedata import Type

from ..errors import DataError

SLANT = 0.02  # of the larger entry; matrices that turn by a right angle are not always exact
Orientation = tuple[bool, bool, bool]  # transpose first, then mirror vertically, then horizontally
UPRIGHT: Orientation = (False, False, False)
EXIF_ORIENTATIONS: dict[int, Orientation] = {  # CIPA DC-008, tag 274
    1: UPRIGHT,
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def orientation_of(frame) -> Orientation:
    """What a frame's display matrix asks for. Raises DataError if it is no mirroring or turn by right angles."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    straight, crossed = (abs(a), abs(d)), (abs(b), abs(c))
    if min(straight) > 0 and max(crossed) <= SLANT * min(straight):
        return False, d < 0, a < 0
    if min(crossed) > 0 and max(straight) <= SLANT * min(crossed):
        return True, b < 0, c < 0
    raise DataError(f"its display matrix ({a}, {b}, {c}, {d}) is no turn by right angles; turn its pixels themselves")


def orient(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    """(H, W, C) turned and mirrored, contiguous."""
    transpose, upside_down, mirror = orientation
    if transpose:
        picture = picture.transpose(1, 0, 2)
    return np.ascontiguousarray(picture[:: -1 if upside_down else 1, :: -1 if mirror else 1])
