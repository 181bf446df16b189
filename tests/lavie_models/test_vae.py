"""The nano autoencoder (training, file) and VAE files as ComfyUI's VAE, through core's own nodes."""

import json
from pathlib import Path

import comfy.ldm.models.autoencoder
import folder_paths
import pytest
import torch
from comfyui_lavie.lavie_models.autoencoder import AutoencoderConfig
from comfyui_lavie.lavie_models.checkpoint import CheckpointError
from comfyui_lavie.lavie_models.comfyui.vae import load_vae as load_comfyui_vae
from comfyui_lavie.lavie_models.weights_file import load_checkpoint, read_metadata
from comfyui_lavie.nano import shapes
from comfyui_lavie.nano import vae as training
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nodes.vae import LaVieVAELoader
from comfyui_lavie.training.checkpoints import Checkpoints
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

import nodes as core

NANO = Path(__file__).parents[2] / "weights" / "vae" / training.FILE_NAMES[8]
SD_CHANNELS = (128, 256, 512, 512)
MEASURED_PSNR = 32.89  # decibels, printed at the end of the shipped training


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """uint8 (4, 64, 64, 3) of a held-out clip."""
    return torch.from_numpy(shapes.render(shapes.sample_scene(3, "heldout"), frames=4))


@pytest.fixture(scope="module")
def vae():
    return load_comfyui_vae(str(NANO))


# Training


def test_resuming_is_exact(tmp_path, capsys):
    options = ["--steps", "4", "--batch", "4", "--width", "16", "--size", "32", "--threads", "1", "--quiet"]
    main(["vae", *options, "--out", str(tmp_path / "whole")])
    main(["vae", *options, "--out", str(tmp_path / "parts"), "--stop-at", "2"])
    main(["vae", *options, "--out", str(tmp_path / "parts")])
    states = [Checkpoints(tmp_path / name).load() for name in ("whole", "parts")]
    for part in ("model", "average"):
        assert all(torch.equal(value, states[1][part][key]) for key, value in states[0][part].items())
    assert states[0]["step"] == states[1]["step"] == 4
    assert main(["vae", *options, "--out", str(tmp_path / "parts"), "--width", "8"]) == 1
    assert "width: then 16, now 8" in capsys.readouterr().err


def test_batches_depend_on_seed_and_step_alone():
    first = training.training_batch(1, 5, 4, 32)
    assert torch.equal(first, training.training_batch(1, 5, 4, 32))
    assert not torch.equal(first, training.training_batch(1, 6, 4, 32))
    assert not torch.equal(first, training.training_batch(2, 5, 4, 32))


def test_loss_counts_hue_twice():
    gray = torch.zeros(1, 3, 4, 4)
    red_green = torch.tensor([0.3, -0.3 * 0.299 / 0.587, 0.0]).view(1, 3, 1, 1).expand_as(gray)  # the same luma
    luma = torch.full_like(gray, 0.1)
    assert training.reconstruction_loss(gray, gray) == 0
    chroma = 1.426 * 0.3
    torch.testing.assert_close(training.reconstruction_loss(red_green, gray).item(), (chroma + chroma**2) / 3)
    torch.testing.assert_close(training.reconstruction_loss(luma, gray).item(), (0.1 + 0.01) / 3)


@pytest.mark.parametrize("factor", [8, 4])
def test_folding_normalises_latents_and_changes_no_image(frames, factor):
    torch.manual_seed(0)
    model = training.build(AutoencoderConfig(width=16, factor=factor)).requires_grad_(False)
    images = training.to_model(frames)
    before = model.decode(model.encode(images))
    training.fold_latent_scale(model, images)
    latents = model.encode(images) * model.config.scale
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.decode(latents / model.config.scale), before, atol=1e-4, rtol=1e-4)


def test_shipped_vae_keeps_frames_and_unit_latents():
    vae = training.load_vae(NANO)
    images = training.frames_batch(0, 64, 64, "heldout")
    assert training.psnr(vae.model, images) > MEASURED_PSNR - 1
    latents = vae.model.encode(images) * vae.model.config.scale
    assert latents.mean((0, 2, 3)).abs().max() < 0.3 and (latents.std((0, 2, 3)) - 1).abs().max() < 0.3


def test_other_files_are_refused_by_training(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="none of this pack's files of a vae"):
        training.load_vae(tmp_path / "x.safetensors")


# ComfyUI's VAE from the nano file


def test_nano_vae_equals_training(vae, frames):
    ours = training.load_vae(NANO)
    (latent,) = core.VAEEncode().encode(vae, frames / 255.0)
    torch.testing.assert_close(latent["samples"] * ours.model.config.scale, ours.encode(frames), atol=1e-4, rtol=1e-4)
    (images,) = core.VAEDecode().decode(vae, latent)
    assert images.shape == (4, 64, 64, 3) and images.min() >= 0 and images.max() <= 1
    decoded = ours.decode(latent["samples"] * ours.model.config.scale)
    assert ((images * 255).round() - decoded).abs().max() <= 1


@torch.inference_mode()  # as ComfyUI executes nodes
def test_tiled_nodes_agree_with_the_plain_ones(vae):
    image = torch.from_numpy(shapes.render_dense(0, 192))[None] / 255.0
    (plain,) = core.VAEEncode().encode(vae, image)
    (tiled,) = core.VAEEncodeTiled().encode(vae, image, 128, 32)
    assert tiled["samples"].shape == (1, 4, 24, 24)
    assert (plain["samples"] - tiled["samples"]).abs().mean() < 0.1 * plain["samples"].std()
    (whole,) = core.VAEDecode().decode(vae, plain)
    (parts,) = core.VAEDecodeTiled().decode(vae, plain, 128, 32)
    assert whole.shape == parts.shape == (1, 192, 192, 3)
    assert (whole - parts).abs().mean() < 0.02


def test_odd_sizes_are_cropped_as_core_does(vae):
    (latent,) = core.VAEEncode().encode(vae, torch.rand(1, 45, 70, 3))
    assert latent["samples"].shape == (1, 4, 5, 8)


def test_memory_is_estimated_and_cached_patcher_init_works(vae):
    assert 0 < vae.memory_used_decode((16, 4, 40, 64), torch.float32) < 1 << 30
    make, args = vae.patcher.cached_patcher_init
    again = make(*args)
    for key, value in vae.patcher.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value)


def test_what_is_no_batch_of_frames_is_refused(vae):
    """Sound's latents have three axes; core asks for memory before it looks at anything."""
    with pytest.raises(ValueError, match=r"of shape \(frames, channels, height, width\), got \(1, 64, 20\)"):
        core.VAEDecode().decode(vae, {"samples": torch.zeros(1, 64, 20)})


def test_loader_node_lists_and_loads(tmp_path, monkeypatch, frames):
    (tmp_path / NANO.name).write_bytes(NANO.read_bytes())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(tmp_path)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("vae", None)
    (names,) = (entry.options for entry in LaVieVAELoader.define_schema().inputs)
    assert names == [NANO.name]
    (loaded,) = LaVieVAELoader.execute(NANO.name).result
    assert loaded.encode(frames / 255.0).shape == (4, 4, 8, 8)
    folder_paths.filename_list_cache.pop("vae", None)


# Stable Diffusion's VAE


@pytest.fixture(scope="module")
def sd_vae():
    """Random weights of the published size, in fp16 precision."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=SD_CHANNELS, layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return model.half().float().eval().requires_grad_(False)


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_stable_diffusion_vae_matches_diffusers(sd_vae, layout, frames, tmp_path):
    weights = {key: value.half() for key, value in sd_vae.state_dict().items()}
    if layout == "ldm":
        weights = ldm_names(weights)
    save_file(weights, tmp_path / "vae.safetensors")
    vae = load_comfyui_vae(str(tmp_path / "vae.safetensors"))
    images = training.to_model(frames[:1])
    (latent,) = core.VAEEncode().encode(vae, frames[:1] / 255.0)
    expected = sd_vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(latent["samples"], expected, atol=1e-4, rtol=1e-4)
    (image,) = core.VAEDecode().decode(vae, {"samples": expected})
    decoded = sd_vae.decode(expected).sample.permute(0, 2, 3, 1) / 2 + 0.5
    torch.testing.assert_close(image, decoded.clamp(0, 1), atol=1e-4, rtol=1e-4)


def ldm_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As inside an LDM file, made by ComfyUI's converter, with the prefix of a checkpoint."""
    from comfy.diffusers_convert import convert_vae_state_dict

    return {"first_stage_model." + key: value.contiguous() for key, value in convert_vae_state_dict(weights).items()}


# Other files

BAD_FILES = {
    "text encoder": ({"text_model.embeddings.token_embedding.weight": (9, 8)}, "text encoder.*Load LaVie Text Encoder"),
    "16 channels": ({"decoder.conv_in.weight": (512, 16, 3, 3)}, "16 latent channels.*with 4.*Stable Diffusion 1.x"),
    "decoder only": ({"decoder.conv_out.weight": (3, 128, 3, 3)}, "holds no Stable Diffusion VAE"),
    "lora": ({"lora_unet_x.lora_up.weight": (4, 4)}, "LoRA"),
    "unknown": ({"x": (1,)}, "no model that this pack knows"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_other_kinds_of_files_are_named(kind, tmp_path):
    shapes_of, message = BAD_FILES[kind]
    save_file({key: torch.zeros(shape) for key, shape in shapes_of.items()}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_comfyui_vae(str(tmp_path / "file.safetensors"))


def test_incomplete_and_truncated_files(tmp_path):
    weights, metadata = load_checkpoint(NANO)
    del weights["decoder.0.bias"]
    save_file(weights, tmp_path / "part.safetensors", metadata)
    with pytest.raises(CheckpointError, match="1 weights are missing, the first is decoder.0.bias"):
        load_comfyui_vae(str(tmp_path / "part.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(NANO.read_bytes()[:-1000])
    with pytest.raises(CheckpointError):
        load_comfyui_vae(str(tmp_path / "cut.safetensors"))


def test_weights_of_another_width_are_named(tmp_path):
    tiny = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    weights = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=tiny, embed_dim=4).state_dict()
    save_file({key: torch.zeros_like(value) for key, value in weights.items()}, tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="not an autoencoder of the expected layout"):
        load_comfyui_vae(str(tmp_path / "tiny.safetensors"))


@pytest.mark.parametrize("config", ['{"width": 32}', '{"depth": 3}', "{"])
def test_unusable_metadata_is_named(config, tmp_path):
    metadata = {"lavie.stage": "vae", "lavie.config": config}
    save_file(load_file(NANO), tmp_path / "file.safetensors", metadata)
    message = "this nano VAE needs|not an autoencoder of the expected|weights are missing|cannot be read as JSON"
    with pytest.raises(CheckpointError, match=message):
        load_comfyui_vae(str(tmp_path / "file.safetensors"))


def test_metadata_names_stage_and_sizes():
    metadata = read_metadata(NANO)
    assert metadata["lavie.stage"] == "vae"
    assert AutoencoderConfig.from_dict(json.loads(metadata["lavie.config"])) == AutoencoderConfig(decoder_blocks=6)
    with pytest.raises(TypeError, match="depth"):
        AutoencoderConfig.from_dict({"depth": 3})
