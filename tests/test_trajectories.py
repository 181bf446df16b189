"""The reference's sampling, step by step, through ComfyUI's own samplers and the LaVie MODEL.

In ComfyUI's variables a latent is x = x_reference * sqrt(1 + sigma^2), except for Euler, whose reference uses the same.
The reference's DDIM ends at alphas_cumprod[0], not at a noise level of 0, so its last latent is taken to x0 first.
"""

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.schedule import alphas_cumprod
from comfyui_lavie.nodes.scheduler import LaVieScheduler
from comfyui_lavie.tests import hashed
from comfyui_lavie.tests.hashed import GoldenCase
from einops import rearrange
from safetensors.torch import save_file

STEPS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The small golden model, read from a file of published names as an artist's would be."""
    path = tmp_path_factory.mktemp("models") / "lavie_base.safetensors"
    save_file(hashed.small_published_weights(), path)
    return load_model(str(path), "base", {"dtype": torch.float32})


def to_frames(x):
    return rearrange(x, "1 c f h w -> f c h w").contiguous()


def to_clip(x):
    return rearrange(x, "f c h w -> 1 c f h w")


class Run:
    """A golden case sampled by ComfyUI: ``states`` before each step and after the last."""

    def __init__(self, model, golden, sampler):
        self.golden = golden
        self.sigmas = LaVieScheduler.execute(model, golden.facts["method"], STEPS, 0, STEPS, 1.0).result[0]
        # ComfyUI scales noise for the first level itself; the reference begins with latents_init whatever the level.
        model_sampling = model.get_model_object("model_sampling")
        unit = model_sampling.noise_scaling(
            self.sigmas[0], torch.ones(1), torch.zeros(1), self.sigmas[0] >= model_sampling.sigma_max * (1 - 1e-5)
        )
        noise = to_frames(golden.expected["latents_init"] * self._scale(0)) / unit
        conds = [[[golden.input(f"{name}_embedding"), {}]] for name in ("cond", "uncond")]
        self.states = []

        def keep(step, denoised, x, total):
            self.states.append(x.clone())

        result = comfy.sample.sample_custom(
            model, noise, golden.facts["guidance_scale"], sampler, self.sigmas, *conds, torch.zeros_like(noise),
            callback=keep, disable_pbar=True, seed=0,
        )  # fmt: skip
        self.states.append(model.get_model_object("latent_format").process_in(result))

    def _scale(self, step):
        """From the reference's variables to ComfyUI's, before ``step``."""
        return 1.0 if self.golden.facts["method"] == "euler" else (1 + self.sigmas[step] ** 2).sqrt()

    def assert_steps(self, count):
        """The first ``count`` steps end at the reference's latents."""
        assert len(self.states) == STEPS + 1
        for step in range(count):
            self.golden.assert_close(to_clip(self.states[step + 1] / self._scale(step + 1)), f"latents_{step}")


def test_euler(model):
    golden = GoldenCase("sampling_base_euler")
    run = Run(model, golden, comfy.samplers.ksampler("euler"))
    assert torch.equal(run.sigmas, golden.expected["sigmas"])
    run.assert_steps(STEPS)


def test_ddpm(model):
    golden = GoldenCase("sampling_base_ddpm")
    noises = (to_frames(golden.input(f"step_noise_{step}")) for step in range(STEPS - 1))
    sampler = comfy.samplers.ksampler("ddpm", {"noise_sampler": lambda sigma, sigma_next: next(noises)})
    Run(model, golden, sampler).assert_steps(STEPS)


def test_ddim(model):
    golden = GoldenCase("sampling_base_ddim")
    run = Run(model, golden, comfy.samplers.sampler_object("ddim"))
    run.assert_steps(STEPS - 1)
    # The reference's last latent is sqrt(a0) x0 + sqrt(1 - a0) noise, with the noise that its last step predicted.
    alpha = alphas_cumprod()[:1].double()
    x0 = (golden.expected["latents_7"] - (1 - alpha).sqrt() * golden.expected["guided_model_output_7"]) / alpha.sqrt()
    tolerance = 10 * golden.facts["fp64_max_abs_diff"]["latents_7"]
    torch.testing.assert_close(to_clip(run.states[-1]).double(), x0, atol=tolerance, rtol=0)


def test_the_scheduler_node_refuses_models_without_the_schedule(model):
    flow = model.clone()
    flow.add_object_patch("model_sampling", comfy.model_sampling.ModelSamplingFlux())
    with pytest.raises(ValueError, match="needs a model with 1000 trained noise levels, got 10000; connect the MODEL"):
        LaVieScheduler.execute(flow, "ddim", STEPS, 0, STEPS, 1.0)
