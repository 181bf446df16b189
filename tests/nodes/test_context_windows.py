"""Which windows LaVie Context Windows takes: by core's own windows over all clips."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import comfy.context_windows
import numpy as np
import pytest
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.nodes.context_windows import MAX_LENGTH, LaVieContextWindows, windows

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
INTERPOLATION = WEIGHTS / "diffusion_models" / "lavie_nano_interpolation.safetensors"
CLIPS = range(5, 258, 4)  # 4 (n - 1) + 1 frames


def all_begin_at_input_frames(length: int, overlap: int) -> bool:
    """Whether every window of every clip begins at a frame that is given, every fourth."""
    handler = comfy.context_windows.IndexListContextHandler(None, None, length, overlap)
    made = [w for frames in CLIPS for w in comfy.context_windows.create_windows_static_standard(frames, handler, {})]
    return all(window[0] % 4 == 0 for window in made)


def pairs(count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, MAX_LENGTH + 1, count)
    return [(int(length), int(rng.integers(1, length))) for length in lengths] + [(32, 8), (61, 13), (61, 12), (5, 1)]


def test_interpolation_takes_what_begins_at_input_frames_in_every_clip():
    """Random numbers: what is refused breaks the rule for some clip, what is taken or advised for none."""
    taken = 0
    for length, overlap in pairs(60):
        try:
            assert windows("interpolation", length, overlap) == (length, overlap)
            taken += 1
            assert all_begin_at_input_frames(length, overlap)
        except ValueError as error:
            name = re.search(r"so (\w+) must", str(error))[1]
            if name == "length" or CLIPS[-1] > 2 * length - overlap:  # else no clip of these has a third window
                assert not all_begin_at_input_frames(length, overlap)
            for advised in map(int, re.findall(r"\d+", str(error).rsplit("use ", 1)[1])):
                fixed = {"length": length, "overlap": overlap} | {name: advised}
                if name == "length":
                    fixed["overlap"] = 1
                assert windows("interpolation", **fixed) == tuple(fixed.values())
                assert all_begin_at_input_frames(**fixed)
    assert taken >= 2


@pytest.mark.parametrize("length", range(5, 258, 4))
def test_every_length_of_a_clip_serves_as_a_window(length):
    if length <= MAX_LENGTH:
        assert windows("interpolation", length, 1) == (length, 1)


def test_the_reported_example():
    """32 and 8 on 61 frames: the last window began at frame 29."""
    with pytest.raises(ValueError, match=r"so length must be a multiple of 4 and 1 more, got 32; use 29 or 33"):
        windows("interpolation", 32, 8)
    with pytest.raises(ValueError, match=r"so overlap must .* below the length, got 8; use 5 or 9"):
        windows("interpolation", 33, 8)


@pytest.mark.parametrize("stage", ["base", "super_resolution"])
def test_other_stages_take_any_overlap_below_the_length(stage):
    for length, overlap in pairs(30):
        assert windows(stage, length, overlap) == (length, overlap)
        with pytest.raises(ValueError, match="use an overlap below the length"):
            windows(stage, overlap, length)


@pytest.mark.parametrize("frames", [17, 24, 32, 41])
def test_a_loops_windows_lie_around_the_ring(frames):
    """At every step each frame shares a window with the next one, the last with the first."""
    handler = comfy.context_windows.IndexListContextHandler(None, None, 16, 8, closed_loop=True)
    for handler._step in range(6):
        made = comfy.context_windows.create_windows_uniform_looped(frames, handler, {})
        neighbours = {pair for window in made for pair in pairwise(window)}
        assert neighbours >= {(frame, (frame + 1) % frames) for frame in range(frames)}


def test_interpolation_makes_no_loops():
    model = load_model(str(INTERPOLATION), "interpolation")
    with pytest.raises(ValueError, match="none from the last to the first; switch loop off"):
        LaVieContextWindows.execute(model, 0, 0, "pyramid", False, loop=True)
