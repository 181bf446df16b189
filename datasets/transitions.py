"""Where one scene of a video becomes another: gradual transitions and cuts that are none, from small grey frames.

Contract: thumbnails are uint8 (frames, height, width). Pure functions of them.

A dissolve or fade is a mix a + alpha * (b - a) of two pictures that have little in common, where alpha rises from 0 to
1 over several frames. A moving camera is no such mix: what lies between its pictures is not their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOWS = (10, 14, 20, 32)  # frames from a to b
CHUNK = 256  # windows looked at together
LEAST_DIFFERENCE = 12.0  # levels, root mean square: a and b differ
MOST_CORRELATION = 0.6  # a and b are pictures of different things
RESIDUALS = (0.3, 0.4)  # of |b - a|: what the mix does not explain, for sure and at most
MOST_STEP = 0.4  # of alpha between two frames: more is a cut
RAMP = (0.1, 0.9)  # alphas between which a transition's speed is measured; beyond, motion changes alpha too
MARGIN = 0.25  # frames by which the estimated ends of a transition may be off
SHORTEST = 3  # frames of a transition
FLASH_FRAMES = 10  # a change that is taken back within so many frames is no cut
SAME_SCENE = 10.0  # levels, root mean square: two frames show the same


def find_transitions(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) mixed frame of every dissolve and fade, in order.

    Windows that fit well add up, for a transition may be longer than any. Of those that fit less, as with fast motion
    in both scenes, only the best counts, for their ends are less sure.
    """
    mixed = np.zeros(len(thumbnails), bool)
    flat = thumbnails.reshape(len(thumbnails), -1)
    found = []
    for length in WINDOWS:
        for begin in range(0, len(flat) - length, CHUNK):
            part = flat[begin : begin + CHUNK + length].astype(np.float32)
            found += [(residual, begin + first, begin + after) for residual, first, after in _mixes(part, length)]
    for residual, first, after in sorted(found):
        if residual <= RESIDUALS[0] or not mixed[max(0, first - 1) : after + 1].any():
            mixed[first:after] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mixed, [False]]).astype(np.int8)))
    runs = zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
    return [(first, last) for first, last in runs if last - first + 1 >= SHORTEST]


def _mixes(part: np.ndarray, length: int):
    """(residual, first mixed frame, frame after the last) of every window of `part` (n, pixels) that is a mix."""
    a, b = part[:-length], part[length:]
    difference = b - a
    power = np.einsum("ij,ij->i", difference, difference)
    likely = power >= LEAST_DIFFERENCE**2 * part.shape[1]
    likely &= _correlation(a, b) <= MOST_CORRELATION
    for start in np.flatnonzero(likely).tolist():
        window = part[start : start + length + 1] - part[start]  # (length + 1, pixels)
        alpha = window @ difference[start] / power[start]
        residual = (np.linalg.norm(window - alpha[:, None] * difference[start], axis=1) / np.sqrt(power[start])).max()
        if residual <= RESIDUALS[1] and np.abs(np.diff(alpha)).max() <= MOST_STEP:
            first, after = _ramp(alpha)
            if after > first:
                yield residual, start + first, start + after


def _ramp(alpha: np.ndarray) -> tuple[int, int]:
    """(first frame, frame after the last) where alpha rises, by a straight line through RAMP."""
    after = int(np.argmax(alpha > RAMP[1]))
    first = int(np.flatnonzero(alpha[:after] < RAMP[0])[-1])
    slope = (alpha[after] - alpha[first]) / (after - first)
    begin, end = first - alpha[first] / slope, after + (1 - alpha[after]) / slope
    return max(0, int(np.ceil(begin + MARGIN))), min(len(alpha), int(np.ceil(end - MARGIN)))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of rows; 0 where one of them is of a single grey."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("ij,ij->i", a, b) / np.maximum(scale, 1.0)


def join_false_cuts(thumbnails: np.ndarray, cuts: Sequence[int]) -> list[int]:
    """`cuts` (first frames of scenes) without those that are taken back at once, as by a flash or a damaged frame."""
    kept: list[int] = []
    cuts = sorted(cuts)
    while cuts:
        cut = cuts.pop(0)
        back = next(
            (after for after in cuts if after - cut <= FLASH_FRAMES and _alike(thumbnails[cut - 1], thumbnails[after])),
            None,
        )
        if back is not None:
            cuts = [later for later in cuts if later > back]
        else:
            kept.append(cut)
    return kept


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.sqrt(np.mean((one.astype(np.float32) - other) ** 2)) <= SAME_SCENE)
