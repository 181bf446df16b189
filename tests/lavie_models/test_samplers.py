"""Every sampler and every scheduler of core yields finite frames on the small model that ships with the pack."""

from pathlib import Path

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfyui_lavie.lavie_models.comfyui.model import load_model

NANO = Path(__file__).parents[2] / "weights" / "diffusion_models" / "lavie_nano_base.safetensors"
FRAMES, STEPS, GUIDANCE = 4, 3, 4.0
# A scheduler only chooses noise levels: each goes with one sampler, and each sampler with one of them.
PAIRS = [
    *((sampler, "normal") for sampler in comfy.samplers.SAMPLER_NAMES),
    *(("dpmpp_2m", scheduler) for scheduler in comfy.samplers.SCHEDULER_NAMES),
]


@pytest.fixture(scope="module")
def model():
    return load_model(str(NANO), "base")


@pytest.mark.filterwarnings("ignore:Should have t")  # torchsde, about the last bit of a noise level
@pytest.mark.parametrize(("sampler", "scheduler"), PAIRS)
def test_finite(model, sampler, scheduler):
    width = model.model.model_config.unet_config["context_dim"]
    random = torch.Generator().manual_seed(0)
    noise, *texts = (
        torch.randn(shape, generator=random) for shape in ((FRAMES, 4, 8, 8), (1, 8, width), (1, 8, width))
    )
    positive, negative = ([[text, {}]] for text in texts)
    latent = comfy.sample.sample(
        model, noise, STEPS, GUIDANCE, sampler, scheduler, positive, negative, torch.zeros_like(noise),
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert latent.shape == noise.shape and latent.isfinite().all()
    assert latent.std() > 0
