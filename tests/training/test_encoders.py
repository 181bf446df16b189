"""Published kinds of text encoders and VAEs from files and folders, and what is said when one is missing."""

import numpy as np
import pytest
import torch
from comfyui_lavie.place import find_comfyui
from comfyui_lavie.tests.tiny_training import TEXT, VAE
from comfyui_lavie.training.encoders import load_image_codec, load_text
from comfyui_lavie.training.errors import TrainingError
from comfyui_lavie.training.pack_encoders import encode
from comfyui_lavie.training.recipe import EncoderSettings
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

TOKENIZER = find_comfyui() / "comfy" / "sd1_tokenizer"
CAPTIONS = ["a teddy bear walking", ""]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """A small CLIP text model with CLIP's vocabulary, as transformers saves it."""
    torch.manual_seed(0)
    config = CLIPTextConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=1)
    folder = tmp_path_factory.mktemp("clip") / "text_encoder"
    CLIPTextModel(config).save_pretrained(folder)
    return folder


def text_settings(path, **more):
    return EncoderSettings(text=str(path), vae="unused", **more)


@pytest.mark.parametrize("kind", ["plain", "checkpoint", "half"])
def test_a_text_encoder_file_is_its_folder(text_folder, tmp_path, kind):
    expected = encode(*load_text(text_settings(text_folder, tokenizer=str(TOKENIZER))), CAPTIONS)
    weights = load_file(text_folder / "model.safetensors")
    weights = {"text_model." + key.removeprefix("text_model."): value for key, value in weights.items()}
    if kind == "checkpoint":  # inside a Stable Diffusion 1.x checkpoint
        weights = {f"cond_stage_model.transformer.{key}": value for key, value in weights.items()}
        weights["model.diffusion_model.out.2.weight"] = torch.zeros(1)
    if kind == "half":
        weights = {key: value.half() for key, value in weights.items()}
    save_file(weights, tmp_path / "clip_l.safetensors")
    got = encode(*load_text(text_settings(tmp_path / "clip_l.safetensors")), CAPTIONS)  # ComfyUI's tokenizer
    assert got.shape == (2, 77, 64) and got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=2e-2 if kind == "half" else 1e-6, rtol=0)


def test_the_last_layer_of_vit_h_is_left_out(tmp_path):
    """Stable Diffusion 2.x reads the last layer but one of 24; diffusers' own folders have 23."""
    config = CLIPTextConfig(
        vocab_size=300, hidden_size=1024, intermediate_size=16, num_hidden_layers=24, num_attention_heads=16,
        hidden_act="gelu", max_position_embeddings=77, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = CLIPTextModel(config)
    weights = {f"text_model.{k.removeprefix('text_model.')}": v.contiguous() for k, v in model.state_dict().items()}
    save_file(weights, tmp_path / "h.safetensors")
    _, loaded = load_text(text_settings(tmp_path / "h.safetensors"))
    assert loaded.config.num_hidden_layers == 23 and loaded.config.hidden_act == "gelu"


@pytest.mark.parametrize(
    ("names", "levels"), [("diffusers", 4), ("diffusers", 3), ("stable diffusion", 4), ("checkpoint", 4)]
)
def test_a_vae_file_is_its_folder(tmp_path, levels, names):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32,) * levels, down_block_types=("DownEncoderBlock2D",) * levels, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=4,
        scaling_factor={4: 0.18215, 3: 0.08333}[levels],
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    weights = vae.state_dict()
    if names != "diffusers":
        from comfy.diffusers_convert import convert_vae_state_dict

        weights = {key: value.contiguous() for key, value in convert_vae_state_dict(weights).items()}
    if names == "checkpoint":
        weights = {f"first_stage_model.{key}": value for key, value in weights.items()}
    save_file(weights, tmp_path / "vae.safetensors")
    folder, file = (load_image_codec(str(tmp_path / name)) for name in ("vae", "vae.safetensors"))
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3), np.uint8)
    latents = folder.encode(frames)
    factor = 2 ** (levels - 1)
    assert latents.shape == (9, 4, 16 // factor, 24 // factor) and file.factor == factor
    torch.testing.assert_close(file.encode(frames), latents)
    images = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1)[:2]
    with torch.no_grad():
        torch.testing.assert_close(latents[:2], vae.encode(images).latent_dist.mean * vae.config.scaling_factor)
        decoded = vae.decode(latents[:2] / vae.config.scaling_factor).sample.clamp(-1, 1)
    got = file.decode(latents[:2])
    assert got.dtype == torch.uint8 and got.shape == (2, 16, 24, 3)
    assert (got.permute(0, 3, 1, 2).float() / 127.5 - 1 - decoded).abs().max() < 1 / 127


def test_nano_files_are_recognised():
    tokenizer, model = load_text(text_settings(TEXT))
    assert encode(tokenizer, model, CAPTIONS).shape == (2, 77, 64)
    assert load_image_codec(str(VAE)).factor == 8


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="encoders.text: there is no .*clip_l.* Get CLIP ViT-L/14"):
        load_text(text_settings(tmp_path / "clip_l.safetensors"))
    with pytest.raises(FileNotFoundError, match="encoders.vae: there is no .* Get an SD 1.x VAE"):
        load_image_codec(str(tmp_path / "vae.safetensors"))
    with pytest.raises(FileNotFoundError, match="encoders.tokenizer: there is no"):
        load_text(text_settings(VAE, tokenizer=str(tmp_path / "nowhere")))


def test_files_of_another_kind_are_refused(tmp_path):
    save_file({"some.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(TrainingError, match="holds no text_model.embeddings"):
        load_text(text_settings(tmp_path / "x.safetensors", tokenizer=str(TOKENIZER)))
    with pytest.raises(TrainingError, match="holds no decoder.conv_in"):
        load_image_codec(str(tmp_path / "x.safetensors"))
