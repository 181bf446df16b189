"""The measures behind docs/long_video.md, on frames whose seams and drift are known."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from comfyui_lavie.nano.evaluate import heldout_scenes
from comfyui_lavie.nano.long_video import extended_by
from comfyui_lavie.nano.long_video_measure import (
    APART,
    CLIP,
    LOOP,
    RECURSIONS,
    WAYS,
    apart,
    measure,
    seams_of_parts,
    videos_of,
)
from comfyui_lavie.nano.long_video_page import mean, page, plot
from comfyui_lavie.nano.shapes import COLORS
from comfyui_lavie.place import NANO_WORKFLOWS, ROOT, WORKFLOWS

EXTENDED = next(way for way in WAYS if way.name == "LaVie Extend Video")
SCENE = heldout_scenes(1)[0]


def moving(frames: int, jump_at: int | None = None, tint=0.0, color=(200, 200, 200), step=1) -> np.ndarray:
    """A square that goes right by ``step``; it may jump by four, and the picture may brighten by ``tint`` a frame."""
    video = np.zeros((frames, 128, 128, 3), dtype=np.float32)
    for i in range(frames):
        left = step * i + (4 if jump_at is not None and i >= jump_at else 0)
        video[i, 48:80, left : left + 32] = color
        video[i] += tint * i
    return video.clip(0, 255).astype(np.uint8)


def test_a_jump_at_a_border_is_a_seam_of_its_part():
    steady = seams_of_parts(moving(76), EXTENDED)
    assert math.isnan(steady[0]) and steady[1:] == pytest.approx([1.0] * RECURSIONS, abs=0.1)
    jumping = seams_of_parts(moving(76, jump_at=28), EXTENDED)
    assert jumping[2] > 3 and jumping[1] < 1.1 and jumping[3] < 1.1


def test_drift_is_the_change_of_the_mean_colour_by_part():
    still = measure(moving(76), EXTENDED, SCENE)
    assert max(part.drift for part in still.parts) < 0.1
    brighter = measure(moving(76, tint=0.5), EXTENDED, SCENE)
    middles = [(part.start + part.stop - 1) / 2 for part in EXTENDED.parts]
    wanted = [0.5 * (middle - middles[0]) for middle in middles]
    assert [part.drift for part in brighter.parts] == pytest.approx(wanted, abs=0.5)


def test_a_ring_has_no_seam_and_a_straight_way_has():
    loop = next(way for way in WAYS if way.workflow == LOOP)
    ring = np.stack([np.roll(moving(1)[0], round(128 * i / loop.frames), axis=1) for i in range(loop.frames)])
    measured = measure(ring, loop, SCENE)
    assert measured.end_to_start == pytest.approx(1, abs=0.6) and math.isnan(measured.seam)  # steps are of whole pixels
    assert measure(moving(loop.frames), loop, SCENE).end_to_start > 20


def test_each_part_is_judged_by_the_prompt():
    """A thing that goes right in every part and changes its colour in the third extension."""
    scene = replace(SCENE, color="red", direction="right")
    lengths = [part.stop - part.start for part in EXTENDED.parts]
    colors = [COLORS["red"]] * 3 + [COLORS["blue"]] * 3
    video = np.concatenate([moving(n, color=color, step=3) for n, color in zip(lengths, colors, strict=True)])
    measured = measure(video, EXTENDED, scene)
    assert [part.color for part in measured.parts] == [True] * 3 + [False] * 3
    assert all(part.direction for part in measured.parts)


@pytest.mark.parametrize(("step", "told"), [(1, True), (0, False)])
def test_half_a_pixel_a_frame_is_a_direction_and_none_is_not(step, told):
    """Of 64 pixels: what goes one way through a whole long video cannot go faster."""
    scene = replace(SCENE, direction="right")
    measured = measure(moving(76, color=COLORS["red"], step=step), EXTENDED, scene)
    assert [part.direction for part in measured.parts] == [told] * (1 + RECURSIONS)


def test_clips_apart_have_seeds_of_their_own():
    seeds = []

    def generate(prompt, seed):
        seeds.append(seed)
        return moving(CLIP)

    assert apart(generate)("a", 2).shape[0] == APART.frames and seeds == [2000 + i for i in range(1 + RECURSIONS)]


def test_means_have_intervals():
    assert mean([]) == mean([math.nan]) == "-" and mean([2.0]) == "2.0"
    assert mean([1.0, 2.0, 3.0]) == "2.0 ± 2.5"  # 4.303 / sqrt(3)


def test_a_workflow_of_another_length_is_refused():
    with pytest.raises(ValueError, match="makes 16 frames, but 76 are measured"):
        measure(moving(CLIP), EXTENDED, SCENE)


def test_every_way_and_part_is_on_the_page_and_in_the_picture(tmp_path):
    measured = [(way, videos_of(way, lambda prompt, seed, n=way.frames: moving(n), 2)) for way in (*WAYS, APART)]
    text = page(measured, steps=3, seconds=1.0, base="0123abcd")
    tables = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    assert len(tables) == 2 + len(measured) * (1 + 1 + RECURSIONS)
    for name in ("one.svg", "again.svg"):
        plot(measured, tmp_path / name)
    picture = (tmp_path / "one.svg").read_text()
    assert picture == (tmp_path / "again.svg").read_text() and all(way.name in picture for way in (*WAYS, APART))
    assert "(a base whose SHA-256 begins with 0123abcd)" in text
    assert "nano base of that kind is measured" in text and "were measured here" in page(measured[:2], 3, 1.0, "")


def test_the_first_frame_model_makes_the_extensions_alone(comfyui):
    api = extended_by(comfyui.workflow(EXTENDED.workflow), "other.safetensors")
    nodes = {node["class_type"]: node["inputs"] for node in api.values()}

    def model_of(sampler: str) -> str:
        guider = api[nodes[sampler]["guider"][0]]["inputs"]
        return api[guider["model"][0]]["inputs"]["model_name"]

    assert model_of("LaVieExtendVideo") == "other.safetensors"
    assert model_of("SamplerCustomAdvanced") == "lavie_nano_base.safetensors"


def test_the_page_names_workflows_that_there_are():
    text = (ROOT / "docs" / "long_video.md").read_text(encoding="utf-8")
    named = re.findall(r"\(`(LaVie .*?)`\)", text)
    assert len(named) == 4 and all((WORKFLOWS / f"{name}.json").exists() for name in named)
    for way in (*WAYS, APART):
        assert (NANO_WORKFLOWS / way.workflow).exists() and (way.first_frame or f"| {way.name} |" in text)
