"""Few steps."""

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from comfyui_lavie.lavie_models import UNetConfig
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.key_names import module_names, rename
from comfyui_lavie.lavie_models.schedule import noise_levels
from comfyui_lavie.tests.compat.kit import (
    guider,
    lcm_layers,
    lcm_lora,
    noise,
    run,
    sample,
    save_unet,
    sigmas,
    text,
)
from safetensors.torch import save_file

from nodes import LoraLoaderModelOnly

# Four levels as published, a tenth as wide: layers where those of SD 1.5 are.
CONFIG = UNetConfig.base(block_channels=(32, 64, 128, 128), num_heads=1, context_dim=16)
STEPS = 4


@pytest.fixture(scope="module")
def layers() -> dict[str, torch.Size]:
    return lcm_layers(CONFIG)


@pytest.fixture(scope="module")
def fast(files, layers):
    """A base model with such a LoRA of random weights, set to few steps, through core nodes."""
    lora = lcm_lora(CONFIG)
    save_file(lora, files / "lcm.safetensors")
    assert len(lora) == 834  # as lcm-lora-sdv1-5 has
    base = load_model(str(save_unet(files / "levels.safetensors", CONFIG)), "base")
    (model,) = run(LoraLoaderModelOnly, model=base, lora_name="lcm.safetensors", strength_model=1.0)
    return run(ModelSamplingDiscrete, model=model, sampling="lcm", zsnr=False)[0]


@pytest.mark.core("Load LoRA: LCM-LoRA of SD 1.5")
def test_every_layer_of_the_lora_has_its_own(fast, layers):
    names = module_names(CONFIG)
    wanted = {f"diffusion_model.{rename(f'{name}.weight', names)}": shape for name, shape in layers.items()}
    weights = fast.model.state_dict()
    assert fast.patches.keys() == wanted.keys()
    for key, shape in wanted.items():
        assert weights[key].shape == shape, key


@pytest.mark.core("ModelSamplingDiscrete, lcm; KSampler, lcm")
def test_few_steps_are_levels_of_lavie(fast):
    """The steps lie on LaVie's schedule, not on Stable Diffusion's, and each is one evaluation of the network."""
    known = fast.get_model_object("model_sampling").sigmas
    assert torch.allclose(known, noise_levels()[19::20].float(), rtol=1e-4)  # every 20th of the 1000 trained ones
    levels = sigmas(fast, STEPS, "sgm_uniform")
    assert len(levels) == STEPS + 1 and levels[0] == pytest.approx(noise_levels()[-1].item(), rel=1e-4)
    seen = []

    def watch(apply, given):
        seen.append(given["timestep"][0].item())
        return apply(given["input"], given["timestep"], **given["c"])

    fast.set_model_unet_function_wrapper(watch)
    out = sample(guider(fast, text(1)), torch.zeros_like(noise(2)), levels, "lcm")
    assert seen == pytest.approx(levels[:-1].tolist()) and out.isfinite().all()
