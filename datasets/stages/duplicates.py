"""Near-duplicates: perceptual hashes of every shot, and the groups that shots form across a whole set.

Three pHashes of 64 bits per shot (ImageHash), of its stills. Two shots are near-duplicates if each of the three differs
by at most a distance in bits, or if the cosine of their embeddings (stage `embeddings`) is as high as asked; how far
and how high is `select`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from PIL import Image

from ..shots import Shot
from .base import Stage

BITS = 64
NEAR_BITS = 6  # in which near-duplicates differ at most, unless a blueprint says another number
NEAR_COSINE = 0.95  # of their embeddings at least, likewise
ROUNDING = 1e-5  # of a cosine in single precision
TILE = 2048  # embeddings that are compared with as many others at once: 16 MB of cosines
MANY = 4_000_000  # pairs in memory at once


@dataclass(frozen=True)
class Duplicates(Stage):
    """No settings."""

    name = "duplicates"
    packages = ("imagehash",)
    columns = {"hashes": "list<string>"}

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """hashes: 16 hexadecimal digits for each still."""
        import imagehash

        return [
            {"hashes": [str(imagehash.phash(Image.fromarray(picture))) for picture in shot.pixels.stills]}
            for shot in shots
        ]


def group_pairs(count: int, pairs: Iterable[np.ndarray]) -> list[int]:
    """For each of `count` shots the index of the first one of its group, its own if it stands alone.

    Args:
        pairs: int (2, n) arrays: shots that belong together; groups are what hangs together by them.
    """
    first, waiting, size = np.arange(count), [], 0
    for some in pairs:
        waiting.append(some)
        size += some.shape[1]
        if size >= MANY:
            first, waiting, size = _joined(first, waiting), [], 0
    return _joined(first, waiting).tolist()


def _joined(first: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    """`first`, of the groups so far, after they were joined by pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(first)
    if not count:
        return first
    one, other = np.concatenate([np.stack([np.arange(count), first]), *pairs], axis=1)
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    return np.unique(label, return_index=True)[1][label]


def close_hashes(hashes: Sequence[Sequence[str]], distance: int) -> Iterator[np.ndarray]:
    """Pairs, as `group_pairs` takes them, of shots whose hashes all differ in at most `distance` bits.

    Hashes that differ in at most `distance` bits agree in one of `distance + 1` bands. Only shots that share a band of
    the first hash and one of the last are compared: of a million shots and 6 bits, 49 times about four of each.
    """
    words = np.array([[int(text, 16) for text in shot] for shot in hashes], np.uint64).reshape(len(hashes), -1)
    words, first, kind = np.unique(words, axis=0, return_index=True, return_inverse=True)
    yield np.stack([first[kind.reshape(-1)], np.arange(len(hashes))])
    for key in _shared_bands(words, distance) if distance else ():
        yield from (first[pair] for pair in _near_pairs(words, key, distance))


def close_embeddings(vectors: np.ndarray, cosine: float) -> Iterator[np.ndarray]:
    """Pairs, as `group_pairs` takes them, of rows of float (n, features), of length 1, whose cosine is high enough.

    Every row is compared with every other one, tile by tile: time grows with the square of their number.
    """
    for low in range(0, len(vectors), TILE):
        for high in range(low, len(vectors), TILE):
            cosines = np.asarray(vectors[low : low + TILE], np.float32) @ np.asarray(
                vectors[high : high + TILE], np.float32
            ).T  # fmt: skip
            yield np.stack(np.nonzero(cosines >= cosine - ROUNDING)) + np.array([[low], [high]])


def _shared_bands(words: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """A number per row for each pair of bands, of the first word and of the last, that rows may share."""
    edges = np.linspace(0, BITS, distance + 2).astype(int).tolist()
    bands = [(np.uint64(low), np.uint64((1 << high - low) - 1)) for low, high in pairwise(edges)]
    for (low, mask), (last_low, last_mask) in product(bands, bands):
        yield (words[:, 0] >> low & mask) << np.uint64(BITS // 2) | words[:, -1] >> last_low & last_mask


def _near_pairs(words: np.ndarray, key: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """Pairs (2, n) of rows of the same key whose words all differ in at most `distance` bits."""
    order = np.argsort(key, kind="stable")
    key = key[order]
    start, step = np.arange(len(key)), 0
    while len(start):  # rows that have another one of their key `step` places further on
        step += 1
        start = start[start + step < len(key)]
        start = start[key[start] == key[start + step]]
        one, other = order[start], order[start + step]
        near = (np.bitwise_count(words[one] ^ words[other]) <= distance).all(1)
        yield np.stack([one[near], other[near]])
