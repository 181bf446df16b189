"""Names and configurations at published size, both ways: LaVie's manifests, and the image models behind them."""

import math
from dataclasses import replace

import pytest
import torch
from comfyui_lavie.bench import hashed
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.checkpoint import convert_state_dict, detect_config, export_published
from comfyui_lavie.lavie_models.config import STAGES
from comfyui_lavie.lavie_models.key_names import module_names
from comfyui_lavie.lavie_models.unet import is_temporal
from diffusers import UNet2DConditionModel

PUBLISHED = {  # stage: what a file without metadata is taken for
    "base": (UNetConfig.base(), "epsilon"),
    "interpolation": (UNetConfig.interpolation(), "epsilon"),
    "super_resolution": (UNetConfig.super_resolution(), "v"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_published_names_in_both_directions(stage):
    facts = hashed.manifest(stage)
    weights = hashed.meta(facts["state_dict"])
    config, prediction = detect_config(weights)
    assert (config, prediction) == PUBLISHED[stage]
    converted = convert_state_dict(weights, config)
    unet = LaVieUNet(config, device="meta")
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in unet.state_dict().items()}
    assert sum(value.numel() for value in converted.values()) == facts["trainable_parameters"]
    exported = export_published(converted, config)
    assert {key: list(value.shape) for key, value in exported.items()} == facts["state_dict"]
    assert len(exported) == facts["state_dict_entries"]


@pytest.mark.parametrize("stage", STAGES)
def test_small_models_are_detected_and_come_back(stage):
    weights = hashed.meta(hashed.manifest(f"{stage}_small")["state_dict"])
    heads = {} if stage == "interpolation" else {"num_heads": 2}  # which an interpolation file does not tell
    expected = replace(PUBLISHED[stage][0], block_channels=(64, 64, 128, 128), context_dim=48, **heads)
    config, _ = detect_config(weights)
    assert config == expected
    exported = export_published(convert_state_dict(weights, config), config)
    assert {key: value.shape for key, value in exported.items()} == {key: value.shape for key, value in weights.items()}


IMAGE_MODELS = {  # what diffusers' image UNet must be told to be the one that a stage starts from
    "base": {},
    "interpolation": {"in_channels": 8},
    "super_resolution": {
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        "only_cross_attention": (True, True, True, False),
        "num_class_embeds": 1000,
        "use_linear_projection": True,
    },
}


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_not_temporal_is_the_image_model(stage):
    """Names and shapes of the spatial parameters are those of diffusers' image UNet, in both namings."""
    config = PUBLISHED[stage][0]
    sizes = {"in_channels": config.in_channels, "block_out_channels": config.block_channels, "attention_head_dim": 8}
    options = {**sizes, "cross_attention_dim": config.context_dim, **IMAGE_MODELS[stage]}
    with torch.device("meta"):
        image_model = {key: list(value.shape) for key, value in UNet2DConditionModel(**options).state_dict().items()}
    spatial = {k: s for k, s in hashed.manifest(stage)["state_dict"].items() if not is_temporal(k)}
    spatial.pop("temporal_rotary_emb.freqs", None)  # a formula
    assert spatial == image_model
    ours = LaVieUNet(config, device="meta").state_dict()
    assert sum(v.numel() for k, v in ours.items() if not is_temporal(k)) == sum(map(math.prod, image_model.values()))


def test_names_are_unique_on_both_sides():
    nano = UNetConfig.base(block_channels=(64, 96), num_heads=2, attention_levels=(False, True), layers_per_block=1)
    for config in (*(config for config, _ in PUBLISHED.values()), nano):
        names = module_names(config)
        assert len(set(names.values())) == len(names)
