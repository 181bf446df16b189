"""Files of weights: names in both directions at published size, identification, and every bad file with its message."""

import argparse
import json
import os

import pytest
import torch
from comfyui_lavie.bench import hashed
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.checkpoint import (
    CheckpointError,
    convert_state_dict,
    detect_config,
    export_published,
    identify,
    load_checkpoint,
)
from comfyui_lavie.lavie_models.comfyui.files import open_model_file
from comfyui_lavie.lavie_models.positions import rotary_frequencies
from safetensors.torch import save_file

SMALL = UNetConfig.base(block_channels=(64, 64, 128, 128), num_heads=2, context_dim=48)
NANO = UNetConfig.base(
    block_channels=(32, 64, 96), attention_levels=(False, True, True), num_heads=1, layers_per_block=1, context_dim=16
)
ROTARY = "mid_block.attentions.0.transformer_blocks.0.attn_temp.rotary_emb.freqs"


def zeros(*shapes):
    return {key: torch.zeros(shape) for key, shape in shapes}


@pytest.fixture(scope="module")
def ours():
    torch.manual_seed(0)
    return {key: value.contiguous() for key, value in LaVieUNet(NANO).state_dict().items()}


@pytest.fixture(scope="module")
def published(ours):
    return export_published(ours, NANO)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(got[key], value), key


# Names


def test_values_survive_both_ways(ours, published):
    assert_same(convert_state_dict(published, NANO), ours)
    assert torch.equal(published[ROTARY], rotary_frequencies())
    without = {key: value for key, value in published.items() if not key.endswith("rotary_emb.freqs")}
    assert_same(convert_state_dict(without, NANO), ours)


@pytest.mark.parametrize("prefix", ["", "module.", "unet.", "ema.", "_orig_mod.module.", "model.diffusion_model."])
@pytest.mark.parametrize("names", ["ours", "published"])
def test_prefixes(prefix, names, ours, request):
    weights = {prefix + key: value for key, value in request.getfixturevalue(names).items()}
    assert detect_config(weights) == (NANO, "epsilon")
    assert_same(convert_state_dict(weights, NANO), ours)


@pytest.mark.parametrize("wrapper", ["ema", "state_dict", "model"])
def test_nested_weights(wrapper, ours, published):
    assert_same(convert_state_dict({wrapper: published, "step": 3}, NANO), ours)


def test_a_unet_beside_other_models(ours):
    """What core's checkpoint-saving nodes write: prefixed, with VAE and text encoder, and a mark for v-prediction."""
    weights = {f"model.diffusion_model.{key}": value for key, value in ours.items()}
    weights |= zeros(("first_stage_model.decoder.conv_in.weight", (4, 4, 3, 3)), ("v_pred", (0,)))
    assert identify(weights) == "base"
    assert detect_config(weights) == (NANO, "v")
    assert_same(convert_state_dict(weights, NANO), ours)


def test_unknown_and_missing_keys_are_named(published):
    broken = dict(published, extra=torch.zeros(1))
    del broken["conv_out.bias"]
    with pytest.raises(CheckpointError, match=r"unknown: extra; missing: out\.2\.bias\."):
        convert_state_dict(broken, NANO)
    with pytest.raises(CheckpointError, match="and [0-9]+ more"):
        convert_state_dict(
            {"conv_in.weight": published["conv_in.weight"]} | zeros(("time_embedding.linear_1.weight", (1,))), NANO
        )
    with pytest.raises(CheckpointError, match="no UNet in these weights"):
        convert_state_dict(zeros(("a", (1,))), NANO)


def test_wrong_shapes_are_named(published):
    with pytest.raises(CheckpointError, match=r"input_blocks\.0\.0\.bias has shape \(5,\).*needs \(32,\)"):
        convert_state_dict({**published, "conv_in.bias": torch.zeros(5)}, NANO)


def test_foreign_rotary_tables_are_refused(published):
    convert_state_dict({**published, ROTARY: rotary_frequencies().half()}, NANO)
    with pytest.raises(CheckpointError, match="other positions"):
        convert_state_dict({**published, ROTARY: rotary_frequencies() * 2}, NANO)
    with pytest.raises(CheckpointError, match=r"\(8,\), expected \(16,\)"):
        convert_state_dict({**published, ROTARY: torch.ones(8)}, NANO)


# Kinds


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("base", hashed.meta(hashed.manifest("base")["state_dict"])),
        ("interpolation", hashed.meta(hashed.manifest("interpolation")["state_dict"])),
        ("super_resolution", hashed.meta(hashed.manifest("super_resolution")["state_dict"])),
        ("sd_unet", zeros(("model.diffusion_model.input_blocks.0.0.weight", (320, 4, 3, 3)))),
        ("sd_unet", zeros(("conv_in.weight", (320, 4, 3, 3)), ("time_embedding.linear_1.weight", (1280, 320)))),
        (
            "sd_checkpoint",
            zeros(
                ("model.diffusion_model.input_blocks.0.0.weight", (320, 4, 3, 3)),
                ("first_stage_model.decoder.conv_in.weight", (512, 4, 3, 3)),
                ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", (49408, 8)),
            ),
        ),
        ("text_encoder", zeros(("text_model.embeddings.token_embedding.weight", (10, 8)))),
        ("text_encoder", zeros(("cond_stage_model.model.transformer.resblocks.0.ln_1.weight", (8,)))),
        ("vae", zeros(("decoder.conv_in.weight", (512, 4, 3, 3)), ("encoder.conv_in.weight", (128, 3, 3, 3)))),
        ("vae", zeros(("first_stage_model.decoder.conv_in.weight", (512, 4, 3, 3)))),
        ("lora", zeros(("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", (320, 4, 1, 1)))),
        ("lora", zeros(("base_model.model.conv_in.lora_A.weight", (4, 8)))),
        ("unknown", zeros(("weight", (1,)))),
    ],
)
def test_identify(kind, weights):
    assert identify(weights) == kind


def test_metadata_decides():
    for kind in ("base", "interpolation", "super_resolution", "text_encoder", "vae"):
        assert identify(zeros(("weight", (1,))), {"lavie.stage": kind}) == kind
    assert identify(zeros(("weight", (1,))), {"lavie.stage": "poem"}) == "unknown"


def test_configuration_and_prediction_from_metadata(ours):
    config = {"lavie.stage": "base", "lavie.config": json.dumps(NANO.to_dict()), "lavie.prediction": "v"}
    assert detect_config(ours, config) == (NANO, "v")
    with pytest.raises(CheckpointError, match="lavie.prediction is 'x0'"):
        detect_config(ours, {**config, "lavie.prediction": "x0"})
    for text in ('{"colour": 1}', "[1]", "{", '{"num_heads": 3}'):
        with pytest.raises(CheckpointError, match="metadata cannot be used"):
            detect_config(ours, {**config, "lavie.config": text})


def test_incomplete_weights_have_no_configuration(ours):
    for key, message in (
        ("out.2.weight", "out.2.weight is missing"),
        ("input_blocks.1.0.in_layers.2.weight", "fit no"),
    ):
        with pytest.raises(CheckpointError, match=message):
            detect_config({name: value for name, value in ours.items() if name != key})
    with pytest.raises(CheckpointError, match="look like: vae"):
        detect_config(zeros(("decoder.conv_in.weight", (512, 4, 3, 3))))


# Files


def test_files_come_back(tmp_path, ours, published):
    save_file(ours, tmp_path / "a.safetensors", metadata={"lavie.stage": "base", "lavie.step": "7"})
    weights, metadata = load_checkpoint(tmp_path / "a.safetensors")
    assert_same(weights, ours)
    assert metadata == {"lavie.stage": "base", "lavie.step": "7"}
    nested = {"ema": published, "model": ours, "args": argparse.Namespace(lr=1e-4), "step": 9}
    for name, content, options in (
        ("plain.pt", published, {}),
        ("nested.ckpt", nested, {}),
        ("old.pth", nested, {"_use_new_zipfile_serialization": False}),
    ):
        torch.save(content, tmp_path / name, **options)
        weights, metadata = load_checkpoint(tmp_path / name)
        assert_same(weights, published)
        assert metadata == {}


class Evil:
    """Unpickled carelessly, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_not_run(tmp_path):
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save({"weight": torch.zeros(1), "evil": Evil(tmp_path / "ran")}, tmp_path / "evil.pt", **options)
        with pytest.raises(CheckpointError, match="pickled Python objects.*not loaded.*safetensors"):
            load_checkpoint(tmp_path / "evil.pt")
        assert not (tmp_path / "ran").exists()


def test_truncated_files(tmp_path, ours):
    save_file(ours, tmp_path / "whole.safetensors")
    torch.save(ours, tmp_path / "whole.pt")
    torch.save(ours, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, keep in (("whole.safetensors", 0.9), ("whole.safetensors", 0.001), ("whole.pt", 0.9), ("old.pt", 0.9)):
        content = (tmp_path / name).read_bytes()
        path = tmp_path / f"cut_{name}"
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(CheckpointError, match=r"truncated.*download it again") as caught:
            load_checkpoint(path)
        if name.endswith("safetensors"):
            assert f"the file has {int(len(content) * keep)}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.safetensors", b"", r"is empty \(0 bytes\)"),
        ("empty.pt", b"", r"is empty \(0 bytes\)"),
        ("page.safetensors", b"<!DOCTYPE html><html>not found</html>", "does not begin like a safetensors file"),
        ("page.pt", b"<!DOCTYPE html><html>not found</html>", "neither a safetensors file nor one that torch.save"),
        ("broken.safetensors", (9).to_bytes(8, "little") + b'{"a": 1]}' + b"\0" * 64, "damaged safetensors file"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / name)


def test_missing_file_and_no_tensors(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        load_checkpoint(tmp_path / "absent.safetensors")
    for content in ({"step": 1}, [torch.zeros(1)], torch.zeros(1)):
        torch.save(content, tmp_path / "none.pt")
        with pytest.raises(CheckpointError, match="holds no weights"):
            load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (zeros(("m.attn_temp.to_q.weight", (8, 8))), "temporal interpolation network.*Load LaVie Interpolation Model"),
        (zeros(("m.attn_temporal.to_q.weight", (8, 8))), "super-resolution network.*Load LaVie Super-Resolution Model"),
        (
            zeros(
                ("model.diffusion_model.input_blocks.0.0.weight", (8, 4, 3, 3)),
                ("first_stage_model.decoder.conv_in.weight", (8, 4, 3, 3)),
            ),
            "a Stable Diffusion checkpoint.*Load Checkpoint",
        ),
        (zeros(("decoder.conv_in.weight", (8, 4, 3, 3))), "is a VAE, but LaVie's base network.*Load LaVie VAE"),
        (zeros(("text_model.embeddings.token_embedding.weight", (9, 8))), "a text encoder.*Load LaVie Text Encoder"),
        (zeros(("lora_unet_conv_in.lora_up.weight", (8, 4))), "a LoRA.*Load LoRA"),
        (zeros(("poem", (1,))), "no model that this pack knows"),
    ],
)
def test_the_base_loader_names_what_else_a_file_is(tmp_path, weights, message):
    save_file(weights, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_model_file(str(tmp_path / "file.safetensors"), "base")
