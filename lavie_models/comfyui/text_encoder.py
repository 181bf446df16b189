"""Text encoder files as ComfyUI's own CLIP objects.

Contract: what `load_text_encoder` returns is a comfy.sd.CLIP that core's text nodes, LoRA loaders and hooks handle like
the one of Stable Diffusion. CLIP ViT-L/14 (base, interpolation) and OpenCLIP ViT-H (super-resolution) go through
ComfyUI's own loader, whatever names the file uses; our nano encoder uses the same classes with the configuration,
vocabulary and merges that its metadata carries. Which network is to read the text, no file of an encoder tells.

Stable Diffusion 2.x and its x4-upscaler read the penultimate of OpenCLIP ViT-H's 24 layers, normalised, and their
diffusers files leave the last layer out. ComfyUI counts from the end of 24 layers, so a file with 23 gets a last one of
zeros, which passes its input on: with either file the penultimate layer is the 23rd, for clip skip too.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import comfy.clip_model
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import torch

from ..errors import CheckpointError
from ..metadata import TOKENIZER
from ..text_metadata import read_text_config, read_tokenizer
from ..tokenizer import END, START, make_tokenizer
from ..weights_file import WeightsFile, inspect_weights
from .files import building, open_model_file, require_layout

PUBLISHED = ((768, 12), (1024, 23), (1024, 24))  # (width, layers): CLIP ViT-L/14; OpenCLIP ViT-H, shortened or whole
LAYER = "text_model.encoder.layers."
EMBEDDING = "embeddings.token_embedding.weight"
SPECIAL_TOKENS = {"start": "bos", "end": "eos", "pad": "pad"}  # ComfyUI's names: transformers' names
PARTS = ("embeddings.", "encoder.", "final_layer_norm.")  # of a CLIP text model
OPENCLIP_EMBEDDING = "token_embedding.weight"
OPENCLIP_PARTS = ("transformer.resblocks.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
PROJECTIONS = ("text_projection.weight", "text_projection")  # the second as old ComfyUI saved it, transposed
RIGHT_ONES = (
    "LaVie's base and interpolation networks read CLIP ViT-L/14 of Stable Diffusion 1.x (768 wide, 12 layers), "
    "super-resolution reads OpenCLIP ViT-H of Stable Diffusion 2.x or its x4-upscaler (1024 wide, 24 layers or 23), "
    "the nano models read lavie_nano_text_encoder: use one of these"
)


def load_text_encoder(path: str, embedding_directory=None, model_options=None, disable_dynamic=False) -> comfy.sd.CLIP:
    """Load a text encoder file. Raises CheckpointError saying what the file is if it is anything else, or not whole.

    `embedding_directory`: folders with textual inversions; `model_options`: ComfyUI's, such as load_device or dtype.
    """
    file = open_model_file(path, "text_encoder")
    options = {
        "embedding_directory": embedding_directory, "model_options": dict(model_options or {}),
        "disable_dynamic": disable_dynamic,
    }  # fmt: skip
    build = _nano_clip if TOKENIZER in file.metadata else _published_clip
    with building(path, "a text encoder"):
        weights = _transformers_names(path, file.weights)
        inspect_weights(path, weights)
        clip = build(file, weights, options)
    clip.patcher.cached_patcher_init = (_load_clip_patcher, (path, embedding_directory, model_options))
    return clip


def _load_clip_patcher(path, embedding_directory=None, model_options=None, disable_dynamic=False):
    """ComfyUI's way to make the same patcher again, on another device for instance."""
    return load_text_encoder(path, embedding_directory, model_options, disable_dynamic).patcher


def _transformers_names(path: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`text_model.*` and a projection if there is one, whatever the names and what stood before them.

    Raises CheckpointError where there is no CLIP text model.
    """
    if (prefix := _prefix(weights, EMBEDDING)) is not None:
        outer = prefix.removesuffix("text_model.")
        return {
            "text_model." + key.removeprefix(prefix): value
            for key, value in weights.items()
            if key.startswith(tuple(prefix + part for part in PARTS)) and not key.endswith("position_ids")
        } | {name: weights[outer + name] for name in PROJECTIONS if outer + name in weights}
    if (prefix := _prefix(weights, OPENCLIP_EMBEDDING)) is not None:
        parts = tuple(prefix + part for part in OPENCLIP_PARTS)
        text = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(parts)}
        return comfy.utils.clip_text_transformers_convert(text, "", "")
    raise CheckpointError(f"{path} holds no CLIP text encoder (expected text_model.{EMBEDDING}); {RIGHT_ONES}")


def _prefix(weights: dict[str, torch.Tensor], ending: str) -> str | None:
    """What stands before the first key with this ending."""
    return next((key.removesuffix(ending) for key in weights if key.endswith(ending)), None)


def _layers(weights: dict[str, torch.Tensor]) -> int:
    return len({key.split(".")[3] for key in weights if key.startswith(LAYER)})


def _require_published(path: str, weights: dict[str, torch.Tensor]) -> None:
    width, layers = weights["text_model." + EMBEDDING].shape[1], _layers(weights)
    if (width, layers) not in PUBLISHED:
        raise CheckpointError(f"{path} is a text encoder {width} wide with {layers} layers; {RIGHT_ONES}")


def _fill_in(weights: dict[str, torch.Tensor]) -> None:
    """Add what files of Stable Diffusion leave out and ComfyUI would otherwise take from unwritten memory."""
    if _layers(weights) == 23:
        last = {key: value for key, value in weights.items() if key.startswith(f"{LAYER}22.")}
        weights.update({key.replace(".22.", ".23."): torch.zeros_like(value) for key, value in last.items()})
    embedding = weights["text_model." + EMBEDDING]
    # Of the pooled output, which these models do not read.
    weights.setdefault("text_projection.weight", torch.eye(embedding.shape[1], dtype=embedding.dtype))


def _published_clip(file: WeightsFile, weights: dict, options: dict) -> comfy.sd.CLIP:
    _require_published(str(file.path), weights)
    _fill_in(weights)
    kind = comfy.sd.CLIPType.STABLE_DIFFUSION
    clip = comfy.sd.load_text_encoder_state_dicts([dict(weights)], clip_type=kind, **options)
    encoder = getattr(clip.cond_stage_model, clip.cond_stage_model.clip).transformer
    require_layout("text encoder", _without_projection(weights), _without_projection(encoder.state_dict()))
    return clip


def _without_projection(weights: dict) -> dict:
    """Whose name is one of two, and which these models do not read."""
    return {key: value for key, value in weights.items() if key not in PROJECTIONS}


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


def _nano_clip(file: WeightsFile, weights: dict, options: dict) -> comfy.sd.CLIP:
    config = read_text_config(file.metadata)
    vocab, merges = read_tokenizer(file.metadata, config["vocab_size"])
    expected = NanoTextModel(config, None, "meta", comfy.ops.disable_weight_init).state_dict()
    require_layout("text encoder", _without_projection(file.weights), _without_projection(expected))
    _fill_in(weights)
    target = SimpleNamespace(
        params={},
        clip=functools.partial(comfy.sd1_clip.SD1ClipModel, clip_model=functools.partial(NanoClipModel, config)),
        tokenizer=functools.partial(
            comfy.sd1_clip.SD1Tokenizer,
            tokenizer=functools.partial(NanoTokenizer, vocab, merges, config["hidden_size"]),
        ),
    )
    parameters = comfy.utils.calculate_parameters(weights)
    return comfy.sd.CLIP(target, parameters=parameters, state_dict=[dict(weights)], **options)
