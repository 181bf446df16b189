"""The measures behind docs/long_video.md, on frames whose seams and drift are known."""

import re

import numpy as np
import pytest
from comfyui_lavie.training.evaluate_long_video import APART, CLIP, FRAMES, ROOT, WAYS, apart, drift, row, seam


def moving(frames: int = FRAMES, jump_at: int | None = None, tint: float = 0.0) -> np.ndarray:
    """A white square that goes on by a pixel a frame; it may jump by four, and the picture may brighten by ``tint``."""
    video = np.zeros((frames, 64, 64, 3), dtype=np.float32)
    for i in range(frames):
        left = i + (4 if jump_at is not None and i >= jump_at else 0)
        video[i, 24:40, left : left + 16] = 200
        video[i] += tint * i
    return video.clip(0, 255).astype(np.uint8)


def test_a_jump_at_a_border_is_a_seam():
    steady, jumping = moving(), moving(jump_at=16)
    assert seam(steady, (16, 28)) == pytest.approx(1.0, abs=0.1)
    assert seam(jumping, (16,)) > 3 and seam(jumping, (15,)) < 1


def test_drift_is_the_change_of_the_mean_colour():
    assert drift(moving()) < 0.1
    assert drift(moving(tint=0.5)) == pytest.approx(0.5 * (FRAMES - CLIP), abs=1.0)


def test_clips_apart_have_seeds_of_their_own():
    seeds = []

    def generate(prompt, seed):
        seeds.append(seed)
        return moving(CLIP)

    assert apart(generate)("a", 2).shape[0] == FRAMES and seeds == [2000, 2001, 2002]
    line = row(APART, apart(generate), 1)
    assert line.startswith(f"| {APART.name} | ") and line.count("|") == 7


def test_a_workflow_of_another_length_is_refused():
    with pytest.raises(ValueError, match="makes 16 frames, but 40 are measured"):
        row(WAYS[0], lambda prompt, seed: moving(CLIP), 1)


def test_the_page_names_workflows_that_there_are():
    page = (ROOT / "docs" / "long_video.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+\.json)`", page)
    assert len(named) == 3 and all((ROOT / "workflows" / name).exists() for name in named)
    for way in (*WAYS, APART):
        assert f"| {way.name} |" in page and (ROOT / "workflows" / way.workflow).exists()
