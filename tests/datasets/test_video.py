"""Frames as files that pages and players show."""

from __future__ import annotations

import numpy as np
from comfyui_lavie.datasets.video import write_animation
from PIL import Image, ImageSequence


def test_an_animation_has_every_frame_and_repeats(tmp_path):
    levels = np.array([20, 120, 220], np.uint8)
    write_animation(np.broadcast_to(levels[:, None, None, None], (3, 32, 48, 3)), tmp_path / "a.webp", fps=8)
    picture = Image.open(tmp_path / "a.webp")
    shown = [frame.convert("RGB") for frame in ImageSequence.Iterator(picture)]
    assert picture.size == (48, 32) and len(shown) == 3
    assert picture.info["loop"] == 0 and picture.info["duration"] == 125
    assert np.abs(np.array([np.asarray(frame).mean() for frame in shown]) - levels).max() < 3
