"""The UNets compute what the reference computes: outputs, activations on the way, single modules, small parts."""

import functools
import json

import numpy as np
import pytest
import torch
from comfyui_lavie.bench import hashed
from comfyui_lavie.bench.hashed import DATA, GoldenCase, to_frames
from comfyui_lavie.lavie_models.attention import RelativePositionBias
from comfyui_lavie.lavie_models.positions import (
    FramePositions,
    relative_position_buckets,
    rotary_frequencies,
    timestep_embedding,
)
from comfyui_lavie.lavie_models.resnet import ClipLayout, ResBlock, TemporalModule, clip_group_norm
from comfyui_lavie.lavie_models.transformer import Condition, SpatialTransformer
from einops import rearrange

FORWARD_CASES = ("base_forward", "base_forward_oddsize", "base_single_frame", "interpolation_forward", "vsr_forward")
MODULES = {  # golden case: {published name: ours}
    "base_modules_small_input": {
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.1.attentions.0": "input_blocks.4.1",
        "mid_block.attentions.0": "middle_block.1",
        "up_blocks.3.resnets.2": "output_blocks.11.0",
        "conv_norm_out": "out.0",
    },
    "vsr_modules_small_input": {
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_temporal_blocks.0": "down_temporal_blocks.0",
        "down_blocks.1.attentions.0": "input_blocks.4.1",
        "up_blocks.0.attentions.0": "output_blocks.0.1",
        "conv_norm_out": "out.0",
    },
}
MODULES["interpolation_modules_small_input"] = MODULES["base_modules_small_input"]


@functools.cache
def unet_of(name):
    """The hashed UNet of a golden case's stage."""
    return hashed.small_unet(case(name).config())


@functools.cache
def case(name):
    return GoldenCase(name)


def to_clips(x, clips):
    return rearrange(x, "(b f) c h w -> b c f h w", b=clips)


def watched_modules(config):
    """{name of a golden activation: our module whose output it is}."""
    levels, blocks = len(config.block_channels), config.layers_per_block + 1
    modules = {"time_embedding": "time_embed", "conv_in": "input_blocks.0.0", "mid_block": "middle_block.2"}
    for level in range(levels):
        last = level == levels - 1  # the others end with a down-sampler, an input block of its own
        top = f"input_blocks.{(level + 1) * blocks - last}"
        # the last level of super-resolution ends with a transformer
        modules[f"down_blocks.{level}"] = f"{top}.{int(last and config.attention_levels[level])}"
        upsampled, attention = not last, config.attention_levels[levels - 1 - level]
        modules[f"up_blocks.{level}"] = f"output_blocks.{(level + 1) * blocks - 1}.{attention + upsampled}"
        if config.architecture.temporal_convolutions:
            modules.update({name: name for way in ("down", "up") if (name := f"{way}_temporal_blocks.{level}")})
    if config.architecture.temporal_convolutions:
        modules.update({"mid_temporal_block": "mid_temporal_block", "class_embedding": "label_emb"})
    return modules


def forward(unet, golden, keep=None):
    """The output of a forward case, in our layout; ``keep`` collects activations by golden name."""
    hooks = []
    if keep is not None:
        for name, module in watched_modules(unet.config).items():
            hook = lambda module, args, out, name=name: keep.update({name: out})  # noqa: E731
            hooks.append(unet.get_submodule(module).register_forward_hook(hook))
    try:
        with torch.no_grad():
            return unet(**golden.arguments())
    finally:
        for hook in hooks:
            hook.remove()


def test_hashed_tensors_match_their_vectors():
    expected = {name: value for name, value in json.loads((DATA / "hashed_vectors.json").read_text()).items()}
    got = {
        "u('input/sample',4) float64 hex": hashed.uniform("input/sample", 4),
        "v('input/sample',4) float64 hex": hashed.centred("input/sample", 4),
        "tensor('input/sample',(2,3)) float32 hex": hashed.tensor("input/sample", (2, 3)),
        "weight('conv_in.weight',(2,4,3,3))[1,:,2,2] float32 hex": hashed.weight("conv_in.weight", (2, 4, 3, 3))[
            1, :, 2, 2
        ],
        "weight('conv_in.bias',(4,)) float32 hex": hashed.weight("conv_in.bias", (4,)),
        "weight('conv_norm_out.weight',(4,)) float32 hex": hashed.weight("conv_norm_out.weight", (4,)),
        "weight('x.relative_attention_bias.weight',(2,2)) float32 hex": hashed.weight(
            "x.relative_attention_bias.weight", (2, 2)
        ),
        "weight('conv_in.bias',(2,),prefix='holdout/') float32 hex": hashed.weight("conv_in.bias", (2,), "holdout/"),
    }
    assert expected.pop("crc32('input/sample')") == 3520540597
    assert {name: [float(x).hex() for x in np.asarray(value).ravel()] for name, value in got.items()} == expected


def test_timestep_embedding():
    golden = case("timestep_embedding")
    timesteps = torch.tensor(golden.facts["timesteps"], dtype=torch.float64)
    for name, expected in golden.expected.items():
        embedding = timestep_embedding(timesteps, int(name.removeprefix("dim")))
        # No rounding floor is recorded. At timestep 999 an angle's last bit is 6e-5.
        torch.testing.assert_close(embedding, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(embedding[:3], expected[:3], atol=2e-6, rtol=0)


def test_rotary():
    golden = case("rotary")
    torch.testing.assert_close(rotary_frequencies(), golden.expected["freqs"], atol=0, rtol=2e-7)
    for name in golden.facts["inputs"]:
        x = golden.input(name).transpose(1, 2)  # (B, heads, F, size) -> (B, F, heads, size)
        rotated = FramePositions.of(x.shape[1]).rotate(x)
        golden.assert_close(rotated.transpose(1, 2), f"out/{name}")


@pytest.mark.parametrize("frames", [16, 61])
def test_relative_position_bias(frames):
    golden = case("relative_position_bias")
    buckets = relative_position_buckets(frames)
    assert torch.equal(buckets, golden.expected[f"bucket_f{frames}"].to(buckets.dtype))
    facts = golden.facts["weight"]
    bias = RelativePositionBias(facts["shape"][1], torch.nn)
    bias.relative_attention_bias.weight.data = hashed.weight(facts["hash_name"], facts["shape"])
    assert torch.equal(bias(buckets).reshape(-1, frames, frames), golden.expected[f"bias_f{frames}"])


@pytest.mark.parametrize("name", FORWARD_CASES)
def test_forward_and_activations(name):
    golden, unet, kept = case(name), unet_of(name), {}
    clips, frames = golden.input("sample").shape[0], golden.input("sample").shape[2]
    out = forward(unet, golden, kept)
    expected = {key.removeprefix("act/") for key in golden.expected if key.startswith("act/")}
    assert set(kept) == expected
    for key in {"time_embedding", "class_embedding"} & set(kept):
        embedding = kept.pop(key)
        for index in range(frames):  # every frame carries its clip's embedding
            golden.assert_close(embedding[index::frames], f"act/{key}")
    for key, value in kept.items():
        golden.assert_close(to_clips(value, clips), f"act/{key}")
    golden.assert_close(to_clips(out, clips), "output")


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in MODULES.items() for name in names])
def test_single_modules_on_small_inputs(file, name):
    golden, unet = case(file), unet_of(file)
    module, x = unet.get_submodule(MODULES[file][name]), golden.input(name)
    clips, frames = x.shape[0], x.shape[2]
    layout = ClipLayout(clips, frames)
    with torch.no_grad():
        if isinstance(module, ResBlock | TemporalModule):
            embedding = golden.input("temb").repeat_interleave(frames, 0)
            first = isinstance(module, TemporalModule)  # called with the layout in front
            out = module(layout, to_frames(x), embedding) if first else module(to_frames(x), embedding, layout)
        elif isinstance(module, SpatialTransformer):
            text = golden.input("encoder_hidden_states")
            options = {"block": ("input", 0), "transformer_index": 0}
            positions = FramePositions.of(frames) if unet.config.architecture.rotary else None
            out = module(to_frames(x), Condition(layout, text, positions, options=options))
        else:
            out = clip_group_norm(module, to_frames(x), layout)
    golden.assert_close(to_clips(out, clips), f"out/{name}")


def test_two_clips_equal_each_alone():
    golden, unet = case("base_forward"), unet_of("base_forward")
    x, text = to_frames(golden.input("sample")), golden.input("encoder_hidden_states")
    timesteps = torch.tensor(golden.facts["timestep"])
    with torch.no_grad():
        both = unet(x, timesteps, text, num_frames=5)
        alone = [unet(x[5 * i : 5 * i + 5], timesteps[i : i + 1], text[i : i + 1], num_frames=5) for i in range(2)]
    tolerance = 10 * golden.facts["fp64_max_abs_diff"]["output"]
    torch.testing.assert_close(both, torch.cat(alone), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_near(dtype):
    golden = case("base_forward")
    unet = hashed.small_unet(golden.config()).to(dtype)
    x, text = golden.input("sample").to(dtype), golden.input("encoder_hidden_states").to(dtype)
    with torch.no_grad():
        out = unet(to_frames(x), torch.tensor(golden.facts["timestep"]), text, num_frames=x.shape[2])
    assert out.dtype == dtype and out.isfinite().all()
    error = (to_clips(out.float(), x.shape[0]) - golden.expected["output"]).std() / golden.expected["output"].std()
    assert error < {torch.bfloat16: 0.08, torch.float16: 0.01}[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_128_frames(dtype):
    unet = hashed.small_unet(case("base_forward").config()).to(dtype)
    x = hashed.tensor("input/long/sample", (128, 4, 8, 8)).to(dtype)
    text = hashed.tensor("input/long/text", (1, 77, 48)).to(dtype)
    with torch.no_grad():
        out = unet(x, torch.tensor([500]), text, num_frames=128)
    assert out.shape == x.shape and out.isfinite().all()
    assert out.float().std(dim=0).min() > 1e-3  # frames differ
