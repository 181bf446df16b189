"""The generated shapes as a source, so that the nano models are trained on the path that everybody's data takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...shapes import caption, render, render_image, sample_scene
from ..catalogue import Item

IMAGE_SEEDS = 1 << 40  # images are drawn of other scenes than clips
FPS = 8.0


def shapes(
    videos: int, images: int, split: str = "train", size: int = 64, frames: int = 16, videos_of: Sequence[str] = ()
) -> Iterator[Item]:
    """Clip i is `sample_scene(i, split, videos_of)` in `frames` frames, image i `sample_scene(IMAGE_SEEDS + i, split)`.
    """
    for kind, count, first in (("video", videos, 0), ("image", images, IMAGE_SEEDS)):
        length, fps, only = (frames, FPS, list(videos_of)) if kind == "video" else (1, 0.0, [])
        for i in range(count):
            text = caption(sample_scene(first + i, split, only), kind)
            locator = {"source": "shapes", "split": split, "seed": first + i, **({"only": only} if only else {})}
            key = ":".join(["shapes", split, *(["+".join(only)] if only else []), kind, str(i)])
            yield Item(key, kind, text, length, fps, size, size, locator)


def render_frames(item: Item, indices: Sequence[int]) -> np.ndarray:
    """(len(indices), size, size, 3) uint8."""
    scene = sample_scene(item.locator["seed"], item.locator["split"], item.locator.get("only", ()))
    if item.kind == "image":
        return np.repeat(render_image(scene, item.width)[None], len(indices), axis=0)
    return render(scene, item.frames, item.width, only=indices)
