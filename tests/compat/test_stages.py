"""Interpolation and super-resolution.

The same nodes on the later stages, where there is no SD UNet to set beside them: LoRAs, merges and saved files against
the same change in the weights, windows against clips of their own, patches against what they must leave alone.
"""

import folder_paths
import pytest
import torch
from comfy_extras.nodes_attention_multiply import UNetCrossAttentionMultiply, UNetSelfAttentionMultiply
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, RescaleCFG
from comfy_extras.nodes_model_merging import ModelMergeSimple, ModelSave
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.nodes.model_loaders import WEIGHT_DTYPES
from comfyui_lavie.tests.compat.kit import (
    TINY,
    edited,
    extended,
    given,
    guider,
    noise,
    predict,
    random,
    relative,
    run,
    sample,
    save_unet,
    sigmas,
    step,
    text,
    windows,
)
from comfyui_lavie.tests.compat.test_patches import named
from safetensors.torch import load_file, save_file

from nodes import LoraLoaderModelOnly

LATER = ("interpolation", "super_resolution")
KEY = "middle_block.1.transformer_blocks.0.attn2.to_v.weight"
NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
CFG = 3.0


@pytest.fixture(params=LATER)
def stage(request):
    return request.param


@pytest.fixture
def model(tiny, stage):
    return tiny(stage)


@pytest.mark.core("Load LoRA: kohya (LoRA, LoCon)", stage=LATER)
def test_lora(model, files, tiny_files, stage):
    up, down = 3 * random(64, 2, seed=1), random(2, 16, seed=2)
    save_file({f"{NAME}.lora_up.weight": up, f"{NAME}.lora_down.weight": down}, files / "later.safetensors")
    (patched,) = run(LoraLoaderModelOnly, model=model, lora_name="later.safetensors", strength_model=-0.5)
    wanted = edited(tiny_files[stage], files / "edited.safetensors", {KEY: -0.5 * up @ down}, stage)
    assert relative(predict(patched), predict(wanted)) < 1e-5 < 1e-3 < relative(predict(patched), predict(model))


@pytest.mark.core("ModelSave", stage=LATER)
@pytest.mark.core("ModelMergeSimple, of two models of a stage", stage=LATER)
def test_merge_of_two_and_saved_file(model, files, tiny_files, stage, tmp_path):
    other = load_model(str(save_unet(files / "other.safetensors", TINY[stage], seed=5)), stage)
    (merged,) = run(ModelMergeSimple, model1=model, model2=other, ratio=0.3)
    a, b = load_file(tiny_files[stage]), load_file(files / "other.safetensors")
    wanted = edited(tiny_files[stage], files / "edited.safetensors", {k: 0.7 * (b[k] - a[k]) for k in a}, stage)
    assert relative(predict(merged), predict(wanted)) < 1e-4
    kept = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    try:
        run(ModelSave, model=merged, filename_prefix="merged")
    finally:
        folder_paths.set_output_directory(kept)
    (file,) = tmp_path.glob("*.safetensors")
    assert relative(predict(load_model(str(file), stage)), predict(merged)) < 1e-6


# Node, inputs, inputs with which it must do nothing (None: there are none).
MULTIPLY = {"q": 0.5, "k": 1.5, "v": 0.8, "out": 1.3}
ONES = dict.fromkeys(MULTIPLY, 1.0)
FREEU = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
PATCHES = [
    (FreeU_V2, FREEU, {**FREEU, **dict.fromkeys(FREEU, 1.0)}),
    (UNetSelfAttentionMultiply, MULTIPLY, ONES),
    (UNetCrossAttentionMultiply, MULTIPLY, ONES),
    (RescaleCFG, {"multiplier": 0.7}, {"multiplier": 0.0}),
    (HyperTile, {"tile_size": 32, "swap_size": 1, "max_depth": 1, "scale_depth": False}, None),
    (PerpNeg, {"empty_conditioning": None, "neg_scale": 1.0}, None),
    (ModelSamplingDiscrete, {"sampling": "x0", "zsnr": False}, None),
]
SIZE = 16  # of the latents: HyperTile divides the second level, too


@pytest.mark.parametrize(
    ("node", "inputs", "neutral"),
    [pytest.param(*p, id=named(*p[:2]), marks=pytest.mark.core(named(*p[:2]), stage=LATER)) for p in PATCHES],
)
def test_patch_acts_and_at_its_neutral_setting_does_not(model, stage, node, inputs, neutral):
    if "empty_conditioning" in inputs:
        inputs = {**inputs, "empty_conditioning": text(3, **given(stage, 2, SIZE))}
    seen = {"cfg": CFG, "frames": 2, "size": SIZE}
    plain, (patched,) = predict(model, **seen), run(node, model=model, **inputs)
    assert relative(predict(patched, **seen), plain) > 1e-4
    if neutral is not None:
        assert relative(predict(run(node, model=model, **neutral)[0], **seen), plain) < 1e-5


@pytest.mark.core("TomePatchModel", stage="interpolation")
def test_token_merging_on_interpolation(tiny):
    model = tiny("interpolation")
    merged, nothing = (predict(run(TomePatchModel, model=model, ratio=ratio)[0]) for ratio in (0.5, 0.0))
    assert relative(nothing, predict(model)) < 1e-5 < 1e-4 < relative(merged, nothing)


@pytest.mark.core(
    "TomePatchModel", stage="super_resolution", works=False, note="Merges at the first level alone, where "
    "super-resolution has no attention: changes nothing there.",
)  # fmt: skip
def test_token_merging_finds_nothing_in_super_resolution(tiny):
    model = tiny("super_resolution")
    assert torch.equal(predict(run(TomePatchModel, model=model, ratio=0.5)[0]), predict(model))


@pytest.mark.core("PerturbedAttentionGuidance", stage="super_resolution")
@pytest.mark.core("SelfAttentionGuidance", stage="super_resolution")
def test_attention_guidance_on_super_resolution(tiny):
    model = tiny("super_resolution")
    plain = predict(model, cfg=CFG)
    for node, inputs in (
        (PerturbedAttentionGuidance, {"scale": 3.0}),
        (SelfAttentionGuidance, {"scale": 0.5, "blur_sigma": 2.0}),
    ):
        out = predict(run(node, model=model, **inputs)[0], cfg=CFG)
        assert out.isfinite().all() and relative(out, plain) > 1e-4


REFUSED = "Refused: its frames attend to two other frames, not to themselves."


@pytest.mark.core("PerturbedAttentionGuidance", stage="interpolation", works=False, note=REFUSED)
@pytest.mark.core("SelfAttentionGuidance", stage="interpolation", works=False, note=REFUSED)
@pytest.mark.parametrize(
    ("node", "inputs"),
    [(PerturbedAttentionGuidance, {"scale": 3.0}), (SelfAttentionGuidance, {"scale": 0.5, "blur_sigma": 2.0})],
)
def test_attention_guidance_on_interpolation_is_refused(tiny, node, inputs):
    model = tiny("interpolation")
    with pytest.raises(ValueError, match="interpolation.*use it with the base model"):
        predict(run(node, model=model, **inputs)[0], cfg=CFG)


@pytest.mark.core("ContextWindowsManual", stage=LATER, note="With dim 0; LaVieContextWindows has the right defaults.")
def test_windows_take_the_frames_that_belong_to_them(model, stage):
    x, values = noise(8), given(stage, 8)
    got = step(guider(windows(model), text(1, **values)), x)
    parts = []
    for s in (0, 4):
        part = {k: v[s : s + 4] if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        parts.append(step(guider(model, text(1, **part)), x[s : s + 4]))
    assert relative(got, torch.cat(parts)) < 1e-5


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(node, marks=pytest.mark.core(node.define_schema().node_id, stage=LATER))
        for node in (EasyCacheNode, LazyCacheNode)
    ],
)
def test_caches_skip_steps(model, stage, node):
    inputs = {"reuse_threshold": 3.0, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    calls = []
    cached = run(node, model=model, **inputs)[0]
    cached.add_wrapper_with_key("diffusion_model", "zz", lambda go, *a, **k: calls.append(1) or go(*a, **k))
    out = sample(guider(cached, text(1, **given(stage, 4))), torch.zeros(4, 4, 8, 8), sigmas(model, 8))
    assert out.isfinite().all() and 0 < len(calls) < 8


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        pytest.param(name, bound, marks=pytest.mark.core(f"weight_dtype {name}", stage=LATER))
        for name, bound in (("bf16", 0.05), ("fp16", 0.01), ("fp8_e4m3fn", 0.2))
    ],
)
def test_weight_dtypes(model, tiny, stage, name, bound):
    cast = tiny(stage, WEIGHT_DTYPES[name])
    assert 1e-6 < relative(predict(cast), predict(model)) < bound


@pytest.mark.core(
    "LaVieExtendVideo", stage=LATER, works=False, note="Refused: it goes on with a base model; use LaVieContextWindows."
)
def test_extending_is_the_base_models(model):
    with pytest.raises(ValueError, match="LaVie Context Windows"):
        extended(guider(model, text(1)), random(4, 4, 8, 8, seed=1), 10)
