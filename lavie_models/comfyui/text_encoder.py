"""Text encoder files as ComfyUI's own CLIP objects.

Contract: what `load_text_encoder` returns is a comfy.sd.CLIP that core's text nodes, LoRA loaders and hooks handle like
the one of Stable Diffusion 1.x. CLIP ViT-L/14 goes through ComfyUI's own loader; our nano encoder uses the same classes
with the configuration, vocabulary and merges that its metadata carries.
"""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import torch

from ..checkpoint import CheckpointError
from ..tokenizer import END, START, make_tokenizer
from .files import read_model_file

CLIP_L_WIDTH, CLIP_L_LAYERS = 768, 12
EMBEDDING = "embeddings.token_embedding.weight"
OPENCLIP_MARKER = "transformer.resblocks.0.ln_1.weight"
SPECIAL_TOKENS = {"start": "bos", "end": "eos", "pad": "pad"}  # ComfyUI's names: transformers' names
PARTS = ("embeddings.", "encoder.", "final_layer_norm.")  # of a CLIP text model


def load_text_encoder(path: str, embedding_directory=None, model_options=None, disable_dynamic=False) -> comfy.sd.CLIP:
    """Load a text encoder file. Raises CheckpointError saying what the file is if it is anything else, or not whole.

    `embedding_directory`: folders with textual inversions; `model_options`: ComfyUI's, such as load_device or dtype.
    """
    weights, metadata = read_model_file(path, "text_encoder")
    weights = _transformers_names(path, weights)
    nano = "lavie.tokenizer" in metadata
    if not nano:
        _require_clip_l(path, weights)
    # Stable Diffusion 1.x reads no pooled projection; without one ComfyUI would keep whatever lies in memory.
    weights["text_projection.weight"] = torch.eye(weights["text_model." + EMBEDDING].shape[1])
    options = {
        "embedding_directory": embedding_directory, "model_options": dict(model_options or {}),
        "disable_dynamic": disable_dynamic,
    }  # fmt: skip
    try:
        clip = _nano_clip(weights, metadata, options) if nano else _clip_l(weights, options)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:  # sizes that do not fit, told by torch or json
        raise CheckpointError(f"{path} is not a text encoder of the expected layout: {error}") from error
    wanted = (key for key in clip.cond_stage_model.clip_l.transformer.state_dict() if key.startswith("text_model."))
    missing = sorted(set(wanted) - set(weights))
    if missing:
        raise CheckpointError(
            f"{path} is not a whole text encoder: {len(missing)} weights are missing, the first is {missing[0]}; "
            "get the file again"
        )
    clip.patcher.cached_patcher_init = (_load_clip_patcher, (path, embedding_directory, model_options))
    return clip


def _load_clip_patcher(path, embedding_directory=None, model_options=None, disable_dynamic=False):
    """ComfyUI's way to make the same patcher again, on another device for instance."""
    return load_text_encoder(path, embedding_directory, model_options, disable_dynamic).patcher


def _transformers_names(path: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`text_model.*`, whatever stood before it. Raises CheckpointError where there is no CLIP text model."""
    if any(key.endswith(OPENCLIP_MARKER) for key in weights):
        raise CheckpointError(_wrong_clip(path, "an OpenCLIP text encoder (Stable Diffusion 2.x or XL)"))
    found = next((key for key in weights if key.endswith(EMBEDDING)), None)
    if found is None:
        raise CheckpointError(
            f"{path} holds no CLIP text encoder (expected text_model.{EMBEDDING}); use the text encoder of Stable "
            "Diffusion 1.x (CLIP ViT-L/14) or lavie_nano_text_encoder"
        )
    prefix = found.removesuffix(EMBEDDING)
    return {
        "text_model." + key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(tuple(prefix + part for part in PARTS)) and not key.endswith("position_ids")
    }


def _require_clip_l(path: str, weights: dict[str, torch.Tensor]) -> None:
    width = weights["text_model." + EMBEDDING].shape[1]
    layers = len({key.split(".")[3] for key in weights if key.startswith("text_model.encoder.layers.")})
    if (width, layers) != (CLIP_L_WIDTH, CLIP_L_LAYERS):
        raise CheckpointError(_wrong_clip(path, f"a text encoder {width} wide with {layers} layers"))


def _clip_l(weights: dict, options: dict) -> comfy.sd.CLIP:
    kind = comfy.sd.CLIPType.STABLE_DIFFUSION
    return comfy.sd.load_text_encoder_state_dicts([dict(weights)], clip_type=kind, **options)


def _wrong_clip(path: str, what: str) -> str:
    return (
        f"{path} is {what}. LaVie's base and interpolation networks read CLIP ViT-L/14, {CLIP_L_WIDTH} wide with "
        f"{CLIP_L_LAYERS} layers: use the text encoder of Stable Diffusion 1.x. The 1024 wide OpenCLIP ViT-H belongs "
        "to LaVie's super-resolution alone; for that load it with core's Load CLIP, type stable_diffusion"
    )


# The nano encoder


class NanoTextModel(comfy.clip_model.CLIPTextModel):
    """ComfyUI's CLIP text model with a vocabulary of its own size (core's is always 49408)."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        self.text_model.embeddings.token_embedding = operations.Embedding(
            config_dict["vocab_size"], config_dict["hidden_size"], dtype=dtype, device=device
        )


class NanoClipModel(comfy.sd1_clip.SDClipModel):
    """One encoder as SD1ClipModel holds it; `config` is the metadata's."""

    def __init__(self, config: dict, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device, dtype=dtype, max_length=config["max_position_embeddings"], model_class=NanoTextModel,
            textmodel_json_config=dict(config), return_projected_pooled=False, model_options=model_options or {},
            special_tokens={name: config[f"{key}_token_id"] for name, key in SPECIAL_TOKENS.items()},
        )  # fmt: skip


class NanoTokenizer(comfy.sd1_clip.SDTokenizer):
    """ComfyUI's prompt syntax (weights, embeddings, chunks) over the metadata's vocabulary."""

    def __init__(self, vocab: dict, merges: list[str], width: int, embedding_directory=None, tokenizer_data=None):
        source = SimpleNamespace(from_pretrained=lambda path, **options: make_tokenizer(vocab, merges))
        super().__init__(
            embedding_directory=embedding_directory, embedding_size=width, tokenizer_class=source,
            start_token=vocab[START], end_token=vocab[END], tokenizer_data=tokenizer_data or {},
        )  # fmt: skip


def _nano_clip(weights: dict, metadata: dict[str, str], options: dict) -> comfy.sd.CLIP:
    config, tokenizer = json.loads(metadata["lavie.config"]), json.loads(metadata["lavie.tokenizer"])
    target = SimpleNamespace(
        params={},
        clip=functools.partial(comfy.sd1_clip.SD1ClipModel, clip_model=functools.partial(NanoClipModel, config)),
        tokenizer=functools.partial(
            comfy.sd1_clip.SD1Tokenizer,
            tokenizer=functools.partial(NanoTokenizer, tokenizer["vocab"], tokenizer["merges"], config["hidden_size"]),
        ),
    )
    parameters = comfy.utils.calculate_parameters(weights)
    return comfy.sd.CLIP(target, parameters=parameters, state_dict=[dict(weights)], **options)
