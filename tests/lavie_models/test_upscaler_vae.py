"""The factor-4 VAEs: Stable Diffusion x4-upscaler's at its published size and the nano one, through core's nodes."""

import json
import shutil
from pathlib import Path

import comfy.ldm.models.autoencoder
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.cli_args import args
from comfyui_lavie.bench.measure import peak_activations
from comfyui_lavie.lavie_models.autoencoder import AutoencoderConfig, NanoAutoencoder
from comfyui_lavie.lavie_models.checkpoint import CheckpointError
from comfyui_lavie.lavie_models.comfyui.vae import load_vae
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

import nodes as core

NANO = Path(__file__).parents[2] / "weights" / "vae" / "lavie_nano_vae.safetensors"
LDM = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 128,
       "ch_mult": [1, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
NAMES_OF_2022 = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
OVERFLOW = "decoder.up.1.block.0.conv2."  # what is scaled up in a file whose activations fp16 cannot hold


@pytest.fixture(scope="module")
def reference() -> AutoencoderKL:
    """diffusers' own class with random weights of the published size, rounded to fp16."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(128, 256, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    return model.half().float().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(reference, tmp_path_factory) -> dict[str, Path]:
    """The same weights with diffusers names, LDM names, as in a checkpoint, and with huge activations."""
    diffusers = {key: value.half() for key, value in reference.state_dict().items()}
    ldm = ldm_names(reference, diffusers)
    layouts = {
        "diffusers": diffusers,
        "diffusers_2022": {named_in_2022(key): value for key, value in diffusers.items()},
        "ldm": ldm,
        "checkpoint": {"first_stage_model." + key: value for key, value in ldm.items()},
        "overflow": {key: value * 1e6 if key.startswith(OVERFLOW) else value for key, value in ldm.items()},
    }
    folder = tmp_path_factory.mktemp("vae")
    for name, weights in layouts.items():
        save_file(weights, folder / f"{name}.safetensors")
    yield {name: folder / f"{name}.safetensors" for name in layouts}
    shutil.rmtree(folder)  # pytest would keep half a gigabyte of each of the last runs


def named_in_2022(key: str) -> str:
    """diffusers' names when the x4-upscaler was published."""
    for new, old in NAMES_OF_2022.items():
        key = key.replace(new, old)
    return key


def ldm_names(reference, weights) -> dict[str, torch.Tensor]:
    """LDM's names and shapes, found by asking diffusers' converter what it makes of each."""
    layout = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=LDM, embed_dim=4).state_dict()
    marked = {key: torch.full(value.shape, float(i)) for i, (key, value) in enumerate(layout.items())}
    converted = convert_ldm_vae_checkpoint(marked, reference.config)
    named = {int(value.flatten()[0]): key for key, value in converted.items()}
    return {key: weights[named[i]].reshape(layout[key].shape).clone() for i, key in enumerate(layout)}


@pytest.fixture(scope="module")
def vae(files):
    return load_vae(str(files["diffusers"]))


@pytest.fixture
def fp16_vae(monkeypatch):
    """ComfyUI as started with --fp16-vae."""
    monkeypatch.setattr(args, "fp16_vae", True)


@pytest.mark.parametrize("layout", ["diffusers", "diffusers_2022", "ldm", "checkpoint"])
@torch.inference_mode()
def test_upscaler_vae_matches_diffusers(reference, files, layout):
    vae = load_vae(str(files[layout]))
    assert vae.upscale_ratio == vae.downscale_ratio == vae.spacial_compression_encode() == 4
    images = torch.rand(2, 24, 40, 3)
    (latent,) = core.VAEEncode().encode(vae, images)
    expected = reference.encode(images.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    assert latent["samples"].shape == (2, 4, 6, 10)
    torch.testing.assert_close(latent["samples"], expected, atol=1e-4, rtol=1e-4)
    (decoded,) = core.VAEDecode().decode(vae, {"samples": expected})
    sample = reference.decode(expected).sample.movedim(1, -1) / 2 + 0.5
    torch.testing.assert_close(decoded, sample.clamp(0, 1), atol=1e-4, rtol=1e-4)


def test_core_loader_serves_as_well(vae, files, monkeypatch):
    """Core's Load VAE with LDM names; of diffusers names it knows four levels only."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(files["ldm"].parent)], {".safetensors"}))
    (other,) = core.VAELoader().load_vae(files["ldm"].name)
    (latent,) = core.VAEEncode().encode(other, torch.rand(1, 16, 24, 3))
    (theirs,), (ours,) = (core.VAEDecode().decode(each, latent) for each in (other, vae))
    assert ours.shape == (1, 16, 24, 3)
    torch.testing.assert_close(theirs, ours)


def test_both_loaders_in_a_graph(comfyui, files):
    """Encode, decode and back again on the server: 40 x 24 pixels stay 40 x 24."""
    copy = comfyui.server.base_directory / "models" / "vae" / "upscaler_test.safetensors"
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(files["ldm"], copy)
    for loader in ("LaVieVAELoader", "VAELoader"):
        graph = {
            "vae": {"class_type": loader, "inputs": {"vae_name": copy.name}},
            "image": {"class_type": "EmptyImage", "inputs": {"width": 40, "height": 24, "batch_size": 2, "color": 255}},
            "encode": {"class_type": "VAEEncode", "inputs": {"pixels": ["image", 0], "vae": ["vae", 0]}},
            "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["encode", 0], "vae": ["vae", 0]}},
            "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": loader}},
        }
        images = comfyui.run(graph)["save"]["images"]
        assert len(images) == 2
        assert png_size(comfyui.server.fetch(images[0])) == (40, 24)
    copy.unlink()


def png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def nano(factor: int, folder: Path) -> tuple[NanoAutoencoder, Path]:
    """A nano autoencoder with random weights, and its file."""
    torch.manual_seed(factor)
    model = NanoAutoencoder(AutoencoderConfig(factor=factor)).eval().requires_grad_(False)
    metadata = {"lavie.stage": "vae", "lavie.config": json.dumps(model.config.to_dict())}
    save_file(model.state_dict(), folder / "nano.safetensors", metadata)
    return model, folder / "nano.safetensors"


@pytest.mark.parametrize("factor", [4, 8])
def test_nano_vae_of_either_factor(factor, tmp_path):
    model, path = nano(factor, tmp_path)
    vae = load_vae(str(path))
    images = torch.rand(2, 32, 48, 3)
    (latent,) = core.VAEEncode().encode(vae, images)
    expected = model.encode(images.movedim(-1, 1) * 2 - 1)
    assert expected.shape == (2, 4, 32 // factor, 48 // factor)
    torch.testing.assert_close(latent["samples"], expected)
    (decoded,) = core.VAEDecode().decode(vae, latent)
    torch.testing.assert_close(decoded, (model.decode(expected).movedim(1, -1) / 2 + 0.5).clamp(0, 1))


@torch.inference_mode()  # as ComfyUI executes nodes
def test_tiled_nodes_agree_with_the_plain_ones(tmp_path):
    vae = load_vae(str(nano(4, tmp_path)[1]))
    images = torch.rand(1, 96, 160, 3)
    (plain,) = core.VAEEncode().encode(vae, images)
    (tiled,) = core.VAEEncodeTiled().encode(vae, images, 64, 16)
    assert plain["samples"].shape == tiled["samples"].shape == (1, 4, 24, 40)
    assert (plain["samples"] - tiled["samples"]).abs().mean() < 0.1 * plain["samples"].std()
    (whole,) = core.VAEDecode().decode(vae, plain)
    (parts,) = core.VAEDecodeTiled().decode(vae, plain, 64, 16)
    assert whole.shape == parts.shape == (1, 96, 160, 3)
    assert (whole - parts).abs().mean() < 0.1 * whole.std()


@torch.inference_mode()
def test_upscaler_vae_tiles_and_crops(vae):
    (latent,) = core.VAEEncodeTiled().encode(vae, torch.rand(1, 43, 74, 3), 32, 8)
    assert latent["samples"].shape == (1, 4, 10, 18)
    (image,) = core.VAEDecodeTiled().decode(vae, latent, 32, 8)
    assert image.shape == (1, 40, 72, 3) and image.isfinite().all()


# Precision


@torch.inference_mode()
def test_never_fp16(files, fp16_vae):
    """Whatever --fp16-vae says; other VAEs follow it, and what it would do to this one is shown by core's."""
    assert load_vae(str(NANO)).vae_dtype == torch.float16
    latent = {"samples": torch.randn(1, 4, 4, 4)}
    theirs = comfy.sd.VAE(sd=load_file(files["overflow"]))
    assert theirs.vae_dtype == torch.float16
    assert not core.VAEDecode().decode(theirs, latent)[0].isfinite().all()
    ours = load_vae(str(files["overflow"]))
    assert ours.vae_dtype in (torch.bfloat16, torch.float32)
    assert core.VAEDecode().decode(ours, latent)[0].isfinite().all()


@pytest.mark.parametrize(("option", "dtype"), [("bf16_vae", torch.bfloat16), ("fp32_vae", torch.float32)])
def test_other_options_are_followed(files, option, dtype, monkeypatch):
    monkeypatch.setattr(args, option, True)
    assert load_vae(str(files["ldm"])).vae_dtype == dtype


def test_patcher_can_be_made_again(vae, fp16_vae):
    make, arguments = vae.patcher.cached_patcher_init
    again = make(*arguments).model.state_dict()
    for key, value in vae.patcher.model.state_dict().items():
        assert torch.equal(again[key], value)


# Memory


def estimate_per_peak(vae, factor: int, size: int, dtype: torch.dtype) -> tuple[float, float]:
    """What the VAE expects over what torch allocates at most, for decoding and encoding size x size pixels."""
    model = vae.first_stage_model.to(dtype)
    latent, image = torch.randn(1, 4, size // factor, size // factor), torch.rand(1, 3, size, size)
    with torch.inference_mode():
        decode = peak_activations(lambda: model.decode(latent.to(dtype)), "cpu")
        encode = peak_activations(lambda: model.encode(image.to(dtype)), "cpu")
    return vae.memory_used_decode(latent.shape, dtype) / decode, vae.memory_used_encode(image.shape, dtype) / encode


unfolds = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="without convolutions in bf16 a CPU unfolds each picture into a matrix nine times as large, as no GPU does",
)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=unfolds)])
def test_memory_estimate_of_the_upscaler_vae(files, dtype):
    """At least the measured peak; at most what ComfyUI adds for Stable Diffusion's VAE."""
    decode, encode = estimate_per_peak(load_vae(str(files["ldm"])), 4, 64, dtype)
    assert 1.0 < decode < 2.5 and 1.0 < encode < 3.5


@pytest.mark.parametrize("factor", [4, 8])
def test_memory_estimate_of_the_nano_vae(factor, tmp_path):
    for size in (64, 256):
        decode, encode = estimate_per_peak(load_vae(str(nano(factor, tmp_path)[1])), factor, size, torch.float32)
        assert 1.0 < decode < 2.0 and 1.0 < encode < 2.0


# Other files


def test_incomplete_file_is_named(files, tmp_path):
    weights = load_file(files["ldm"])
    del weights["decoder.up.2.block.1.conv1.bias"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"1 weights are missing, the first is decoder.up.2.block.1.conv1.bias"):
        load_vae(str(tmp_path / "part.safetensors"))


def test_metadata_before_there_was_a_factor(tmp_path):
    assert AutoencoderConfig.from_dict({"width": 96, "blocks": 2, "head": 16, "latent_channels": 4}).factor == 8
    config = json.dumps({**AutoencoderConfig().to_dict(), "factor": 2})
    save_file(load_file(NANO), tmp_path / "file.safetensors", {"lavie.stage": "vae", "lavie.config": config})
    with pytest.raises(CheckpointError, match="factor must be 4 or 8, got 2"):
        load_vae(str(tmp_path / "file.safetensors"))
