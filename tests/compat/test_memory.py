"""Memory.

What --lowvram, --novram and a full GPU do to a model: weights stay behind, and are cast and patched as they are used.
ComfyUI leaves models whole on a CPU, so its loader is given here the budgets that it works out for a GPU.
"""

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from comfyui_lavie.lavie_models.comfyui.model import LaVieModelConfig
from comfyui_lavie.lavie_models.published import PUBLISHED
from comfyui_lavie.tests.compat.kit import FRAMES, TINY, noise, random, relative, run, text
from safetensors.torch import load_file, save_file

from nodes import LoraLoaderModelOnly

STAGES = ("base", "interpolation", "super_resolution")
NOVRAM = 0.1  # bytes: what core's load_models_gpu asks for under --novram
CPU = torch.device("cpu")
NEEDS_GPU = "The loader's work with the budget of that option; the options themselves do nothing on a CPU."


@pytest.fixture(params=STAGES)
def stage(request):
    return request.param


@pytest.fixture
def model(tiny, stage):
    return tiny(stage)


@pytest.fixture
def patched(model, files, stage):
    """With a LoRA for text attention, temporal attention and convolutions."""
    block = "diffusion_model.middle_block.1.transformer_blocks.0"
    layers = [f"{block}.attn2.to_v", f"{block}.attn_{TINY[stage].architecture.temporal_name}.to_v"]
    layers += ["diffusion_model.input_blocks.0.0", "diffusion_model.out.2"]
    weights = model.model.state_dict()
    changes = {f"{name}.diff": random(*weights[f"{name}.weight"].shape, seed=1) for name in layers}
    save_file(changes, files / "offloaded.safetensors")
    (patched,) = run(LoraLoaderModelOnly, model=model, lora_name="offloaded.safetensors", strength_model=1.0)
    assert set(patched.patches) == {f"{name}.weight" for name in layers}
    return patched


def load(model, budget: float) -> None:
    """As core's load_models_gpu has it done for a GPU; 0: whole."""
    comfy.model_management.LoadedModel(model).model_load(budget)


@torch.no_grad()
def applied(model) -> torch.Tensor:
    """The network's prediction; sampling would first load the model whole, on a CPU."""
    config = model.model.model_config.lavie_config
    more = {"c_concat": random(FRAMES, config.in_channels - 4, 8, 8, seed=11)} if config.in_channels > 4 else {}
    if config.architecture.noise_levels:
        more["y"] = torch.tensor([50])
    model.pre_run()
    return model.model.apply_model(
        noise(), torch.ones(FRAMES), c_crossattn=text(1, config.context_dim)[0][0],
        transformer_options={"cond_or_uncond": [0], "wrappers": {}}, **more,
    )  # fmt: skip


def left_behind(model) -> list:
    return [module for module in model.model.modules() if hasattr(module, "prev_comfy_cast_weights")]


@pytest.mark.core("every weight goes through ComfyUI's casting", stage=STAGES)
def test_no_weight_is_used_but_through_casting(model):
    """A weight that a layer reads by itself would be on the wrong device, in the wrong dtype, and without its LoRA."""
    names = {name for name, _ in model.model.named_parameters()}
    seen = set()
    for name in names:
        model.add_weight_wrapper(name, lambda weight, name=name: seen.add(name) or weight)
    load(model, NOVRAM)
    applied(model)
    model.detach()
    assert seen == names and not dict(model.model.diffusion_model.named_buffers())


def test_no_weight_of_text_encoder_and_vae_is_outside_casting_layers(clip, nano_vae):
    """Which core's loader keeps behind likewise."""
    for network in (clip.cond_stage_model.clip_l.transformer, nano_vae.first_stage_model):
        owners = {name for name, module in network.named_modules() if list(module.parameters(recurse=False))}
        assert owners and all(hasattr(network.get_submodule(name), "comfy_cast_weights") for name in owners)


@pytest.mark.core("--novram: all weights kept behind, LoRAs included", stage=STAGES, note=NEEDS_GPU)
@pytest.mark.core("--lowvram: part of the weights kept behind, LoRAs included", stage=STAGES, note=NEEDS_GPU)
def test_weights_left_behind_change_no_number(model, patched):
    load(patched, 0)
    wanted = applied(patched)
    assert not left_behind(patched)
    patched.detach()
    some, everything = patched.model_size() / 2, NOVRAM
    counts = []
    for budget in (some, everything):
        load(patched, budget)
        counts.append(len(left_behind(patched)))
        assert patched.model.model_lowvram and relative(applied(patched), wanted) < 1e-5
        patched.detach()
    layer = patched.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_v
    load(patched, everything)
    assert isinstance(layer.weight_function[0], comfy.model_patcher.LowVramPatch)
    patched.detach()
    assert 0 < counts[0] < counts[1]
    load(model, 0)
    assert relative(wanted, applied(model)) > 1e-4
    model.detach()


@pytest.mark.core("weights leave a full GPU and come back", stage=STAGES, note=NEEDS_GPU)
def test_partly_unloaded_and_loaded_again(patched):
    """As core does when another model needs the room, and when the room is there again."""
    load(patched, 0)
    wanted, whole = applied(patched), patched.loaded_size()
    freed = patched.partially_unload(CPU, whole / 3)
    assert freed >= whole / 3 and left_behind(patched) and relative(applied(patched), wanted) < 1e-5
    load(patched, 2 * whole)
    assert not left_behind(patched) and relative(applied(patched), wanted) < 1e-5
    patched.detach()


@pytest.mark.core("--novram with fp16, bf16 and fp8 weights", stage=STAGES, note=NEEDS_GPU)
def test_precision_and_offloading_together(tiny, stage, model):
    """The error of a weight type is the same, wherever its weights are."""
    exact = applied(model)
    for dtype, bound in ((torch.float16, 0.01), (torch.bfloat16, 0.05), (torch.float8_e4m3fn, 0.2)):
        cast = tiny(stage, {"dtype": dtype})
        load(cast, NOVRAM)
        got = applied(cast)
        cast.detach()
        load(cast, 0)
        assert relative(got, applied(cast)) < 1e-5 and 1e-6 < relative(got, exact) < bound
        cast.detach()


@pytest.mark.core(
    "dynamic VRAM: layers without weights until the file is read", stage=STAGES,
    note="How the network is made then; moving its weights needs a GPU.",
)  # fmt: skip
def test_network_made_without_weights(monkeypatch, tiny_files, stage, model):
    """Under dynamic VRAM core's layers get their weights when a file is read, and keep its tensors without a copy."""
    config = TINY[stage]
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)  # as core's main.py sets it
    described = LaVieModelConfig(config, config.architecture.prediction)
    described.set_inference_dtype(torch.float32, None)
    made = described.get_model({})
    assert made.diffusion_model.time_embed[0].weight is None
    weights = load_file(tiny_files[stage])
    made.diffusion_model.load_state_dict(weights, strict=True, assign=True)
    monkeypatch.undo()
    first = next(iter(weights))
    assert made.diffusion_model.state_dict()[first].data_ptr() == weights[first].data_ptr()
    assert relative(applied(comfy.model_patcher.ModelPatcher(made, CPU, CPU)), applied(model)) < 1e-6


@pytest.mark.core("memory estimate (memory_usage_factor)", stage=STAGES)
def test_the_memory_estimate_covers_a_forward(stage, model):
    """At published size, without the weights: a fifth more than it takes at least, and no more than twice.

    What it takes is written down in `PUBLISHED`; tests/bench counts it.
    """
    published = PUBLISHED[stage]
    unfused = model.memory_required((published.window, 4, *published.latents))
    fused = unfused / 15 * torch.bfloat16.itemsize  # core: 15 units per pixel on a CPU, one per byte on a GPU
    peak = published.held_bytes(published.window, *published.latents, torch.bfloat16.itemsize)
    assert 1.2 * peak < fused < 2 * peak and fused < unfused
