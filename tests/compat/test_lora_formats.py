"""LoRA files.

Every format changes the model exactly as the same change made to its weights would: computed here from the format's own
formula, written into a copy of the checkpoint, and compared by what both models predict.
"""

import pytest
import torch
from comfy_extras.nodes_lora_debug import LoraLoaderBypassModelOnly
from comfyui_lavie.tests.compat.kit import TINY, edited, predict, random, relative, run
from safetensors.torch import load_file, save_file

from nodes import LoraLoaderModelOnly

# One layer of each kind: our name, kohya's name, diffusers' name, shape.
LINEAR = (
    "middle_block.1.transformer_blocks.0.attn2.to_v",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v",
    (64, 16),
)
CONV = (
    "input_blocks.1.0.in_layers.2",
    "lora_unet_down_blocks_0_resnets_0_conv1",
    "unet.down_blocks.0.resnets.0.conv1",
    (32, 32, 3, 3),
)
RANK, ALPHA = 4, 2.0


def matrices(shape):
    """up (out, r), down (r, in...) and their product scaled by alpha / r, in the shape of the weight."""
    up, down = random(shape[0], RANK, seed=1) * 0.5, random(RANK, *shape[1:], seed=2) * 0.5
    return up, down, (up @ down.flatten(1)).reshape(shape) * ALPHA / RANK


def kohya(layer):
    _, name, _, shape = layer
    up, down, change = matrices(shape)
    up = up.reshape(*up.shape, *([1] * (len(shape) - 2)))
    return {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(ALPHA),
    }, change


def diffusers(layer):
    up, down, change = matrices(layer[3])
    return {f"{layer[2]}_lora.up.weight": up, f"{layer[2]}_lora.down.weight": down}, change * RANK / ALPHA


def peft_processor(layer):
    up, down, change = matrices(layer[3])
    return {f"{layer[2]}.lora_B.weight": up, f"{layer[2]}.lora_A.weight": down}, change * RANK / ALPHA


def loha(layer):
    _, name, _, shape = layer
    w1a, w1b = random(shape[0], RANK, seed=1), random(RANK, *shape[1:], seed=2).flatten(1)
    w2a, w2b = random(shape[0], RANK, seed=3), random(RANK, *shape[1:], seed=4).flatten(1)
    weights = {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b, "alpha": torch.tensor(ALPHA)}
    change = (w1a @ w1b) * (w2a @ w2b) * ALPHA / RANK
    return {f"{name}.{key}": value for key, value in weights.items()}, change.reshape(shape)


def lokr(layer):
    _, name, _, shape = layer
    w1, w2 = random(4, 4, seed=1) * 0.3, random(shape[0] // 4, shape[1] // 4, *shape[2:], seed=2) * 0.3
    wide = w1.reshape(4, 4, *([1] * (len(shape) - 2)))
    return {f"{name}.lokr_w1": w1, f"{name}.lokr_w2": w2}, torch.kron(wide, w2)


def full(layer):
    change = random(*layer[3], seed=1) * 0.1
    return {f"{layer[1]}.diff": change}, change


def locon_tucker(layer):
    """LoCon with a core tensor: 1x1 down, 3x3 middle, 1x1 up."""
    _, name, _, (out, inner, height, width) = layer
    up, mid, down = random(out, RANK, seed=1), random(RANK, RANK, height, width, seed=2), random(RANK, inner, seed=3)
    weights = {
        "lora_up.weight": up[..., None, None], "lora_mid.weight": mid, "lora_down.weight": down[..., None, None],
        "alpha": torch.tensor(ALPHA),
    }  # fmt: skip
    change = torch.einsum("or,rskl,si->oikl", up, mid, down) * ALPHA / RANK
    return {f"{name}.{key}": value for key, value in weights.items()}, change


FORMATS = [
    pytest.param(make, layer, id=f"{make.__name__}-{kind}", marks=pytest.mark.core(f"Load LoRA: {title}"))
    for make, title, layers in [
        (kohya, "kohya (LoRA, LoCon)", "linear conv"),
        (diffusers, "diffusers", "linear"),
        (peft_processor, "PEFT with `.processor.` in its names", "linear"),
        (loha, "LyCORIS LoHa", "linear conv"),
        (lokr, "LyCORIS LoKr", "linear conv"),
        (full, "full difference", "linear conv"),
        (locon_tucker, "LyCORIS LoCon with a core tensor", "conv"),
    ]
    for kind, layer in [("linear", LINEAR), ("conv", CONV)]
    if kind in layers.split()
]


@pytest.fixture(scope="module")
def before(tiny_files):
    from comfyui_lavie.lavie_models.comfyui.model import load_model

    return predict(load_model(str(tiny_files["base"]), "base"))


@pytest.mark.parametrize(("make", "layer"), FORMATS)
def test_format_amounts_to_its_formula(model, files, tiny_files, before, make, layer):
    lora, change = make(layer)
    save_file({key: value.contiguous() for key, value in lora.items()}, files / "lora.safetensors")
    strength = -0.7  # negative, too
    got = predict(run(LoraLoaderModelOnly, model=model, lora_name="lora.safetensors", strength_model=strength)[0])
    wanted = edited(tiny_files["base"], files / "edited.safetensors", {f"{layer[0]}.weight": strength * change})
    assert relative(got, predict(wanted)) < 1e-5
    assert relative(got, before) > 1e-3


@pytest.mark.core("Load LoRA: DoRA")
def test_dora_rescales_the_columns(model, files, tiny_files, before):
    """Magnitude per input column: W' = m (W + BA) / |W + BA|, for the layer's whole weight."""
    ours, name, _, shape = LINEAR
    up, down, change = matrices(shape)
    magnitude = random(1, shape[1], seed=8).abs() + 0.5
    lora = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(ALPHA)}
    save_file({**lora, f"{name}.dora_scale": magnitude}, files / "lora.safetensors")
    weight = load_file(tiny_files["base"])[f"{ours}.weight"]
    changed = weight + change
    difference = magnitude * changed / changed.norm(dim=0, keepdim=True) - weight
    got = predict(run(LoraLoaderModelOnly, model=model, lora_name="lora.safetensors", strength_model=1.0)[0])
    wanted = edited(tiny_files["base"], files / "edited.safetensors", {f"{ours}.weight": difference})
    assert relative(got, predict(wanted)) < 1e-4
    assert relative(got, before) > 1e-3


@pytest.mark.core("Load LoRA (Bypass)", note="LoRA, LoHa, LoKr; a full difference has no bypass form in core.")
@pytest.mark.parametrize("layer", [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("make", [kohya, loha, lokr])
def test_bypass_adds_the_same_without_touching_weights(model, files, tiny_files, before, make, layer):
    lora, change = make(layer)
    save_file(lora, files / "lora.safetensors")
    bypassed = run(LoraLoaderBypassModelOnly, model=model, lora_name="lora.safetensors", strength_model=0.5)[0]
    got = predict(bypassed)
    wanted = edited(tiny_files["base"], files / "edited.safetensors", {f"{layer[0]}.weight": 0.5 * change})
    assert relative(got, predict(wanted)) < 1e-5
    assert relative(got, before) > 1e-3
    assert torch.equal(predict(model), before), "the model itself is as it was"


@pytest.mark.core("several LoRAs, one after the other")
def test_stacked_loras_add_up(model, files, tiny_files):
    changes = {}
    for number, (make, layer, strength) in enumerate([(kohya, LINEAR, 0.8), (loha, LINEAR, -0.3), (kohya, CONV, 1.1)]):
        lora, change = make(layer)
        save_file(lora, files / f"stacked_{number}.safetensors")
        model = run(
            LoraLoaderModelOnly, model=model, lora_name=f"stacked_{number}.safetensors", strength_model=strength
        )[0]
        key = f"{layer[0]}.weight"
        changes[key] = changes.get(key, 0) + strength * change
    wanted = edited(tiny_files["base"], files / "edited.safetensors", changes)
    assert relative(predict(model), predict(wanted)) < 1e-5


def test_the_layers_of_these_tests_are_spatial_and_temporal_ones_stay(model):
    assert TINY["base"].context_dim == LINEAR[3][1]
    assert all("temp" not in layer[0] for layer in (LINEAR, CONV))
