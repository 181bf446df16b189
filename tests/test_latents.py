"""The cache of encoded clips and images: complete, resumable, bound to its autoencoder."""

from pathlib import Path

import comfyui_lavie
import numpy as np
import pytest
import torch
from comfyui_lavie.training import latents
from comfyui_lavie.training.measure_shapes import measure_clip
from comfyui_lavie.training.shapes import caption, sample_scene
from comfyui_lavie.training.vae import load_vae

VAE = Path(comfyui_lavie.__file__).parent / "weights" / "vae" / "lavie_nano_vae.safetensors"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "CHUNK", 2)
    latents.prepare(VAE, tmp_path / "cache", clips=3, images=2, size=64, progress=False)
    return tmp_path / "cache"


def test_rows_are_the_scenes_of_their_number(cache):
    data = latents.LatentSet.load(cache)
    assert data.clips.shape == (4, 16, 4, 8, 8) and data.images.shape == (2, 4, 8, 8)  # whole chunks of two
    vae = load_vae(VAE)
    for i, clip in enumerate(data.clips):
        scene = sample_scene(i)
        assert data.captions[data.clip_captions[i]] == caption(scene, "video")
        seen = measure_clip(vae.decode(clip.float()).numpy())
        assert (seen.color, seen.direction) == (scene.color, scene.direction)
    scene = sample_scene(latents.IMAGE_SEEDS + 1)
    assert data.captions[data.image_captions[1]] == caption(scene, "image")


def test_only_what_is_missing_is_made_again(cache):
    kept, lost = cache / "clips-0000000.npy", cache / "clips-0000002.npy"
    whole, untouched = np.load(lost), kept.stat().st_mtime_ns
    lost.unlink()
    latents.prepare(VAE, cache, clips=4, images=2, size=64, progress=False)
    assert kept.stat().st_mtime_ns == untouched
    assert np.array_equal(np.load(lost), whole)


def test_another_autoencoder_is_refused(cache, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(VAE.read_bytes() + b" ")
    with pytest.raises(ValueError, match="another autoencoder"):
        latents.prepare(other, cache, clips=2, images=2, size=64, progress=False)


def test_an_incomplete_cache_is_named(cache):
    (cache / "images-0000000.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"not complete .*images-0000000.npy.* comfyui_lavie.training.latents"):
        latents.LatentSet.load(cache)


def test_latents_have_unit_spread(cache):
    """The autoencoder's scale is folded in, so that the diffusion schedule meets data of variance one."""
    spread = latents.LatentSet.load(cache).clips.float().std()
    assert 0.5 < spread < 1.5
    assert torch.isfinite(spread)
