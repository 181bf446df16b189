"""Captioned clips and their measurement: deterministic, balanced, and read correctly from the pixels alone."""

import hashlib
import io
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from comfyui_lavie.comfyui_api.clips import frames_only
from comfyui_lavie.comfyui_api.graphs import WorkflowError
from comfyui_lavie.nano.evaluate import evaluate, heldout_scenes, markdown, rates, to_json
from comfyui_lavie.nano.measure import NONE, measure_clip
from comfyui_lavie.nano.shapes import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    HEADED,
    HELDOUT,
    LOW,
    SYMMETRIC,
    THINGS,
    TRIPLES,
    WIDE,
    caption,
    render,
    render_dense,
    render_image,
    sample_scene,
)
from PIL import Image
from scipy import ndimage

GRAMMAR = re.compile(
    r"a (red|green|blue|yellow|purple|cyan) (fish|rocket|car|circle|square|triangle)"
    r" (moving|facing) (left|right|up|down)"
    r"( on a (black|gray|white) background)?"
)


def scenes_of_all_triples():
    """One scene per (colour, thing, direction), the backgrounds in turn."""
    scenes = []
    for i, (color, thing, direction) in enumerate(TRIPLES):
        background = tuple(BACKGROUNDS)[i % 3]
        scenes.append(replace(sample_scene(i), color=color, thing=thing, direction=direction, background=background))
    return scenes


def degrade(clip, seed):
    """Blur, noise and JPEG, harsher than a small autoencoder."""
    blurred = ndimage.gaussian_filter(clip.astype(np.float32), (0, 1.3, 1.3, 0))
    noisy = np.clip(blurred + np.random.default_rng(seed).normal(0, 10, clip.shape), 0, 255).astype(np.uint8)
    frames = []
    for frame in noisy:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=40)
        frames.append(np.asarray(Image.open(buffer)))
    return np.stack(frames)


def fingerprint() -> str:
    """Hash of a few clips, images and dense scenes, to compare between processes of one machine."""
    digest = hashlib.sha256()
    for seed in range(5):
        scene = sample_scene(seed)
        digest.update(caption(scene).encode())
        for pixels in (render(scene), render_image(scene), render_dense(seed)):
            digest.update(pixels.tobytes())
    return digest.hexdigest()


class TestGenerator:
    def test_same_seed_same_bytes_in_another_process(self):
        code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['fingerprint']())"
        other = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == fingerprint()

    def test_different_seeds_differ(self):
        clips = {render(sample_scene(seed)).tobytes() for seed in range(20)}
        assert len(clips) == 20
        assert len({render_dense(seed).tobytes() for seed in range(20)}) == 20

    @pytest.mark.parametrize(("frames", "size"), [(16, 64), (1, 64), (5, 96)])
    def test_shapes_and_types(self, frames, size):
        clip = render(sample_scene(0), frames, size)
        assert clip.shape == (frames, size, size, 3) and clip.dtype == np.uint8
        assert render_image(sample_scene(0), size).shape == (size, size, 3)
        assert render_dense(0, size).shape == (size, size, 3)

    def test_captions_match_the_grammar(self):
        for seed in range(200):
            scene = sample_scene(seed)
            for kind, verb in (("video", "moving"), ("image", "facing")):
                found = GRAMMAR.fullmatch(caption(scene, kind))
                assert found and found.groups()[:4] == (scene.color, scene.thing, verb, scene.direction)
                assert (found[6] == scene.background) if scene.background_named else found[5] is None

    def test_about_half_of_the_captions_name_the_background(self):
        assert 0.45 < np.mean([sample_scene(seed).background_named for seed in range(1000)]) < 0.55

    def test_heldout_is_balanced_and_every_pair_is_trained(self):
        assert len(HELDOUT) == 24
        for position, words in enumerate((COLORS, THINGS, DIRECTIONS)):
            counts = Counter(triple[position] for triple in HELDOUT)
            assert set(counts) == set(words) and len(set(counts.values())) == 1
        trained = set(TRIPLES) - HELDOUT
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert {(t[a], t[b]) for t in trained} == {(t[a], t[b]) for t in TRIPLES}

    def test_splits_are_disjoint(self):
        def triples(split):
            return {(s.color, s.thing, s.direction) for s in (sample_scene(seed, split) for seed in range(1500))}

        assert triples("train") == set(TRIPLES) - HELDOUT
        assert triples("heldout") == HELDOUT

    def test_variation_is_respected(self):
        scenes = [sample_scene(seed, variation=replace(LOW, travel=(10, 11), jitter_across=0)) for seed in range(50)]
        assert all(10 <= s.travel <= 11 for s in scenes)
        for s in scenes:
            assert s.center[1 if s.direction in ("left", "right") else 0] == 32

    def test_wide_scenes_begin_anywhere_and_end_in_the_picture(self):
        scenes = [sample_scene(i, variation=WIDE) for i in range(400)]
        ends = []
        for scene in scenes:
            x, y = scene.center
            dx, dy = (part * (scene.travel / 2) for part in DIRECTIONS[scene.direction])
            ends.append([(x - dx, y - dy), (x + dx, y + dy)])
            half = scene.length / 2 - 1e-6
            assert all(half <= place <= 64 - half for end in ends[-1] for place in end)
        first = np.array(ends)[:, 0]
        assert first.min() < 16 and first.max() > 48 and (np.abs(first - 32).max(1) < 6).sum() > 5
        speeds = np.array([scene.travel for scene in scenes]) / 15
        assert 0.5 <= speeds.min() < 0.7 and 2.0 < speeds.max() <= 2.2

    @pytest.mark.parametrize("thing", HEADED)
    def test_headed_things_are_turned_the_way_they_go(self, thing):
        scene = replace(sample_scene(0), thing=thing, center=(32, 32), background="black")
        images = {d: render(replace(scene, direction=d), frames=1)[0] for d in DIRECTIONS}
        np.testing.assert_array_equal(images["left"], images["right"][:, ::-1])
        np.testing.assert_array_equal(images["up"], np.rot90(images["right"]))
        np.testing.assert_array_equal(images["down"], np.rot90(images["right"], -1))
        assert np.abs(images["right"].astype(int) - images["left"]).max() > 100

    @pytest.mark.parametrize("thing", SYMMETRIC)
    def test_symmetric_things_look_the_same_whichever_way_they_go(self, thing):
        scene = replace(sample_scene(0), thing=thing, center=(32, 32))
        images = [render(replace(scene, direction=d), frames=1) for d in DIRECTIONS]
        assert all(np.array_equal(image, images[0]) for image in images)

    def test_more_frames_cover_the_same_way(self):
        scene = sample_scene(3)
        np.testing.assert_array_equal(render(scene, 16)[[0, -1]], render(scene, 61)[[0, -1]])


class TestMeasurement:
    @pytest.mark.parametrize("harm", [lambda clip, seed: clip, degrade], ids=["true", "degraded"])
    def test_all_triples_are_read_correctly(self, harm):
        right = Counter()
        scenes = scenes_of_all_triples()
        for seed, scene in enumerate(scenes):
            seen = measure_clip(harm(render(scene), seed))
            right["color"] += seen.color == scene.color
            right["thing"] += seen.thing == scene.thing
            right["direction"] += seen.direction == scene.direction
            right["facing"] += seen.facing == (scene.direction if scene.thing in HEADED else NONE)
            right["background"] += seen.background == scene.background
            right["speed"] += abs(seen.speed - scene.travel / 15) < 0.1
            right["axis"] += seen.axis == ("horizontal" if scene.direction in ("left", "right") else "vertical")
        assert min(right.values()) >= 0.99 * len(scenes), right

    def test_larger_frames_and_single_images(self):
        scene = replace(sample_scene(0), thing="rocket", direction="up")
        seen = measure_clip(render(scene, size=128))
        assert (seen.thing, seen.direction) == ("rocket", "up") and abs(seen.speed - scene.travel / 15) < 0.1
        seen = measure_clip(render_image(scene)[None])
        assert (seen.color, seen.thing, seen.facing, seen.direction) == (scene.color, "rocket", "up", NONE)

    def test_a_still_clip_has_a_thing_but_no_motion(self):
        scene = replace(sample_scene(1), travel=0.0)
        seen = measure_clip(render(scene))
        assert (seen.color, seen.thing) == (scene.color, scene.thing)
        assert (seen.axis, seen.direction) == (NONE, NONE)

    def test_frames_in_random_order_have_no_direction(self):
        for seed in range(10):
            clip = np.random.default_rng(seed).permutation(render(sample_scene(seed)))
            assert measure_clip(clip).direction == NONE

    def test_a_clip_played_backwards_goes_the_other_way(self):
        scene = replace(sample_scene(0), thing="fish", direction="right")
        seen = measure_clip(render(scene)[::-1])
        assert (seen.facing, seen.direction) == ("right", "left")

    @pytest.mark.parametrize("background", BACKGROUNDS)
    def test_an_empty_clip_shows_a_background_only(self, background):
        clip = np.full((16, 64, 64, 3), BACKGROUNDS[background], np.uint8)
        seen = measure_clip(clip)
        assert (seen.color, seen.thing, seen.direction, seen.background) == (NONE, NONE, NONE, background)
        assert not any(seen.presence)

    def test_noise_is_not_a_thing(self):
        clip = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
        assert measure_clip(clip).thing == NONE

    def test_a_coloured_frame_is_not_a_thing(self):
        clip = np.full((16, 64, 64, 3), COLORS["red"], np.uint8)
        seen = measure_clip(clip)
        assert (seen.color, seen.thing, seen.background) == (NONE, NONE, NONE)

    def test_two_things_are_not_one(self):
        one = render(replace(sample_scene(0), thing="circle", direction="left", background="black", center=(32, 16)))
        two = render(replace(sample_scene(0), thing="square", direction="right", background="black", center=(32, 48)))
        assert measure_clip(np.maximum(one, two)).thing == NONE

    def test_bad_frames_are_refused(self):
        with pytest.raises(ValueError, match=r"got float32 \(16, 64, 64, 3\)"):
            measure_clip(np.zeros((16, 64, 64, 3), np.float32))
        with pytest.raises(ValueError, match="crop frames to a square"):
            measure_clip(np.zeros((16, 64, 96, 3), np.uint8))


class TestEvaluation:
    def test_captions_are_held_out_balanced_and_half_name_a_background(self):
        scenes = heldout_scenes(144)
        assert Counter((s.color, s.thing, s.direction) for s in scenes) == dict.fromkeys(HELDOUT, 6)
        assert set(Counter((s.background_named, s.background) for s in scenes).values()) == {24}

    def test_only_what_makes_the_frames_is_run(self):
        api = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0}},
            "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 8.0}},
            "4": {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], "filename_prefix": "x"}},
        }
        kept = frames_only(api)
        assert {node["class_type"] for node in kept.values()} == {"EmptyImage", "ImageInvert", "PreviewImage"}
        assert [node["inputs"]["images"] for node in kept.values() if "images" in node["inputs"]] == [["2", 0]]
        del api["3"]
        with pytest.raises(WorkflowError, match="one Create Video node"):
            frames_only(api)

    def test_a_perfect_generator_scores_one_and_a_still_one_does_not(self):
        by_caption = {caption(s): s for s in heldout_scenes(48)}
        samples = evaluate(lambda prompt, seed: render(by_caption[prompt]), samples=48, seed=7, progress=False)
        assert [s.seed for s in samples] == list(range(7, 55))
        assert all(r.successes == r.count > 0 for r in rates(samples))
        assert "| direction, headed things | 24 | 24 | 1.000 | 0.862 .. 1.000 |" in markdown(samples)
        assert to_json(samples, steps=25)["rates"][0]["interval"][1] == pytest.approx(1.0)
        still = evaluate(lambda prompt, seed: render(by_caption[prompt])[:1].repeat(16, 0), samples=24, progress=False)
        found = {r.name: r.successes for r in rates(still)}
        assert found["colour"] == 24
        assert found["motion axis"] == found["direction, headed things"] == found["direction, symmetric things"] == 0
