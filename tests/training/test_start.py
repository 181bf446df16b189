"""Where trainings start: image models inflated, stages from other stages, and files that will not do."""

from __future__ import annotations

import pytest
import torch
from comfyui_lavie.lavie_models.errors import CheckpointError
from comfyui_lavie.lavie_models.key_names import module_names, rename
from comfyui_lavie.lavie_models.unet import is_temporal
from comfyui_lavie.tests.tiny_training import SIZES, TEXT, make_unet, save_unet, tiny_recipe
from comfyui_lavie.training.errors import TrainingError
from comfyui_lavie.training.start import starting_unet
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

IMAGE_SIZES = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 64, "attention_head_dim": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}  # fmt: skip
UPSCALER_SIZES = {
    **IMAGE_SIZES, "in_channels": 7, "num_class_embeds": 1000, "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


@pytest.fixture(scope="module")
def image_model():
    """A tiny UNet of Stable Diffusion 1.x: diffusers' class, random weights."""
    torch.manual_seed(0)
    return UNet2DConditionModel(**IMAGE_SIZES).eval()


def recipe(tmp_path, name, start, **values):
    return tiny_recipe(name, tmp_path / "run", tmp_path, model__start=start, **values)


def checkpoint_names(unet, state_dict):
    """A published state dict under the names of an SD 1.x checkpoint, other networks beside it."""
    names = module_names(unet.config)
    weights = {f"model.diffusion_model.{rename(key, names) or key}": value for key, value in state_dict.items()}
    return {**weights, "first_stage_model.decoder.conv_in.weight": torch.zeros(2)}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_freshly_inflated_model_is_its_image_model(tmp_path, image_model, kind):
    """Images, one frame, and a clip of equal frames: each comes out as diffusers' image UNet has it."""
    start = tmp_path / "sd"
    if kind == "folder":
        image_model.save_pretrained(start / "unet")
    else:
        start = tmp_path / "sd.safetensors"
        save_file(checkpoint_names(make_unet(), image_model.state_dict()), start)
    unet, digest = starting_unet(recipe(tmp_path, "base", start, model__config=SIZES))
    assert len(digest) == 16
    rng = torch.Generator().manual_seed(1)
    x, text = torch.randn(3, 4, 8, 8, generator=rng), torch.randn(3, 7, 64, generator=rng)
    t = torch.tensor([400])
    with torch.no_grad():
        expected = image_model(x, t, text).sample
        alone = torch.cat([unet(x[i : i + 1], t, text[i : i + 1], num_frames=1) for i in range(3)])
        joint = unet(torch.cat((x[:1].expand(4, -1, -1, -1), x)), t, torch.cat((text[:1], text)), 4, 3)
    torch.testing.assert_close(alone, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(joint[4:], expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(joint[:4], expected[:1].expand(4, -1, -1, -1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["interpolation", "first_frame"])
def test_new_input_channels_begin_without_effect(tmp_path, name):
    """Interpolation and first-frame start from base: its weights, and whatever stands in channels 4 .. 7."""
    base = make_unet(seed=3)
    unet, _ = starting_unet(recipe(tmp_path, name, save_unet(base, tmp_path / "base.safetensors")))
    x, text, t = torch.randn(5, 4, 8, 8), torch.randn(1, 7, 64), torch.tensor([300])
    with torch.no_grad():
        one, two = (unet(torch.cat((x, more), 1), t, text, 5) for more in (torch.zeros_like(x), torch.randn_like(x)))
        expected = base(x, t, text, 5)
    assert torch.equal(one, two)
    if name == "first_frame":
        torch.testing.assert_close(one, expected)
    ours, theirs = unet.state_dict(), base.state_dict()
    same = [key for key in ours if key in theirs and key != "input_blocks.0.0.weight"]
    assert all(torch.equal(ours[key], theirs[key]) for key in same)
    assert {key for key in theirs if key not in ours} == {
        key for key in theirs if name == "interpolation" and "time_rel_pos_bias" in key
    }


def test_super_resolution_from_the_upscaler(tmp_path):
    torch.manual_seed(0)
    upscaler = UNet2DConditionModel(**UPSCALER_SIZES)
    upscaler.save_pretrained(tmp_path / "x4" / "unet")
    sizes = {**SIZES, "attention_levels": [False, True]}
    unet, _ = starting_unet(recipe(tmp_path, "super_resolution", tmp_path / "x4", model__config=sizes))
    names = module_names(unet.config)
    ours, theirs = unet.state_dict(), {rename(k, names) or k: v for k, v in upscaler.state_dict().items()}
    spatial = {key for key in ours if not is_temporal(key)}
    assert spatial == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in spatial)
    assert "label_emb.weight" in spatial


def test_random_starts_are_their_seed(tmp_path):
    made = [
        starting_unet(recipe(tmp_path, "base", "random", model__config=SIZES, run__seed=seed))[0].state_dict()
        for seed in (0, 0, 1)
    ]
    key = "input_blocks.0.0.weight"
    assert torch.equal(made[0][key], made[1][key]) and not torch.equal(made[0][key], made[2][key])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("base", lambda folder: folder / "absent.pt", "model.start: there is no .*absent.pt. Get lavie_base.pt"),
        ("base", lambda folder: TEXT, "is no UNet .it looks like: text_encoder.; wanted: lavie_base.pt"),
        ("base", lambda folder: folder, "neither a run of ours nor a diffusers folder"),
        ("super_resolution", lambda folder: save_unet(make_unet(), folder / "b.safetensors"), "does not fit a super"),
        ("base", lambda folder: save_unet(make_unet(), folder / "b.safetensors"), "model.config asks for .* has"),
    ],
    ids=["missing", "another kind", "empty folder", "another stage", "other sizes"],
)
def test_what_will_not_do_is_named(tmp_path, name, make, message):
    values = {"model__config": {"context_dim": 32}} if "asks for" in message else {}
    with pytest.raises((TrainingError, FileNotFoundError), match=message):
        starting_unet(recipe(tmp_path, name, make(tmp_path), **values))


def test_an_incomplete_file_names_what_is_missing(tmp_path):
    unet = make_unet()
    del unet.middle_block
    with pytest.raises(CheckpointError, match=r"incomplete: middle_block\.1.* is missing"):
        starting_unet(recipe(tmp_path, "base", save_unet(unet, tmp_path / "part.safetensors")))
