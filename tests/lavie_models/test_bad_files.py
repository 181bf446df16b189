"""Files made to do harm, or damaged in ways that load: every loader refuses them at once and says what is wrong.

Contract: each row changes one thing in a shipped file, as it lies on disk; nothing here may take long or much memory.
"""

from __future__ import annotations

import json
import logging

import pytest
import torch
from comfyui_lavie.lavie_models.comfyui.lora_report import make_report
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.comfyui.text_encoder import load_text_encoder
from comfyui_lavie.lavie_models.comfyui.vae import load_vae
from comfyui_lavie.lavie_models.convert import convert_file
from comfyui_lavie.lavie_models.errors import CheckpointError
from comfyui_lavie.lavie_models.metadata import CONFIG, DIGEST, LATENT_COLORS, PREDICTION, TOKENIZER
from comfyui_lavie.lavie_models.weights_file import load_checkpoint, open_weights, read_metadata, write_weights
from comfyui_lavie.place import ROOT
from safetensors.torch import load_file, save_file

BASE = ROOT / "weights" / "diffusion_models" / "lavie_nano_base.safetensors"
VAE = ROOT / "weights" / "vae" / "lavie_nano_vae.safetensors"
TEXT = ROOT / "weights" / "text_encoders" / "lavie_nano_text_encoder.safetensors"
LOADERS = {
    BASE: lambda path: load_model(path, "base"), VAE: load_vae, TEXT: load_text_encoder,
}  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000

# (file, key of its metadata, field of the JSON there or None for all of it, value, what the message says)
METADATA = [
    (BASE, CONFIG, "layers_per_block", 10**9, "whole number from 1 to 16"),
    (BASE, CONFIG, "layers_per_block", 2, "layers_per_block = 2, its weights have 1"),
    (BASE, CONFIG, "layers_per_block", True, "layers_per_block must be"),
    (BASE, CONFIG, "num_heads", 0, "num_heads must be"),
    (BASE, CONFIG, "num_heads", 1, "num_heads = 1, its weights have 2"),
    (BASE, CONFIG, "context_dim", "64", "context_dim must be"),
    (BASE, CONFIG, "block_channels", [64, -96, 128], "block_channels must be"),
    (BASE, CONFIG, "block_channels", [32] * 900, "block_channels must be"),
    (BASE, CONFIG, "block_channels", 64, "cannot be used"),
    (BASE, CONFIG, "attention_levels", [1, 1, 0], "attention_levels must be true or false"),
    (BASE, CONFIG, "stage", "interpolation", "stage = interpolation"),
    (BASE, CONFIG, None, DEEP, "cannot be read as JSON"),
    (BASE, CONFIG, None, "[1]", "must be a JSON object"),
    (BASE, PREDICTION, None, "x0", "expected one of"),
    (BASE, LATENT_COLORS, None, '{"factors": [], "bias": 1}', "4 rows of 3 factors"),
    (BASE, LATENT_COLORS, "bias", [0, 0, "red"], "4 rows of 3 factors"),
    (BASE, LATENT_COLORS, None, "NaN", "NaN is no number"),
    (VAE, CONFIG, "blocks", 10**9, "whole number from 0 to 16"),
    (VAE, CONFIG, "blocks", 1, "weights are missing"),
    (VAE, CONFIG, "blocks", 3, "weights are missing"),
    (VAE, CONFIG, "width", -96, "width must be"),
    (VAE, CONFIG, "width", 64, "this nano VAE needs"),
    (VAE, CONFIG, "factor", 16, "factor must be 4 or 8"),
    (VAE, CONFIG, "colour", 1, "colour"),
    (TEXT, CONFIG, "num_hidden_layers", 10**9, "whole number from 1 to 64"),
    (TEXT, CONFIG, "num_hidden_layers", -1, "whole number from 1 to 64"),
    (TEXT, CONFIG, "num_hidden_layers", 1, "weights too many"),
    (TEXT, CONFIG, "num_attention_heads", 0, "num_attention_heads must be"),
    (TEXT, CONFIG, "num_attention_heads", 3, "no multiple of num_attention_heads"),
    (TEXT, CONFIG, "hidden_act", "import os", "hidden_act must be one of"),
    (TEXT, CONFIG, "eos_token_id", 602, "eos_token_id is outside"),
    (TEXT, TOKENIZER, "vocab", {"a": "0"}, "the id of 'a' must be"),
    (TEXT, TOKENIZER, "vocab", {}, "the vocabulary lacks"),
    (TEXT, TOKENIZER, "merges", ["abc"], "a merge must be two tokens"),
    (TEXT, TOKENIZER, "merges", "none", "merges must be a list"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "key", "field", "value", "message"), METADATA)
def test_metadata_is_input(file, key, field, value, message, tmp_path):
    metadata = read_metadata(file)
    metadata.pop(DIGEST, None)
    metadata[key] = value if field is None else json.dumps({**json.loads(metadata[key]), field: value})
    path = tmp_path / "changed.safetensors"
    save_file(load_file(file), path, metadata)
    with pytest.raises(CheckpointError) as error:
        LOADERS[file](str(path))
    assert message in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("file", LOADERS, ids=lambda file: file.stem)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_weights_that_are_no_numbers_with_a_point(file, dtype, tmp_path):
    weights, metadata = load_checkpoint(file)
    key = sorted(weights)[3]
    weights[key] = weights[key].to(dtype)
    path = tmp_path / "changed.safetensors"
    save_file(weights, path, metadata)
    with pytest.raises(CheckpointError, match=f"{key} holds {str(dtype)[6:]}"):
        LOADERS[file](str(path))


@pytest.mark.parametrize("file", LOADERS, ids=lambda file: file.stem)
def test_nan_is_told_by_key(file, tmp_path, caplog):
    weights, metadata = load_checkpoint(file)
    key = sorted(weights)[3]
    weights[key] = torch.full_like(weights[key], torch.nan)
    path = tmp_path / "nan.safetensors"
    write_weights(path, weights, metadata)
    with caplog.at_level(logging.WARNING):
        LOADERS[file](str(path))
    assert f"1 weights hold NaN or infinity, the first is {key}" in caplog.text
    if file == BASE:
        with pytest.raises(CheckpointError, match="NaN or infinity already in the source"):
            convert_file(path, tmp_path / "new.safetensors", "fp32")
        assert not (tmp_path / "new.safetensors").exists()


def test_what_was_written_is_what_is_read(tmp_path):
    """A file of ours that was changed afterwards, by a fault or by hand, is refused although it would load."""
    weights, metadata = load_checkpoint(VAE)
    path = tmp_path / "own.safetensors"
    write_weights(path, weights, metadata)
    assert load_checkpoint(path)[1] == metadata
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its content is not what was written"):
        load_checkpoint(path)
    changed = {**read_metadata(VAE), DIGEST: "0" * 64}
    save_file(weights, path, changed)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path)


def itself():
    endless = {}
    endless["ema"] = endless
    return endless


PICKLES = {
    "itself": (itself, "no weights"),
    "repeated": (lambda: {"a": torch.zeros(1).expand(10**9, 10**6)}, "a is one value repeated"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "a is sparse"),
    "meta": (lambda: {"a": torch.zeros(10**6, 10**6, device="meta")}, "a is without values"),
    "numbers as names": (lambda: {1: torch.zeros(1)}, "no weights"),
    "flat": (lambda: {key: value.flatten()[:1].clone() for key, value in load_file(BASE).items()}, "fit no base UNet"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_without_end_or_values(kind, tmp_path):
    make, message = PICKLES[kind]
    torch.save(make(), tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path / "file.pt").unet  # noqa: B018 - reading it is what fails


def test_a_lora_that_core_cannot_read_is_reported(tmp_path):
    """Half a pair beside a whole one: core fails at the file, the report says at which keys."""
    model = load_model(str(BASE), "base").model
    name, other = (f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn{i}_to_q" for i in (1, 2))
    good = {f"{name}.lora_up.weight": torch.zeros(64, 2), f"{name}.lora_down.weight": torch.zeros(2, 64)}
    report = make_report({**good, f"{other}.lora_up.weight": torch.zeros(64, 2)}, model)
    assert len(report.spatial) == 2 and report.unreadable == [f"{other}.lora_up.weight"]
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html>" * 9)
    with pytest.raises(CheckpointError, match=r"page\.safetensors does not begin like a safetensors file"):
        load_checkpoint(tmp_path / "page.safetensors")
