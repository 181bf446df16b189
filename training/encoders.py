"""The frozen networks around the UNet: text encoders and VAEs, published or nano, from files on disk.

Contract: `load_text` gives (tokenizer, transformers.CLIPTextModel) whose last hidden state is what the UNet attends to;
`load_image_codec` something with `encode`, `decode`, `factor` and `to`, whose latents are already scaled as diffusion
sees them. Nothing is downloaded: what is missing is named, with where to get it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ..lavie_models.autoencoder import LATENT_SCALES
from ..lavie_models.metadata import STAGE
from ..lavie_models.pixels import to_model, to_pixels
from ..lavie_models.weights_file import read_metadata
from ..place import SetupError, find_comfyui
from .errors import TrainingError
from .files import required
from .pack_encoders import load_text_encoder, load_vae
from .recipe import EncoderSettings

TEXT_FROM = "CLIP ViT-L/14 (clip_l.safetensors, or text_encoder/ of a Stable Diffusion 1.x diffusers folder)"
NANO_FROM = "the small model's own: it lies in this pack's folder weights, and goes where its others are"
VAE_FROM = "an SD 1.x VAE (vae-ft-mse-840000-ema-pruned.safetensors, or vae/ of a diffusers folder)"
TOKENIZER_FROM = "vocab.json and merges.txt of CLIP (tokenizer/ of a diffusers folder)"
TEXT_PREFIX, VAE_PREFIX = "cond_stage_model.transformer.", "first_stage_model."  # inside an SD 1.x checkpoint
HEAD_SIZE = 64  # of every published CLIP text encoder
PENULTIMATE_WIDTH = 1024  # OpenCLIP ViT-H: Stable Diffusion 2.x reads the last layer but one
PART = 8  # frames that go through a VAE at a time


def stage_of(path: Path) -> str | None:
    """``lavie.stage`` in a safetensors file's metadata."""
    return read_metadata(path).get(STAGE)


def _source(path: str, published: str) -> str:
    """Where a file that is missing comes from."""
    return NANO_FROM if "nano" in Path(path).name else published


def load_text(settings: EncoderSettings):
    """(tokenizer, CLIPTextModel), frozen, float32, on the CPU."""
    path = required(Path(settings.text), "encoders.text", _source(settings.text, TEXT_FROM))
    if stage_of(path) == "text_encoder":
        return load_text_encoder(path)
    from transformers import CLIPTextModel, CLIPTokenizer  # slow to import

    tokenizer = CLIPTokenizer.from_pretrained(_tokenizer_folder(settings, path), local_files_only=True)
    if path.is_dir():
        model = CLIPTextModel.from_pretrained(path, local_files_only=True)
    else:
        model = _text_model_of(_part_of(path, TEXT_PREFIX, "text_model.embeddings.token_embedding.weight"), path)
    return tokenizer, model.float().eval().requires_grad_(False)


def _tokenizer_folder(settings: EncoderSettings, text: Path) -> Path:
    if settings.tokenizer:
        return required(Path(settings.tokenizer), "encoders.tokenizer", TOKENIZER_FROM)
    for folder in (text, text.parent / "tokenizer"):
        if (folder / "merges.txt").is_file():
            return folder
    try:
        return required(find_comfyui() / "comfy" / "sd1_tokenizer", "encoders.tokenizer", TOKENIZER_FROM)
    except SetupError as error:
        raise FileNotFoundError(f"encoders.tokenizer: give the folder of {TOKENIZER_FROM} ({error})") from error


def _part_of(path: Path, prefix: str, mark: str) -> dict[str, torch.Tensor]:
    """Weights of one network in a file that may hold others too: those below ``prefix``, or all of them."""
    weights = load_file(path)
    inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    weights = inside or weights
    if mark not in weights:
        raise TrainingError(f"{path} holds no {mark}; it is another kind of file, or has other names")
    return weights


def _text_model_of(weights: dict[str, torch.Tensor], path: Path):
    """A CLIPTextModel with the sizes that the weights have, and the depth that Stable Diffusion reads."""
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = {
        key: value for key, value in weights.items()
        if key.startswith("text_model.") and not key.endswith("position_ids")
    }  # fmt: skip
    tokens, width = weights["text_model.embeddings.token_embedding.weight"].shape
    layers = len({key.split(".")[3] for key in weights if key.startswith("text_model.encoder.layers.")})
    if width == PENULTIMATE_WIDTH and layers == 24:
        weights = {key: value for key, value in weights.items() if not key.startswith("text_model.encoder.layers.23.")}
        layers = 23
    config = CLIPTextConfig(
        vocab_size=tokens, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // HEAD_SIZE,
        intermediate_size=weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        max_position_embeddings=weights["text_model.embeddings.position_embedding.weight"].shape[0],
        hidden_act="gelu" if width == PENULTIMATE_WIDTH else "quick_gelu",
    )  # fmt: skip
    model = CLIPTextModel(config)
    own = "text_model." if next(iter(model.state_dict())).startswith("text_model.") else ""
    try:
        model.load_state_dict({own + key.removeprefix("text_model."): value for key, value in weights.items()})
    except RuntimeError as error:
        raise TrainingError(f"{path} is no whole CLIP text encoder: {error}") from error
    return model


class KLCodec:
    """diffusers' AutoencoderKL as pixels to latents and back; latents are the posterior's mean, times the scale."""

    def __init__(self, model):
        self.model, self.scale = model, model.config.scaling_factor
        self.factor = 2 ** (len(model.config.block_out_channels) - 1)

    def to(self, device) -> KLCodec:
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, 3) -> (N, 4, H / factor, W / factor) float32."""
        images = to_model(frames).to(self.model.device)
        parts = [self.model.encode(part).latent_dist.mean for part in images.split(PART)]
        return torch.cat(parts).float() * self.scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, 4, h, w) -> uint8 (N, factor h, factor w, 3) on the CPU."""
        latents = latents.float().to(self.model.device) / self.scale
        return torch.cat([to_pixels(self.model.decode(part).sample) for part in latents.split(PART)])


def load_image_codec(path_text: str):
    """The VAE that ``encoders.vae`` names, float32, on the CPU."""
    path = required(Path(path_text), "encoders.vae", _source(path_text, VAE_FROM))
    if stage_of(path) == "vae":
        return load_vae(path)
    from diffusers import AutoencoderKL

    if path.is_dir():
        model = AutoencoderKL.from_pretrained(path, local_files_only=True)
    else:
        model = _vae_of(_part_of(path, VAE_PREFIX, "decoder.conv_in.weight"), path)
    return KLCodec(model.float().eval().requires_grad_(False))


def _vae_of(weights: dict[str, torch.Tensor], path: Path):
    """An AutoencoderKL with the sizes that the weights have; Stable Diffusion's names or diffusers'."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    published = "encoder.down_blocks.0.resnets.0.conv1.weight" in weights
    block, conv = ("encoder.down_blocks", "resnets") if published else ("encoder.down", "block")
    widths, layers = [], 0
    while (key := f"{block}.{len(widths)}.{conv}.0.conv1.weight") in weights:
        widths.append(weights[key].shape[0])
    while f"{block}.0.{conv}.{layers}.conv1.weight" in weights:
        layers += 1
    count = len(widths)
    factor = 2 ** (count - 1)
    if factor not in LATENT_SCALES:
        raise TrainingError(f"{path} is a VAE of {count} levels; expected 4, or the x4-upscaler's 3")
    config = {
        "block_out_channels": tuple(widths), "layers_per_block": layers,
        "down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count,
        "scaling_factor": LATENT_SCALES[factor], "latent_channels": weights["post_quant_conv.weight"].shape[0],
    }  # fmt: skip
    model = AutoencoderKL(**config)
    if not published:
        weights = convert_ldm_vae_checkpoint(weights, dict(model.config))
    model.load_state_dict(weights)
    return model
