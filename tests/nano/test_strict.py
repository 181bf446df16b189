"""The strict measures: perfect on true clips, and low for each fault by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comfyui_lavie.nano.evaluate import VAE, ceiling, evaluate, heldout_scenes, markdown
from comfyui_lavie.nano.shapes import HEADED, THINGS, caption, render, sample_scene
from comfyui_lavie.nano.strict import measure_frames, overlap, table


def scene_of(thing: str, direction: str = "right"):
    return replace(sample_scene(0), thing=thing, direction=direction, color="green", background="gray", center=(32, 32))


@pytest.mark.parametrize("thing", THINGS)
def test_true_clips_pass(thing):
    """Outline: nearest drawings are off by 1/8 pixel and 1/16 of the lengths' range at most."""
    scene = scene_of(thing, "up")
    seen = measure_frames(render(scene, frames=6), scene)
    assert seen.outline > 0.96 and seen.steadiness > 0.96 and seen.thing == 1
    assert seen.facing == (1 if thing in HEADED else None)


def test_overlap_of_rectangles():
    """Half of a 10 x 10 square in common: 50 / 150; nothing at all counts 0."""
    frame = np.zeros((3, 64, 64), bool)
    frame[0, 10:20, 10:20] = frame[1, 10:20, 15:25] = True
    np.testing.assert_allclose(overlap(frame, frame[0]), [1, 1 / 3, 0])
    assert overlap(frame[2], frame[2]) == 0


def test_each_frame_is_judged_alone():
    """Fish and rocket in turn: half of the frames are right, and no frame resembles the next."""
    fish, rocket = (render(scene_of(thing), frames=8) for thing in ("fish", "rocket"))
    clip = fish.copy()
    clip[1::2] = rocket[1::2]
    seen, steady = measure_frames(clip, scene_of("fish")), measure_frames(fish, scene_of("fish"))
    assert seen.thing == 0.5 and seen.outline < steady.outline - 0.1
    assert seen.steadiness < 0.8 < 0.95 < steady.steadiness


def test_a_circle_is_no_square():
    """IoU of a disc and a square with one centre is at most pi / 4 where the disc is inside, and 0.82 at the best."""
    seen = measure_frames(render(scene_of("circle"), frames=2), scene_of("square"))
    assert seen.thing == 0 and 0.70 < seen.outline < 0.92


def test_facing_the_wrong_way():
    seen = measure_frames(render(scene_of("car", "left"), frames=4), scene_of("car", "right"))
    assert seen.thing == 1 and seen.facing == 0


def test_frames_without_a_thing_count_as_nothing():
    """4 of 8 frames empty, of 7 pairs 3 whole: half of the outline, 3/7 of the steadiness."""
    scene = scene_of("square")
    clip = render(scene, frames=8)
    whole = measure_frames(clip[:4], scene)
    clip[4:] = clip[0, 0, 0]
    seen = measure_frames(clip, scene)
    assert seen.outline == pytest.approx(whole.outline / 2)
    assert seen.steadiness == pytest.approx(whole.steadiness * 3 / 7) and seen.thing == 0.5


def test_a_thing_that_trembles_is_not_steady():
    """Masks of the same centre, of 24 and 21 pixels in turn: IoU is (21 / 24) squared, give or take a pixel."""
    clips = [render(replace(scene_of("square"), length=length, travel=0), frames=4) for length in (24, 21)]
    clip = clips[0].copy()
    clip[1::2] = clips[1][1::2]
    assert measure_frames(clip, scene_of("square")).steadiness == pytest.approx((21 / 24) ** 2, abs=0.06)


def test_evaluation_puts_the_ceiling_beside():
    """A perfect generator reaches more than true clips through the VAE; nothing is measured above 1."""
    by_caption = {caption(scene): scene for scene in heldout_scenes(6)}
    samples = evaluate(lambda prompt, seed: render(by_caption[prompt]), samples=6, progress=False)
    best = ceiling(VAE, 3)
    text = markdown(samples, best)
    assert table([s.strictness for s in samples], best) in text and "| facing, by single frames |" in text
    assert all(0.7 < clip.outline <= 1 and 0.8 < clip.steadiness <= 1 for clip in best)


def test_bad_frames_are_refused():
    with pytest.raises(ValueError, match="crop frames to a square"):
        measure_frames(np.zeros((2, 64, 96, 3), np.uint8), scene_of("fish"))
