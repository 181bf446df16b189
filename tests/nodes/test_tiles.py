"""Tiles of super-resolution: where they lie, that they are the frame's own parts, and the seams that they leave."""

import comfy.sample
import comfy.samplers
import numpy as np
import pytest
import torch
from comfyui_lavie.evaluation.metrics.psnr_ssim import psnr
from comfyui_lavie.evaluation.metrics.seams import seams
from comfyui_lavie.lavie_models.comfyui.model import LOW_RESOLUTION, load_model
from comfyui_lavie.lavie_models.comfyui.text_encoder import load_text_encoder
from comfyui_lavie.lavie_models.comfyui.vae import load_vae
from comfyui_lavie.nano.shapes import render, sample_scene
from comfyui_lavie.nodes.context_windows import LaVieContextWindows
from comfyui_lavie.nodes.super_resolution import LaVieSuperResolutionConditioning
from comfyui_lavie.nodes.tiles import GRID, LaVieTiles, areas, starts
from comfyui_lavie.place import ROOT

import nodes as core

WEIGHTS = ROOT / "weights"
SIDE, TILE, OVERLAP = 80, 64, 32


@pytest.mark.parametrize("tile", (64, 320, 512))
@pytest.mark.parametrize("shared", (16, 32))
def test_tiles_see_everything_and_share_enough(tile, shared):
    for size in range(8, 1600, 4):
        found = starts(size, tile, shared)
        assert found[0] == 0 and all(start % GRID == 0 for start in found)
        assert all(0 < after - before <= tile - shared for before, after in zip(found, found[1:], strict=False))
        assert len(found) == 1 or abs(size - tile - found[-1]) <= GRID // 2, "the last one reaches to the edge"
        seen = np.zeros((3, size), bool)
        for area in areas(3, size, 64, tile, shared):
            seen[area.y : area.y + area.height, area.x : area.x + area.width] = True
            assert area.height == 3 and area.width <= tile + GRID // 2
        assert seen.all()


def test_the_published_size_is_one_tile_and_a_larger_one_is_several():
    assert areas(320, 512, 320, 512, 64) == [(320, 512, 0, 0)]
    assert [(a.y, a.x) for a in areas(576, 1024, 320, 512, 64)] == [
        (y, x) for y in (0, 256) for x in (0, 256, 512)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def nano():
    """(MODEL, CLIP, VAE) of the small super-resolution."""
    unet = WEIGHTS / "diffusion_models" / "lavie_nano_super_resolution.safetensors"
    text = load_text_encoder(str(WEIGHTS / "text_encoders" / "lavie_nano_text_encoder.safetensors"))
    vae = load_vae(str(WEIGHTS / "vae" / "lavie_nano_upscaler_vae.safetensors"))
    return load_model(str(unet), "super_resolution"), text, vae


def prepared(text, frames: np.ndarray, words="a red fish moving right"):
    """(positive, negative, latent) of uint8 frames (F, H, W, 3)."""
    positive, negative = (core.CLIPTextEncode().encode(text, prompt)[0] for prompt in (words, ""))
    pixels = torch.from_numpy(frames).float() / 255
    return LaVieSuperResolutionConditioning.execute(positive, negative, pixels, 20, 0).result


def sample(model, positive, negative, latent, steps=4) -> torch.Tensor:
    samples = latent["samples"]
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(2))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    sampler = comfy.samplers.sampler_object("euler")
    return comfy.sample.sample_custom(
        model, noise, 1.5, sampler, sigmas, positive, negative, samples, disable_pbar=True, seed=0
    )


def pictures(vae, samples: torch.Tensor) -> np.ndarray:
    return (vae.decode(samples).clamp(0, 1) * 255).round().byte().numpy()


def seams_of_tiles(frames: np.ndarray) -> float:
    """Mean seam of the columns where a tile begins or ends; `seams` of columns instead of frames."""
    borders = [4 * edge for start in starts(SIDE, TILE, OVERLAP) for edge in (start, start + TILE)]
    inside = [border for border in borders if 0 < border < 4 * SIDE]
    return float(seams(np.moveaxis(frames, 2, 0), inside).mean())


def test_tiles_leave_no_seams(nano):
    """A frame a quarter wider than the tile: near the whole frame's, no step where tiles end."""
    model, text, vae = nano
    frames = render(sample_scene(3, "heldout"), 3, SIDE)[1:2]
    positive, negative, latent = prepared(text, frames)
    tiled = LaVieTiles.execute(positive, negative, TILE, TILE, OVERLAP).result
    assert len(tiled[0]) == len(areas(SIDE, SIDE, TILE, TILE, OVERLAP)) == 4
    whole, parts = (pictures(vae, sample(model, *conds, latent)) for conds in ((positive, negative), tiled))
    print(psnr(parts, whole), seams_of_tiles(parts), seams_of_tiles(whole))
    assert psnr(parts, whole) > 25 and seams_of_tiles(parts) < 1.2 * max(1, seams_of_tiles(whole))


def test_tiles_within_windows(nano):
    """Windows of two frames: what a tile of the first one is given is not what the second one is."""
    model, text, _ = nano
    frames = render(sample_scene(3, "heldout"), 3, 72)[:, :64]
    model = LaVieContextWindows.execute(model, 2, 1, "pyramid", False).result[0]
    changed = np.concatenate([frames[:2], 255 - frames[2:]])
    one, other = (sample(model, *LaVieTiles.execute(*prepared(text, f)[:2], TILE, TILE, OVERLAP).result,
                         prepared(text, f)[2], steps=1) for f in (frames, changed))  # fmt: skip
    difference = (one - other).abs().amax((1, 2, 3))
    assert difference[0] == 0 and difference[2] > 0.01


def test_a_tile_is_given_its_own_part_of_the_frames(nano):
    """What changes in one corner changes no tile that does not see it; and all tiles share one copy of the frames."""
    model, text, _ = nano
    frames = render(sample_scene(3, "heldout"), 2, SIDE)[:1]
    changed = frames.copy()
    changed[:, 68:, 68:] = 255
    one, other = (sample(model, *LaVieTiles.execute(*prepared(text, f)[:2], TILE, TILE, OVERLAP).result,
                         prepared(text, f)[2], steps=1) for f in (frames, changed))  # fmt: skip
    difference = (one - other).abs().amax((0, 1))
    assert difference[:16, :16].max() == 0 and difference[68:, 68:].min() > 0
    positive, negative, latent = prepared(text, frames)
    tiled, _ = LaVieTiles.execute(positive, negative, TILE, TILE, OVERLAP).result
    conds = [model.model.extra_conds(noise=latent["samples"], device="cpu", **values) for _, values in tiled]
    assert len({cond["c_concat"].cond.data_ptr() for cond in conds}) == 1


def test_what_fits_stays_as_it_is(nano):
    positive, negative, _ = prepared(nano[1], np.zeros((1, 64, 64, 3), np.uint8))
    assert LaVieTiles.execute(positive, negative, 64, 64, 16).result == (positive, negative)


def test_what_cannot_be_tiled_is_refused(nano):
    text = nano[1]
    positive, negative, _ = prepared(text, np.zeros((1, 64, 96, 3), np.uint8))
    plain = core.CLIPTextEncode().encode(text, "a car")[0]
    with pytest.raises(ValueError, match="needs what LaVie Super-Resolution Conditioning gives"):
        LaVieTiles.execute(plain, negative, 64, 64, 16)
    with pytest.raises(ValueError, match="at most half a tile, 32 pixels, got 40"):
        LaVieTiles.execute(positive, negative, 64, 64, 40)
    [area] = core.ConditioningSetArea().append(positive, 32, 32, 0, 0, 1.0)
    with pytest.raises(ValueError, match=r"have Conditioning \(Set Area\) before them"):
        LaVieTiles.execute(area, negative, 64, 64, 16)
    other = [[negative[0][0], {**negative[0][1], LOW_RESOLUTION: torch.zeros(1, 3, 64, 64)}]]
    with pytest.raises(ValueError, match=r"different sizes: \[\(64, 64\), \(64, 96\)\]"):
        LaVieTiles.execute(positive, other, 64, 64, 16)
