"""The figures of the nano models: measures on pictures whose error is known, intervals, the page, each part once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comfyui_lavie.comfyui_api.clips import preview_of
from comfyui_lavie.datasets.video import decode_video
from comfyui_lavie.evaluation.metrics.flicker import error_flicker
from comfyui_lavie.evaluation.metrics.psnr_ssim import psnr
from comfyui_lavie.evaluation.metrics.sharpness import edge_sharpness
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nano.figures import command, interpolation, lora, measures, super_resolution
from comfyui_lavie.nano.figures.document import PARTS, page
from comfyui_lavie.nano.figures.graphs import from_frames, lossless_video, through_vae, workflow_weights
from comfyui_lavie.nano.figures.parts import Settings, heldout_scene
from comfyui_lavie.nano.shapes import DIRECTIONS, Scene, render
from comfyui_lavie.training.errors import TrainingError

# 20 pixels wide, its edges between pixels
SQUARE = Scene("red", "square", "right", "black", False, (32.0, 32.0), travel=32, length=20 / 0.84, moment=0.5)


def cover_of(scene: Scene, **render_options) -> np.ndarray:
    return measures.cover(render(scene, **render_options), scene)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_the_truth_has_no_error():
    scene = heldout_scene(3)
    frames = render(scene, 13)
    assert interpolation.between_errors(frames, frames, scene) == {"motion": 0, "cover": 0, "rmse": 0}
    assert error_flicker(frames, frames) == 0 and edge_sharpness(frames, frames) == pytest.approx(1)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("thing", ("square", "circle", "rocket"))
def test_a_thing_ahead_by_some_pixels_is_ahead_by_these(direction, thing):
    """Whole pixels, and parts of one."""
    scene = replace(SQUARE, thing=thing, direction=direction)
    dx, dy = DIRECTIONS[direction]
    for pixels in (1.0, -2.0, 0.4):
        moved = replace(scene, center=(32 + dx * pixels, 32 + dy * pixels))
        shift = measures.outline_shift(cover_of(moved, frames=5), cover_of(scene, frames=5))
        close = 0.01 if pixels % 1 == 0 else 0.15
        assert shift.shape == (5, 2) and np.allclose(shift, pixels, atol=close), (pixels, shift)


def test_wrong_cover_is_in_pixels_of_motion():
    truth = cover_of(SQUARE, frames=17)
    for pixels in (1, 3):
        wrong = measures.cover_error(np.roll(truth, pixels, axis=2), truth)
        assert wrong[8] == pytest.approx(pixels, rel=1e-3)
    assert measures.cover_error(np.zeros_like(truth), truth)[8] == pytest.approx(20 * 20 / (2 * 20), rel=1e-3)


@pytest.mark.parametrize("distance", (4, 8))
def test_a_blend_has_the_error_that_arithmetic_gives(distance):
    """A step is blended of two that are `distance` apart.

    Half cover is at the nearer of both, off by 1/4, 1/2, 1/4 of the distance, less what the line between two pixels
    gains: 1/6, 1/2, 1/6. Wrong cover is 2 w (1 - w) of the distance.
    """
    scene = replace(SQUARE, travel=4.0 * distance)
    truth = render(scene, 17)
    errors = interpolation.between_errors(interpolation.blend(truth[::4]), truth, scene)
    assert errors["motion"] == pytest.approx(distance / 3 - 5 / 18, rel=1e-2)
    assert errors["cover"] == pytest.approx(distance * (0.375 + 0.5 + 0.375) / 3, rel=1e-2)


def test_no_thing_is_no_motion():
    scene = heldout_scene(0)
    truth, nothing = render(scene, 13), np.zeros((13, 64, 64, 3), np.uint8)
    errors = interpolation.between_errors(nothing, truth, scene)
    assert np.isnan(errors["motion"]) and errors["cover"] > 5
    half = np.concatenate([truth[:6], nothing[6:]])
    assert interpolation.between_errors(half, truth, scene)["motion"] == 0


def test_sharpness_across_the_edges_of_a_drawn_clip():
    truth = render(SQUARE, 4, 256)
    small = truth.reshape(4, 64, 4, 64, 4, 3).mean((2, 4)).round().astype(np.uint8)
    assert 0.1 < edge_sharpness(super_resolution.bicubic(small), truth) < 0.6


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_page_without_results_says_so(tmp_path):
    assert main(["figures", "--parts", "none", "--results", str(tmp_path), "--out", str(tmp_path / "nano.md")]) == 0
    text = (tmp_path / "nano.md").read_text()
    for name, part in PARTS.items():
        assert f"## {part.TITLE}" in text and f"figures --parts {name}` does it" in text
    assert "claims.md" in text and "long_video.md" in text and "## Goals" not in text


def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    for words, said in ((["--parts", "basis"], "basis"), (["--samples", "0"], "1 or more")):
        assert main(["figures", *words]) == 1 and said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["figures", "--set", "x"])
    assert "expected INPUT=VALUE" in capsys.readouterr().err
    monkeypatch.setattr(lora, "FILE", tmp_path / "none.safetensors")
    assert main(["figures", "--parts", "lora"]) == 1 and "nano lora makes it" in capsys.readouterr().err
    with pytest.raises(TrainingError, match=r"clip_l\.safetensors"):
        workflow_weights("LaVie 07 Your video - 4x frames")


# --- each part, once, through the server ------------------------------------------------------------------------------


def test_frames_reach_the_graph_without_loss(comfyui):
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    assert np.array_equal(decode_video(lossless_video(frames)), frames)
    api = comfyui.workflow("lavie_nano_interpolate_video.json")
    scaled = next(name for name, node in api.items() if node["class_type"] == "ImageScale")
    assert np.array_equal(from_frames(comfyui.server, preview_of(api, [scaled, 0]))(frames), frames)


def test_the_vae_alone(comfyui):
    truth = render(heldout_scene(0), 5)
    coded = through_vae(comfyui.server, interpolation.WORKFLOW)(truth)
    assert coded.shape == truth.shape and 24 < psnr(coded, truth) < 60


def test_every_part_measures_and_tells(comfyui, tmp_path, monkeypatch):
    """One clip, two steps; then the page of what was kept, and what it says once weights have changed."""
    monkeypatch.setattr(super_resolution, "SIZE", 128)
    monkeypatch.setattr(super_resolution, "FRAMES", 2)
    for name in PARTS:
        result = command.measure(name, comfyui.server, Settings(1, tmp_path / "clips", seed=5, inputs={"steps": 2}))
        command.keep(result, tmp_path)
    results = command.kept(tmp_path)
    assert list(results) == list(PARTS)
    assert results["base"]["sampling"]["steps"] == 2 and results["super_resolution"]["sampling"]["noise_level"] == 50
    text = page(results)
    assert text == page(command.kept(tmp_path)), "the page depends on the results alone"
    assert text.count("\n| ") > 50 and "Of other weights" not in text
    assert "Not measured" not in text and "base: thing at least 0.90" in text
    floor = results["interpolation"]["clips"][0]
    assert floor["vae"]["motion"] < 0.5 and floor["blend"]["rmse"] > 1
    [first] = [clip for clip in results["super_resolution"]["clips"] if clip["degradation"] == "clean"]
    assert first["vae"]["psnr"] > first["bicubic"]["psnr"] > first["model"]["psnr"] - 10
    assert first["model"]["psnr"] > first["uncorrected"]["psnr"] + 0.5

    [new] = results["lora"]["clips"]
    assert new["prompt"] == "a orange fish moving left" and new["hue"] != new["hue_without"]

    results["base"]["weights"]["lavie_nano_base.safetensors"] = "0" * 16
    assert "Of other weights than those that are here now** (lavie_nano_base.safetensors)" in page(results)
    del results["lora"]
    assert "figures --parts lora` does it" in page(results)
