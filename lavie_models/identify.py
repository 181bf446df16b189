"""What a file of weights is, told from names and shapes: which stage, which layout, or which other kind of model.

Contract: pure functions of a state dict and its metadata; values are not read, so tensors may lie on the meta device.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import count
from typing import NamedTuple

import torch

from .config import ARCHITECTURES, STAGES, UNetConfig
from .errors import CheckpointError
from .metadata import CONFIG, PREDICTION, STAGE, read_object
from .schedule import PREDICTIONS

OWN_KINDS = (*STAGES, "text_encoder", "vae")  # what `lavie.stage` in metadata may say

LDM_STEM, PUBLISHED_STEM = "input_blocks.0.0.weight", "conv_in.weight"
LORA_MARKS = ("lora_up.", "lora_down.", "lora_A.", "lora_B.", ".lora.", "_lora.", "hada_w1", "lokr_w", "oft_blocks")
SUPER_RESOLUTION_MARKS = (".attn_temporal.", "down_temporal_blocks.")
TEXT_MARKS = ("text_model.embeddings.token_embedding.weight", "transformer.resblocks.0.ln_1.weight")
VAE_MARKS = ("decoder.conv_in.weight", "decoder.conv_out.weight")
CHECKPOINT_PARTS = ("first_stage_model.", "cond_stage_model.", "conditioner.")
POSITION_BIAS = "time_rel_pos_bias.relative_attention_bias.weight"


class UNetLayout(NamedTuple):
    """What a LaVie UNet's file says of it; its keys begin with ``prefix``, under published names or ours."""

    config: UNetConfig
    prediction: str
    prefix: str
    published: bool


def identify(state_dict: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> str:
    """Name the kind of a file.

    Returns one of STAGES, "text_encoder", "vae", "sd_checkpoint", "sd_unet", "lora" or "unknown".
    ``lavie.stage`` in the metadata decides; without it, names and shapes do.
    """
    stage = (metadata or {}).get(STAGE)
    if stage in OWN_KINDS:
        return stage
    if _any(state_dict, LORA_MARKS):
        return "lora"
    if _any(state_dict, SUPER_RESOLUTION_MARKS):
        return "super_resolution"
    if _any(state_dict, (".attn_temp.",)):
        return "base" if _any(state_dict, ("attn_temp." + POSITION_BIAS,)) else "interpolation"
    if _find_prefix(state_dict) is not None:
        return "sd_checkpoint" if any(key.startswith(CHECKPOINT_PARTS) for key in state_dict) else "sd_unet"
    if any(key.endswith(TEXT_MARKS) for key in state_dict):
        return "text_encoder"
    return "vae" if any(key.endswith(VAE_MARKS) for key in state_dict) else "unknown"


def _any(state_dict, marks: tuple[str, ...]) -> bool:
    return any(mark in key for key in state_dict for mark in marks)


def unet_prefix(state_dict: dict[str, torch.Tensor]) -> tuple[str, bool]:
    """(what stands before every UNet key, whether names are the published ones). Raises CheckpointError if no UNet."""
    found = _find_prefix(state_dict)
    if found is None:
        raise CheckpointError(f"no UNet in these weights: expected a key that ends in {PUBLISHED_STEM} or {LDM_STEM}")
    return found


def _find_prefix(state_dict) -> tuple[str, bool] | None:
    for key in state_dict:
        if key.endswith(LDM_STEM):
            return key.removesuffix(LDM_STEM), False
    for key in state_dict:
        prefix = key.removesuffix(PUBLISHED_STEM)
        # Autoencoders have convolutions of that name too, but no timestep embedding.
        if prefix != key and prefix + "time_embedding.linear_1.weight" in state_dict:
            return prefix, True
    return None


def detect_config(
    state_dict: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> tuple[UNetConfig, str]:
    """(configuration, prediction) of a LaVie UNet's weights; see `lay_out_unet`, which raises what this raises."""
    layout = lay_out_unet(state_dict, metadata or {}, identify(state_dict, metadata))
    return layout.config, layout.prediction


def lay_out_unet(state_dict: dict[str, torch.Tensor], metadata: dict[str, str], kind: str) -> UNetLayout:
    """The layout of a LaVie UNet of a known kind, from names and shapes, with which its metadata must agree.

    The prediction of a file without metadata is its stage's published one, or v where ComfyUI's ``v_pred`` mark is in
    it. Names and shapes do not tell how many heads an interpolation network has: without metadata the published 8.

    Raises:
        CheckpointError: if the weights are not those of a stage that can be built, or not those that metadata states.
    """
    if kind not in STAGES:
        raise CheckpointError(f"these weights are no LaVie UNet (they look like: {kind.replace('_', ' ')})")
    prediction = metadata.get(PREDICTION, "v" if "v_pred" in state_dict else ARCHITECTURES[kind].prediction)
    if prediction not in PREDICTIONS:
        raise CheckpointError(
            f"{PREDICTION} is {prediction!r}, expected one of {PREDICTIONS}; the file comes from another version"
        )
    stated = _stated_config(metadata) if CONFIG in metadata else None
    prefix, published = unet_prefix(state_dict)
    try:
        found = _config_from_shapes(state_dict, kind, prefix, published)
    except KeyError as error:
        raise CheckpointError(f"the UNet in these weights is incomplete: {error.args[0]} is missing") from error
    except (ValueError, IndexError) as error:  # sizes that do not fit, axes that are not there
        raise CheckpointError(f"these weights fit no {kind} UNet: {error}") from error
    if stated is not None:
        _require_agreement(stated, found)
    return UNetLayout(stated or found, prediction, prefix, published)


def _stated_config(metadata: dict[str, str]) -> UNetConfig:
    try:
        return UNetConfig.from_dict(read_object(metadata, CONFIG))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the configuration in the file's metadata cannot be used: {error}") from error


def _require_agreement(stated: UNetConfig, found: UNetConfig) -> None:
    """Raise CheckpointError where metadata and weights differ.

    Heads show in the weights of the position bias only; of positions, that bias does, rotary ones have no weights.
    """
    with_bias = found.architecture.position_bias
    same_positions = stated.architecture.position_bias == with_bias
    for name in (field.name for field in fields(UNetConfig)):
        ours, theirs = getattr(stated, name), getattr(found, name)
        shows = {"num_heads": with_bias, "positions": not same_positions}.get(name, True)
        if ours != theirs and shows:
            raise CheckpointError(
                f"the file's metadata says {name} = {ours}, its weights have {theirs}; the file is damaged or its "
                "metadata was changed, get it again"
            )


def _config_from_shapes(state_dict, stage: str, prefix: str, published: bool) -> UNetConfig:
    shapes = {key.removeprefix(prefix): value.shape for key, value in state_dict.items() if key.startswith(prefix)}
    levels = _published_levels(shapes) if published else _ldm_levels(shapes)
    stem, last, middle = (
        (PUBLISHED_STEM, "conv_out.weight", "mid_block.attentions.0.transformer_blocks.0.")
        if published
        else (LDM_STEM, "out.2.weight", "middle_block.1.transformer_blocks.0.")
    )
    layers = {layers for _, layers, _ in levels}
    if len(layers) != 1 or 0 in layers:
        raise ValueError(f"expected the same number of residual blocks at every level, got {[n for _, n, _ in levels]}")
    usual = ARCHITECTURES[stage]
    bias = f"{middle}attn_{usual.temporal_name}.{POSITION_BIAS}"
    positions = bias in shapes
    return UNetConfig(
        stage=stage,
        in_channels=shapes[stem][1],
        out_channels=shapes[last][0],
        block_channels=tuple(width for width, _, _ in levels),
        layers_per_block=levels[0][1],
        num_heads=shapes[bias][1] if positions else UNetConfig.num_heads,
        context_dim=shapes[middle + "attn2.to_k.weight"][1],
        attention_levels=tuple(attention for _, _, attention in levels),
        positions=positions,
    )


def _published_levels(shapes) -> list[tuple[int, int, bool]]:
    """(width, residual blocks, whether with transformers) of each level, finest first."""
    levels = []
    for level in count():
        block = f"down_blocks.{level}."
        layers = next(j for j in count() if f"{block}resnets.{j}.conv1.weight" not in shapes)
        if not layers:
            return levels
        width = shapes[f"{block}resnets.0.conv1.weight"][0]
        levels.append((width, layers, f"{block}attentions.0.norm.weight" in shapes))


def _ldm_levels(shapes) -> list[tuple[int, int, bool]]:
    """The same from our names, where a down-sampler ends each level but the last."""
    levels, width, layers, attention = [], 0, 0, False
    for number in count(1):
        block = f"input_blocks.{number}."
        if block + "0.in_layers.2.weight" in shapes:
            width, layers = shapes[block + "0.in_layers.2.weight"][0], layers + 1
            attention = block + "1.norm.weight" in shapes
            continue
        levels.append((width, layers, attention))
        if block + "0.op.weight" not in shapes:
            return levels
        layers = 0
