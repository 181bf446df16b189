"""HDR and wide-gamut frames as SDR ones: BT.2020 PQ or HLG of 1000 cd/m2 to BT.709 of 100 cd/m2.

Contract: a pure function of each pixel, so a frame comes out alike however it is reached. Tone mapping is method A of
ITU-R BT.2446-1 (section 4); PQ, HLG and its OOTF are of ITU-R BT.2100-2; primaries of ITU-R BT.2087-0. What lies
outside BT.709 is cut off.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .color import SDR

HDR_PEAK, SDR_PEAK = 1000.0, 100.0  # cd/m2
GAMMA = 2.4  # of the displays on both sides (BT.1886)
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # linear light


def to_sdr(picture: np.ndarray, transfer: str, white: int) -> np.ndarray:
    """R'G'B' of BT.2020 (..., 3), uint16 from 0 to `white`, as uint8 of BT.709; `transfer`: "SDR", "PQ" or "HLG"."""
    light = _light_of(transfer, white)[picture]
    if transfer != SDR:
        light = np.power(_tone_mapped(_display_signal(light, transfer)), GAMMA)
    light = np.clip(light @ TO_709.T, 0.0, 1.0)
    return np.rint(255 * np.power(light, 1 / GAMMA)).astype(np.uint8)


def _display_signal(light: np.ndarray, transfer: str) -> np.ndarray:
    """Light of the HDR display as 0 .. 1 of its peak, under a gamma of 2.4."""
    if transfer == "HLG":  # scene light: the display's gain grows with luminance
        light = light * np.power(np.maximum(light @ LUMA, 1e-9), 0.2)[..., None]
    return np.power(np.clip(light, 0.0, 1.0), 1 / GAMMA)


def _tone_mapped(signal: np.ndarray) -> np.ndarray:
    """BT.2446-1, 4.2 to 4.4."""
    luma = signal @ LUMA
    perceived = np.log1p((_rho(HDR_PEAK) - 1) * luma) / np.log(_rho(HDR_PEAK))
    knee = np.where(
        perceived < 0.7399,
        1.0770 * perceived,
        np.where(perceived < 0.9909, (-1.1510 * perceived + 2.7811) * perceived - 0.6302, 0.5 * perceived + 0.5),
    )
    mapped = (np.power(_rho(SDR_PEAK), knee) - 1) / (_rho(SDR_PEAK) - 1)
    scale = mapped / np.maximum(1.1 * luma, 1e-6)
    blue, red = scale * (signal[..., 2] - luma) / 1.8814, scale * (signal[..., 0] - luma) / 1.4746
    luma = mapped - np.maximum(0.1 * red, 0.0)
    out_red, out_blue = luma + 1.4746 * red, luma + 1.8814 * blue
    out_green = (luma - LUMA[0] * out_red - LUMA[2] * out_blue) / LUMA[1]
    return np.clip(np.stack([out_red, out_green, out_blue], -1), 0.0, 1.0)


def _rho(peak: float) -> float:
    return 1 + 32 * (peak / 10000) ** (1 / GAMMA)


@cache
def _light_of(transfer: str, white: int) -> np.ndarray:
    """Light of every 16-bit level: of the display, 0 .. 1 of its peak; HLG's of the scene, 0 .. 1."""
    signal = np.minimum(np.arange(65536) / white, 1.0)
    if transfer == SDR:
        light = signal**GAMMA
    elif transfer == "PQ":
        root = np.power(signal, 1 / 78.84375)
        light = np.power(np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root), 1 / 0.1593017578125)
        light = np.minimum(light * 10000 / HDR_PEAK, 1.0)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return light.astype(np.float32)
