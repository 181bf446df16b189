"""What the numbers of a video's frames mean: colour matrix, range, transfer and primaries.

Contract: what the file says is honoured. What it leaves open is read as players do: BT.709 for frames at least 1280
wide or more than 576 high and BT.601 for smaller ones, limited range, an SDR transfer. Numbers are those of ITU-T
H.273.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DataError

UNSTATED = 2
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}  # as libswscale names them
HD_WIDTH, HD_HEIGHT = 1280, 577
LIMITED, FULL = 1, 2
SDR_TRANSFERS = {1, 2, 4, 5, 6, 7, 13, 14, 15}
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
BT2020_PRIMARIES = 9
SDR = "SDR"


@dataclass(frozen=True)
class Color:
    """rgb: whether there is no matrix. matrix: as libswscale names it. full: whether 0 is black, else 16.
    transfer: "SDR", "PQ" or "HLG". wide: whether its primaries are those of BT.2020."""

    rgb: bool
    matrix: str
    full: bool
    transfer: str = SDR
    wide: bool = False

    @property
    def needs_mapping(self) -> bool:
        """Whether it shows more than BT.709 can."""
        return self.wide or self.transfer != SDR


def usual_matrix(width: int, height: int) -> str:
    """The matrix of a file that states none."""
    return "bt709" if width >= HD_WIDTH or height >= HD_HEIGHT else "bt601"


def color_of(frame, codec) -> Color:
    """What a frame of a stream with the codec context `codec` holds. Raises DataError for what cannot be read right."""
    rgb = frame.format.is_rgb or frame.format.has_palette
    matrix = "bt709" if rgb else _matrix(frame)
    transfer = HDR_TRANSFERS.get(codec.color_trc, SDR)
    if transfer == SDR and codec.color_trc not in SDR_TRANSFERS:
        raise DataError(f"its transfer characteristics ({codec.color_trc} of H.273) are not read; convert it to BT.709")
    wide = codec.color_primaries == BT2020_PRIMARIES or transfer != SDR or matrix == "bt2020"
    return Color(rgb, matrix, rgb or _is_full(frame), transfer, wide)


def _matrix(frame) -> str:
    if frame.colorspace == UNSTATED:
        return usual_matrix(frame.width, frame.height)
    try:
        return MATRICES[frame.colorspace]
    except KeyError:
        raise DataError(f"its colour matrix ({frame.colorspace} of H.273) is not read; convert it to BT.709") from None


def _is_full(frame) -> bool:
    if frame.color_range in (LIMITED, FULL):
        return frame.color_range == FULL
    return frame.format.name.startswith(("yuvj", "gray", "mono", "ya"))  # as libswscale reads these
