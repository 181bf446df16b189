"""Text encoders and VAEs in this pack's own files, such as the small ones that come with it, in plain PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from ..lavie_models.autoencoder import AutoencoderConfig, NanoAutoencoder
from ..lavie_models.metadata import CONFIG, STAGE, read_object
from ..lavie_models.pixels import to_model, to_pixels
from ..lavie_models.text_metadata import read_text_config, read_tokenizer
from ..lavie_models.tokenizer import make_tokenizer
from ..lavie_models.weights_file import read_metadata

LENGTH = 77  # tokens of a text


def metadata_of(path: str | Path, kind: str) -> dict[str, str]:
    """The metadata of a file of this pack. Raises ValueError unless its STAGE is `kind`."""
    metadata = read_metadata(path)
    if metadata.get(STAGE) != kind:
        raise ValueError(f"{path} is none of this pack's files of a {kind}: its metadata has no {STAGE}={kind}")
    return metadata


def tokens_of(tokenizer, captions: list[str]) -> torch.Tensor:
    """(N, 77) ids; longer texts are cut, shorter ones padded with end tokens, as Stable Diffusion 1.x does."""
    out = tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return out["input_ids"]


def chunks_of(tokenizer, caption: str) -> torch.Tensor:
    """(n, 77) ids of a text of any length, as ComfyUI reads an unweighted prompt: up to 75 tokens in each chunk between
    a start and an end, the last one padded."""
    words = tokenizer(caption, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    room = LENGTH - 2
    chunks = [words[start : start + room] for start in range(0, max(1, len(words)), room)]
    first, last, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return torch.tensor([[first, *chunk, last, *[padding] * (room - len(chunk))] for chunk in chunks])


@torch.no_grad()
def encode_chunks(tokenizer, model: CLIPTextModel, caption: str) -> torch.Tensor:
    """(77 n, hidden) of a text of any length, n chunks of it."""
    return model(chunks_of(tokenizer, caption).to(model.device)).last_hidden_state.flatten(0, 1)


@torch.no_grad()
def encode(tokenizer, model: CLIPTextModel, captions: list[str]) -> torch.Tensor:
    """(N, 77, hidden): the last hidden state after the final layer norm, which is what the UNet attends to."""
    return model(tokens_of(tokenizer, captions).to(model.device)).last_hidden_state


def load_text_encoder(path: str | Path, dtype: torch.dtype = torch.float32):
    """(tokenizer, CLIPTextModel) of an exported file, frozen; raises ValueError for any other file."""
    metadata = metadata_of(path, "text_encoder")
    config = read_text_config(metadata)
    tokenizer = make_tokenizer(*read_tokenizer(metadata, config["vocab_size"]))
    model = CLIPTextModel(CLIPTextConfig(**config))
    prefix = "text_model." if any(k.startswith("text_model.") for k in model.state_dict()) else ""
    model.load_state_dict({prefix + k.removeprefix("text_model."): v.float() for k, v in load_file(path).items()})
    return tokenizer, model.to(dtype).eval().requires_grad_(False)


class NanoVAE:
    """Pixels to diffusion's latents and back; ``factor``: pixels per latent along each side."""

    def __init__(self, model: NanoAutoencoder):
        self.model, self.factor = model, model.config.factor

    def to(self, device) -> NanoVAE:
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, 3) -> (N, 4, H/factor, W/factor), already times the scale."""
        return self.model.encode(to_model(frames).to(self.model.from_latent.weight)) * self.model.config.scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, 4, h, w) times the scale -> uint8 (N, factor h, factor w, 3) on the CPU."""
        return to_pixels(self.model.decode(latents.to(self.model.from_latent.weight) / self.model.config.scale))


def load_vae(path: str | Path, dtype: torch.dtype = torch.float32) -> NanoVAE:
    """Read an exported file; raises ValueError for any other."""
    model = NanoAutoencoder(AutoencoderConfig.from_dict(read_object(metadata_of(path, "vae"), CONFIG)))
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return NanoVAE(model.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last))
