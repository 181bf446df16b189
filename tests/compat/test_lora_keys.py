"""LoRA names, text encoders, hooks and torch.compile.

Names are those of published SD 1.x LoRAs, written down here by the structure of SD 1.x; the networks have published
layout, on the meta device.
"""

import comfy.model_patcher
import comfy.sd1_clip
import pytest
import torch
from comfy_extras.nodes_hooks import (
    CreateHookKeyframe,
    CreateHookLora,
    CreateHookLoraModelOnly,
    SetClipHooks,
    SetHookKeyframes,
    SetModelHooksOnCond,
)
from comfy_extras.nodes_torch_compile import TorchCompileModel
from comfyui_lavie.lavie_models import UNetConfig
from comfyui_lavie.lavie_models.comfyui.lora_report import make_report
from comfyui_lavie.lavie_models.comfyui.model import LaVieModelConfig, load_model
from comfyui_lavie.nodes.lora_report import LaVieLoraReport
from comfyui_lavie.tests.compat.kit import edited, guider, noise, predict, random, relative, run, save_unet, step, text
from safetensors.torch import save_file

from nodes import LoraLoader, LoraLoaderModelOnly

ATTENTIONS = [
    *(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
    "mid_block.attentions.0",
    *(f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)),
]
IN_BLOCK = [f"{attention}.to_{part}" for attention in ("attn1", "attn2") for part in ("q", "k", "v", "out.0")]
UNET = [
    f"{attention}.{part}"
    for attention in ATTENTIONS
    for part in [
        "proj_in",
        "proj_out",
        *(f"transformer_blocks.0.{p}" for p in [*IN_BLOCK, "ff.net.0.proj", "ff.net.2"]),
    ]
]
CONVOLUTIONS = [
    *(f"{block}.resnets.{j}.{part}" for block, count in [
        *((f"down_blocks.{i}", 2) for i in range(4)), ("mid_block", 2), *((f"up_blocks.{i}", 3) for i in range(4)),
    ] for j in range(count) for part in ("conv1", "conv2", "time_emb_proj")),
    *(f"{block}.conv_shortcut" for block in [
        "down_blocks.1.resnets.0", "down_blocks.2.resnets.0",
        *(f"up_blocks.{i}.resnets.{j}" for i in range(4) for j in range(3)),
    ]),
    *(f"down_blocks.{i}.downsamplers.0.conv" for i in range(3)),
    *(f"up_blocks.{i}.upsamplers.0.conv" for i in range(3)),
]  # fmt: skip
TEXT = [
    f"text_model.encoder.layers.{layer}.{part}"
    for layer in range(12)
    for part in [*(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2"]
]


@pytest.fixture(scope="module")
def published():
    """(UNet, text encoder) of published layout, without values."""
    config = LaVieModelConfig(UNetConfig.base(), "epsilon")
    config.set_inference_dtype(torch.float16, None)
    unet = config.get_model({}, device=torch.device("meta"))
    return unet, comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16)


def shape_of(module: str, published) -> torch.Size:
    """The weight that a diffusers name means, found through ComfyUI's table for SD 1.x."""
    import comfy.utils

    unet, clip = published
    if module.startswith("text_model."):
        return clip.state_dict()[f"clip_l.transformer.{module}.weight"].shape
    ours = comfy.utils.unet_to_diffusers(unet.model_config.unet_config)[f"{module}.weight"]
    return unet.state_dict()[f"diffusion_model.{ours}"].shape


def lora_of(modules, published, name) -> dict:
    """Rank 1 LoRA without values; ``name(module, part)`` with part "up" or "down" makes the key."""
    lora = {}
    for module in modules:
        out, *inner = shape_of(module, published)
        ones = [1] * (len(inner) - 1)
        lora[name(module, "up")] = torch.empty(out, 1, *ones, device="meta")
        lora[name(module, "down")] = torch.empty(1, *inner, device="meta")
    return lora


def kohya(module, part):
    return f"lora_{'te' if module.startswith('text') else 'unet'}_{module.replace('.', '_')}.lora_{part}.weight"


def diffusers(module, part):
    if module.startswith("text"):
        return f"text_encoder.{module}.lora_linear_layer.{part}.weight"
    layer = module.replace(".to_", ".processor.to_").removesuffix(".0") if ".to_" in module else module
    return f"unet.{layer}_lora.{part}.weight"


def test_a_kohya_lora_of_sd_15_has_264_modules():
    assert (len(UNET), len(TEXT), len(CONVOLUTIONS)) == (192, 72, 86)


@pytest.mark.core("published SD 1.x LoRA: every key, kohya and diffusers names")
@pytest.mark.parametrize("name", [kohya, diffusers])
def test_every_key_of_sd_loras_matches(published, name):
    lora = lora_of(UNET + TEXT, published, name)
    report = make_report(lora, *published)
    assert len(report.spatial) == 2 * len(UNET) and len(report.text) == 2 * len(TEXT)
    assert len(lora) == len(report.spatial) + len(report.text), str(report)


@pytest.mark.core("published SD 1.x LoCon: every convolution")
def test_every_convolution_of_locons_matches(published):
    lora = lora_of(CONVOLUTIONS, published, kohya)
    report = make_report(lora, *published)
    assert len(report.spatial) == len(lora), str(report)


@pytest.mark.core(
    "LoRA with PEFT's names (`to_q.lora_A`)", works=False,
    note="Core has no such names for SD 1.x models: attention keys stay unused, which core logs and LaVie LoRA Report "
    "lists. Save the LoRA with kohya's names.",
)  # fmt: skip
def test_peft_names_are_reported(published):
    lora = lora_of(UNET, published, lambda module, part: f"unet.{module}.lora_{'A' if part == 'down' else 'B'}.weight")
    report = make_report(lora, *published)
    attention = {key for key in lora if ".to_" in key}
    assert set(report.unmatched) == attention and len(report.spatial) == len(lora) - len(attention)
    assert "PEFT" in str(report) and "kohya" in str(report)


def test_report_leaves_nothing_out(published):
    """Temporal layers, another pack's motion modules, other shapes, other models' names: each is listed."""
    temporal = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn_temp_to_q"
    good = lora_of([UNET[0], TEXT[0]], published, kohya)
    lora = {
        **good,
        f"{temporal}.lora_up.weight": torch.empty(320, 1), f"{temporal}.lora_down.weight": torch.empty(1, 320),
        f"{temporal}.alpha": torch.tensor(1.0),
        "down_blocks.0.motion_modules.0.to_q.lora_A.weight": torch.empty(1, 320),
        "lora_unet_joint_blocks_0_attn.lora_up.weight": torch.empty(64, 1),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.empty(99, 1),
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.empty(1, 1280),
        "lora_unet_mid_block_attentions_0_proj_out.diff_b": torch.zeros(1280),
        f"{temporal}.no_such_weight": torch.empty(1),
    }  # fmt: skip
    report = make_report(lora, *published)
    assert len(report.temporal) == 3 and all(key.startswith(temporal) for key in report.temporal)
    assert report.unmatched == ["lora_unet_joint_blocks_0_attn.lora_up.weight"]
    assert set(report.unmatched_temporal) == {
        "down_blocks.0.motion_modules.0.to_q.lora_A.weight", f"{temporal}.no_such_weight",
    }  # fmt: skip
    assert len(report.wrong_shape) == 2 and all("proj_in" in key for key in report.wrong_shape)
    assert len(report.spatial) == 3 and len(report.text) == 2
    said = str(report)
    for key in (*report.temporal, *report.unmatched, *report.unmatched_temporal, *report.wrong_shape):
        assert key in said
    without = make_report(good, published[0])
    assert len(without.text_unchecked) == 2 and "connect the CLIP" in str(without)


def test_report_node(model, files):
    save_file(
        {"lora_unet_mid_block_attentions_0_proj_in.diff": torch.zeros(64, 64, 1, 1), "other": torch.zeros(1)},
        files / "report.safetensors",
    )
    (said,) = run(LaVieLoraReport, model=model, lora_name="report.safetensors")
    assert said.startswith("1 of 2 keys match") and "  other" in said


# --- text encoder, hooks, compile -------------------------------------------------------------------------------------

MIDDLE = "middle_block.1.transformer_blocks.0.attn2.to_v"
UNET_LORA = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.lora_up.weight": 3 * random(64, 2, seed=1),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.lora_down.weight": random(2, 16, seed=2),
}
CHANGE = 3 * random(64, 2, seed=1) @ random(2, 16, seed=2)


@pytest.fixture
def lora(files):
    save_file(UNET_LORA, files / "hook.safetensors")
    return "hook.safetensors"


@pytest.fixture
def changed(files, tiny_files):
    """The tiny base with the LoRA's change in its weights."""
    return edited(tiny_files["base"], files / "edited.safetensors", {f"{MIDDLE}.weight": CHANGE})


@pytest.fixture
def text_lora(files, clip):
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    out, inner = clip.cond_stage_model.state_dict()[key].shape
    up, down = random(out, 2, seed=1), random(2, inner, seed=2)
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, files / "text.safetensors")
    return "text.safetensors", key, up @ down


def encode(clip):
    return clip.encode_from_tokens_scheduled(clip.tokenize("a red fish moving right"))[0][0]


@pytest.mark.core("LoraLoader")
def test_text_encoder_part_of_a_lora(model, clip, text_lora):
    name, key, change = text_lora
    _, patched = run(LoraLoader, model=model, clip=clip, lora_name=name, strength_model=1.0, strength_clip=0.6)
    got, before = encode(patched), encode(clip)
    weight = clip.cond_stage_model.state_dict()[key]
    kept = weight.clone()
    weight += (0.6 * change).to(weight)
    wanted = encode(clip)
    weight.copy_(kept)
    assert relative(got, wanted) < 1e-2 < relative(got, before)


@pytest.mark.core("CreateHookLora, SetClipHooks")
def test_hook_lora_on_the_text_encoder(model, clip, text_lora):
    (hooks,) = run(CreateHookLora, lora_name=text_lora[0], strength_model=0.0, strength_clip=0.6)
    (hooked,) = run(SetClipHooks, clip=clip, schedule_clip=False, apply_to_conds=True, hooks=hooks)
    _, patched = run(LoraLoader, model=model, clip=clip, lora_name=text_lora[0], strength_model=1.0, strength_clip=0.6)
    assert relative(encode(hooked), encode(patched)) < 1e-3 < relative(encode(hooked), encode(clip))


@pytest.mark.core("CreateHookLoraModelOnly, SetModelHooksOnCond")
def test_hook_lora_changes_the_prompt_that_it_hangs_on_alone(model, changed, lora):
    (hooks,) = run(CreateHookLoraModelOnly, lora_name=lora, strength_model=1.0)
    (positive,) = run(SetModelHooksOnCond, conditioning=text(1), hooks=hooks)
    got = step(guider(model, positive, text(2), 3.0), noise())
    with_lora, without = step(guider(changed, text(1)), noise()), step(guider(model, text(2)), noise())
    assert relative(got, without + 3.0 * (with_lora - without)) < 1e-4
    assert relative(got, step(guider(model, text(1), text(2), 3.0), noise())) > 1e-3


@pytest.mark.core("CreateHookKeyframe, SetHookKeyframes")
def test_hook_keyframes_schedule_strength_over_steps(model, changed, lora):
    """Strength 0 until half of the steps' range, then 1."""
    (hooks,) = run(CreateHookLoraModelOnly, lora_name=lora, strength_model=1.0)
    (keyframes,) = run(CreateHookKeyframe, strength_mult=0.0, start_percent=0.0)
    (keyframes,) = run(CreateHookKeyframe, strength_mult=1.0, start_percent=0.5, prev_hook_kf=keyframes)
    (hooks,) = run(SetHookKeyframes, hooks=hooks, hook_kf=keyframes)
    (positive,) = run(SetModelHooksOnCond, conditioning=text(1), hooks=hooks)
    sampling = model.get_model_object("model_sampling")
    early, late = sampling.percent_to_sigma(0.3), sampling.percent_to_sigma(0.7)
    hooked, plain, lora_throughout = guider(model, positive), guider(model, text(1)), guider(changed, text(1))
    assert relative(step(hooked, noise(), early), step(plain, noise(), early)) < 1e-5
    assert relative(step(hooked, noise(), early, late), step(lora_throughout, noise(), late)) < 1e-4
    assert relative(step(hooked, noise(), early, late), step(plain, noise(), late)) > 1e-3


@pytest.mark.core("TorchCompileModel")
@pytest.mark.parametrize("backend", ["inductor", "eager"])  # eager: traced alike, but quickly
def test_compiled_model_computes_the_same_and_keeps_its_lora(files, backend):
    """A LoRA before the compile node and, where that is quick, another after it."""
    config = UNetConfig.base(
        block_channels=(32,), attention_levels=(True,), num_heads=1, layers_per_block=1, context_dim=16
    )
    model = load_model(str(save_unet(files / "smallest.safetensors", config)), "base")
    change = 3 * random(32, 2, seed=1) @ random(2, 16, seed=2)
    for number, module in enumerate(("mid_block_attentions_0", "down_blocks_0_attentions_0")):
        key = f"lora_unet_{module}_transformer_blocks_0_attn2_to_v"
        save_file({f"{key}.diff": change}, files / f"compiled_{number}.safetensors")
    (first,) = run(LoraLoaderModelOnly, model=model, lora_name="compiled_0.safetensors", strength_model=1.0)
    (compiled,) = run(TorchCompileModel, model=first, backend=backend)
    plain, with_first = predict(model), predict(first)
    assert relative(predict(compiled), with_first) < 1e-4 < 1e-3 < relative(with_first, plain)
    if backend == "eager":
        second = {"lora_name": "compiled_1.safetensors", "strength_model": 1.0}
        got, wanted = (predict(run(LoraLoaderModelOnly, model=m, **second)[0]) for m in (compiled, first))
        assert relative(got, wanted) < 1e-4 < 1e-3 < relative(wanted, with_first)
