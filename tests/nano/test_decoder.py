"""The deeper decoder begins as the old one and leaves the encoder alone; its training goes on where it was stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comfyui_lavie.lavie_models.pixels import to_model
from comfyui_lavie.nano import shapes
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nano.decoder import FILE_NAME, cut_to_thing, deepened
from comfyui_lavie.nano.evaluate import VAE
from comfyui_lavie.place import ROOT
from comfyui_lavie.training.pack_encoders import load_vae

WEIGHTS = ROOT / "weights"
TINY = ["--batch", "8", "--pictures", "40", "--dense", "2", "--clips", "1", "--steps", "4", "--threads", "1"]
BASE = ["--base", str(WEIGHTS / "diffusion_models" / "lavie_nano_base.safetensors"),
        "--text", str(WEIGHTS / "text_encoders" / "lavie_nano_text_encoder.safetensors")]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load_vae(VAE).model


@pytest.fixture(scope="module")
def pictures():
    return np.stack([shapes.render_image(shapes.sample_scene(seed)) for seed in range(6)])


def test_added_blocks_begin_without_effect(model, pictures):
    depth = model.config.decoder_depth + 2
    deeper = deepened(model, depth)
    assert deeper.config.decoder_depth == depth
    latents = model.encode(to_model(pictures))
    assert torch.allclose(deeper.decode(latents), model.decode(latents), atol=1e-5)
    with pytest.raises(ValueError, match="expected --blocks of"):
        deepened(model, 0)


def test_details_are_eyes_windows_and_wheels():
    """An eighth of a circle's picture at most is something else than body; a circle has no details at all."""
    shown = {}
    for seed in range(40):
        scene = shapes.sample_scene(seed)
        shown.setdefault(scene.thing, []).append(shapes.details(scene))
    for thing, masks in shown.items():
        areas = np.sum(masks, axis=(1, 2))
        assert (areas.min() > 10 and areas.max() < 200) if thing in shapes.HEADED else areas.max() == 0, thing


def test_cuts_hold_the_whole_thing(model, pictures):
    """What is cut away is background."""
    latents = model.encode(to_model(pictures))
    rng, whole = torch.Generator().manual_seed(0), torch.from_numpy(pictures)
    _, cut, _ = cut_to_thing(latents, whole, whole[..., 0] > 0, rng)
    assert cut.shape == (6, 48, 48, 3)
    for before, after in zip(pictures, cut.numpy(), strict=True):
        colored = [np.ptp(picture.astype(int), axis=-1).astype(bool).sum() for picture in (before, after)]
        assert colored[1] >= 0.97 * colored[0] > 0


def test_training_keeps_the_encoder_and_goes_on_where_it_was(model, tmp_path):
    depth = str(model.config.decoder_depth + 1)
    arguments = ["decoder", str(VAE), *BASE, *TINY, "--blocks", depth, "--save-every", "2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*arguments, "--out", str(whole)]) == 0
    assert main([*arguments, "--out", str(parts)]) == 0
    for path in sorted(parts.glob("step-*4.*.ckpt")):
        path.unlink()
    assert main([*arguments, "--out", str(parts)]) == 0
    trained, resumed = (load_vae(folder / FILE_NAME).model for folder in (whole, parts))
    for one, other in zip(trained.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    for old, new in zip(model.encoder.parameters(), trained.encoder.parameters(), strict=True):
        assert torch.equal(old, new)
    for old, new in ((model.from_latent, trained.from_latent), (model.decoder[0], trained.decoder[0])):
        assert not torch.equal(old.weight, new.weight) and not torch.equal(old.bias, new.bias)
