"""The reference's sampling, step by step, through ComfyUI's own samplers and the LaVie MODEL.

In ComfyUI's variables a latent is x = x_reference * sqrt(1 + sigma^2), except for Euler, whose reference uses the same.
The reference's DDIM ends at alphas_cumprod[0], not at a noise level of 0, so its last latent is taken to x0 first;
its interpolation does end at x0.
"""

import functools
import json

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfyui_lavie.bench import hashed
from comfyui_lavie.bench.hashed import GoldenCase
from comfyui_lavie.lavie_models.comfyui.model import LOW_RESOLUTION, NOISE_LEVEL, SOURCE_LATENTS, load_model
from comfyui_lavie.lavie_models.conditioning import low_resolution_alphas, noise_low_resolution
from comfyui_lavie.lavie_models.schedule import alphas_cumprod
from comfyui_lavie.nodes.scheduler import LaVieScheduler
from einops import rearrange
from safetensors.torch import save_file

STEPS = 8
CASES = {"base": "sampling_base_ddim", "interpolation": "sampling_interpolation", "super_resolution": "sampling_vsr"}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """load(stage): the small golden model, read from a file of published names as an artist's would be."""

    @functools.cache
    def load(stage):
        path = tmp_path_factory.mktemp("models") / f"{stage}.safetensors"
        weights = hashed.small_published_weights(stage)
        # Names and shapes do not tell an interpolation network's number of heads, here 2.
        config = hashed.GoldenCase(CASES[stage]).config()
        metadata = {"lavie.stage": stage, "lavie.config": json.dumps(config.to_dict())}
        save_file(weights, path, metadata if stage == "interpolation" else None)
        return load_model(str(path), stage, {"dtype": torch.float32})

    return load


@pytest.fixture(scope="module")
def model(load):
    return load("base")


def to_frames(x):
    return rearrange(x, "1 c f h w -> f c h w").contiguous()


def to_clip(x):
    return rearrange(x, "f c h w -> 1 c f h w")


class Run:
    """A golden case sampled by ComfyUI: ``states`` before each step and after the last.

    ``start``: the reference's first latents; ``given``: what the conditioning carries besides text.
    """

    def __init__(self, model, golden, sampler, spacing=None, start=None, guidance=None, given=None):
        self.golden = golden
        spacing = spacing or golden.facts["method"]
        self.sigmas = LaVieScheduler.execute(model, spacing, STEPS, 0, STEPS, 1.0).result[0]
        # ComfyUI scales noise for the first level itself; the reference begins with latents_init whatever the level.
        model_sampling = model.get_model_object("model_sampling")
        unit = model_sampling.noise_scaling(
            self.sigmas[0], torch.ones(1), torch.zeros(1), self.sigmas[0] >= model_sampling.sigma_max * (1 - 1e-5)
        )
        start = golden.expected["latents_init"] if start is None else start
        noise = to_frames(start * self._scale(0)) / unit
        conds = [[[golden.input(f"{name}_embedding"), given or {}]] for name in ("cond", "uncond")]
        self.states = []

        def keep(step, denoised, x, total):
            self.states.append(x.clone())

        result = comfy.sample.sample_custom(
            model, noise, guidance or golden.facts["guidance_scale"], sampler, self.sigmas, *conds,
            torch.zeros_like(noise), callback=keep, disable_pbar=True, seed=0,
        )  # fmt: skip
        self.states.append(model.get_model_object("latent_format").process_in(result))

    def _scale(self, step):
        """From the reference's variables to ComfyUI's, before ``step``."""
        return 1.0 if self.golden.facts.get("method") == "euler" else (1 + self.sigmas[step] ** 2).sqrt()

    def assert_steps(self, count):
        """The first ``count`` steps end at the reference's latents."""
        assert len(self.states) == STEPS + 1
        for step in range(count):
            self.golden.assert_close(to_clip(self.states[step + 1] / self._scale(step + 1)), f"latents_{step}")

    def assert_last_is_x0(self, prediction):
        """The run ends at the clean latent of the reference's last step.

        Its last latent is sqrt(a0) x0 + sqrt(1 - a0) noise, with the noise that the last step predicted. As v that is
        sqrt(a) v + sqrt(1 - a) x_t, at the last step's timestep 1.
        """
        expected, last = self.golden.expected, STEPS - 1
        output = expected[f"guided_model_output_{last}"].double()
        first, second = alphas_cumprod()[:2].double()
        noise = output
        if prediction == "v":
            noise = second.sqrt() * output + (1 - second).sqrt() * expected[f"latents_{last - 1}"]
        x0 = (expected[f"latents_{last}"] - (1 - first).sqrt() * noise) / first.sqrt()
        tolerance = 10 * self.golden.facts["fp64_max_abs_diff"][f"latents_{last}"]
        torch.testing.assert_close(to_clip(self.states[-1]).double(), x0, atol=tolerance, rtol=0)


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
    run.assert_last_is_x0("epsilon")


def test_interpolation(load):
    """The source latents travel unscaled in the conditioning, as the VAE gives them."""
    golden, model = GoldenCase("sampling_interpolation"), load("interpolation")
    sources = model.get_model_object("latent_format").process_out(to_frames(golden.input("copied_video")))
    run = Run(
        model, golden, comfy.samplers.sampler_object("ddim"), "interpolation", golden.input("initial_noise"),
        golden.facts["cfg_scale"], {SOURCE_LATENTS: sources},
    )  # fmt: skip
    run.assert_steps(STEPS - 1)
    golden.assert_close(to_clip(run.states[-1]), "final_latents")


def test_super_resolution(load):
    golden = GoldenCase("sampling_vsr")
    level = golden.facts["noise_level"]
    frames, noise = (to_frames(golden.input(name)) for name in ("low_res_frames", "low_res_noise"))
    noised = noise_low_resolution(frames, noise, torch.tensor(level))
    assert torch.equal(low_resolution_alphas(), golden.expected["low_res_alphas_cumprod"])
    golden.assert_close(to_clip(noised), "noised_low_res")
    run = Run(
        load("super_resolution"), golden, comfy.samplers.sampler_object("ddim"), "ddim",
        golden.input("initial_noise"), given={LOW_RESOLUTION: noised, NOISE_LEVEL: level},
    )  # fmt: skip
    run.assert_steps(STEPS - 1)
    run.assert_last_is_x0("v")


def test_the_scheduler_node_refuses_models_without_the_schedule(model):
    flow = model.clone()
    flow.add_object_patch("model_sampling", comfy.model_sampling.ModelSamplingFlux())
    with pytest.raises(ValueError, match="needs a model with 1000 trained noise levels, got 10000; connect the MODEL"):
        LaVieScheduler.execute(flow, "ddim", STEPS, 0, STEPS, 1.0)
