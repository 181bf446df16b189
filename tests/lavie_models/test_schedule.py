"""Noise schedule, spacings, and their agreement with the golden samplers and with ComfyUI's own formulas."""

import comfy.model_sampling
import comfy.samplers
import numpy as np
import pytest
import torch
from comfyui_lavie.bench.hashed import GoldenCase
from comfyui_lavie.lavie_models import UNetConfig, schedule
from comfyui_lavie.lavie_models.comfyui.model import LaVieModelConfig
from comfyui_lavie.lavie_models.comfyui.sampling import SAMPLINGS, EpsilonSampling
from comfyui_lavie.lavie_models.schedule import spacing, timesteps_to_sigmas
from comfyui_lavie.nodes.scheduler import make_sigmas
from diffusers import DDIMScheduler

DDIM, DDPM, EULER = (GoldenCase(f"sampling_base_{name}") for name in ("ddim", "ddpm", "euler"))
SIGMAS = schedule.noise_levels()


def test_schedule_is_the_reference_bit_for_bit():
    assert torch.equal(schedule.alphas_cumprod(), DDIM.expected["alphas_cumprod"])
    assert torch.equal(timesteps_to_sigmas(spacing("euler", 8), SIGMAS), EULER.expected["sigmas"][:-1])


@pytest.mark.parametrize("golden", [DDIM, DDPM, EULER], ids=lambda golden: golden.facts["method"])
def test_spacings_of_eight_steps_are_the_reference(golden):
    assert spacing(golden.facts["method"], 8).tolist() == pytest.approx(golden.facts["timesteps"], abs=1e-9)


def test_other_spacings():
    assert spacing("interpolation", 8).tolist() == [999, 856, 714, 571, 428, 285, 143, 0]
    assert spacing("ddim", 50).tolist() == list(range(981, 0, -20))
    assert spacing("ddpm", 50).tolist() == list(range(980, -1, -20))
    for name in schedule.SPACINGS:
        for steps in (1, 2, 3, 7, 30, 600, 999, 1000):
            timesteps = spacing(name, steps)
            assert timesteps.shape == (steps,) and timesteps.min() >= 0 and timesteps.max() <= 999
            assert (timesteps.diff() < 0).all()


@pytest.mark.parametrize("name", schedule.SPACINGS)
def test_levels_fall_strictly(name):
    """All steps from 1 to 1000, then random starts, ends, shares; equal levels make multistep samplers divide by 0."""
    for steps in range(1, 1001):
        sigmas = make_sigmas(SIGMAS, name, steps, 0, 1000, 1.0)
        assert len(sigmas) == steps + 1 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        steps, start, end = (int(n) for n in rng.integers((1, 0, 0), 1001))
        denoise = float(rng.choice([1.0, rng.random()]))
        try:
            sigmas = make_sigmas(SIGMAS, name, steps, start, end, denoise)
        except ValueError as error:
            assert "use fewer steps or a higher denoise" in str(error) and int(steps / denoise) > 1000
            continue
        assert (sigmas.diff() < 0).all() and sigmas.isfinite().all()
        assert len(sigmas) == max(0, min(end, steps) - start + 1 if start < min(end, steps) else 0)


@pytest.mark.parametrize(("name", "steps", "message"), [("karras", 8, "spacing must be"), ("ddim", 0, "1 .. 1000")])
def test_wrong_spacings_are_named(name, steps, message):
    with pytest.raises(ValueError, match=message):
        spacing(name, steps)


def test_timesteps_and_sigmas_are_inverse():
    whole = torch.arange(1000)
    assert torch.equal(timesteps_to_sigmas(whole, SIGMAS), SIGMAS)
    assert torch.equal(schedule.sigmas_to_timesteps(SIGMAS, SIGMAS), whole.float())
    fractional = torch.linspace(0, 999, 4321)
    there_and_back = schedule.sigmas_to_timesteps(timesteps_to_sigmas(fractional, SIGMAS), SIGMAS)
    torch.testing.assert_close(there_and_back, fractional, atol=1e-3, rtol=0)
    outside = torch.tensor([0.0, 1e9])
    assert schedule.sigmas_to_timesteps(outside, SIGMAS).tolist() == [0, 999]


@pytest.mark.parametrize("prediction", schedule.PREDICTIONS)
def test_training_targets_are_what_comfyui_expects(prediction):
    """With a perfect network, ComfyUI's denoised latent and ours are the clean latent that training noised."""
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    timesteps = torch.tensor([10, 400, 900])
    alpha_bar = schedule.alphas_cumprod()[timesteps].view(-1, 1, 1, 1)
    x_t = schedule.add_noise(x0, noise, alpha_bar)
    output = schedule.target(prediction, x0, noise, alpha_bar)
    torch.testing.assert_close(schedule.to_x0(prediction, output, x_t, alpha_bar), x0, atol=1e-3, rtol=0)
    sampling = SAMPLINGS[prediction]()
    sigma = sampling.sigmas[timesteps]
    x = x0 + sigma.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(sampling.calculate_input(sigma, x), x_t, atol=1e-5, rtol=0)
    torch.testing.assert_close(sampling.calculate_denoised(sigma, output, x), x0, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("prediction", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction")])
def test_ddim_step_is_that_of_diffusers(prediction, theirs):
    ddim = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, prediction_type=theirs)
    ddim.set_timesteps(50)
    alphas = schedule.alphas_cumprod()
    x, output = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t, following in ((980, alphas[960]), (20, alphas[0]), (0, torch.ones(()))):
        expected = ddim.step(output, t, x).prev_sample
        torch.testing.assert_close(schedule.ddim_step(prediction, output, x, alphas[t], following), expected)


@pytest.mark.parametrize("function", [schedule.target, schedule.to_x0])
def test_wrong_prediction_is_named(function):
    with pytest.raises(ValueError, match="prediction must be"):
        function("x0", torch.zeros(1), torch.zeros(1), torch.ones(1))


def test_comfyui_calls_the_straight_line_sqrt_linear():
    core = comfy.model_sampling.ModelSamplingDiscrete(LaVieModelConfig(UNetConfig.base(), "epsilon"))
    torch.testing.assert_close(1 / (core.sigmas**2 + 1), DDIM.expected["alphas_cumprod"], atol=5e-7, rtol=2e-5)
    assert core.sigma_max.item() == pytest.approx(157.407, abs=0.01)
    assert torch.equal(EpsilonSampling().sigmas, SIGMAS)


def test_core_normal_scheduler_is_the_reference_euler_spacing():
    core = comfy.samplers.calculate_sigmas(EpsilonSampling(), "normal", 8)
    torch.testing.assert_close(core, EULER.expected["sigmas"], atol=0, rtol=1e-5)


def test_scheduler_node_sigmas():
    full = make_sigmas(SIGMAS, "ddim", 25, 0, 1000, 1.0)
    assert full.shape == (26,) and full[0] == SIGMAS[961] and full[-2] == SIGMAS[1] and full[-1] == 0
    assert (full.diff() < 0).all()
    first, second = make_sigmas(SIGMAS, "ddim", 25, 0, 10, 1.0), make_sigmas(SIGMAS, "ddim", 25, 10, 1000, 1.0)
    assert torch.equal(torch.cat((first, second[1:])), full)
    half = make_sigmas(SIGMAS, "euler", 10, 0, 1000, 0.5)
    assert torch.equal(half, make_sigmas(SIGMAS, "euler", 20, 10, 1000, 1.0))
    for nothing in ((0, 0, 1.0), (7, 5, 1.0), (25, 1000, 1.0), (0, 1000, 0.0)):
        assert make_sigmas(SIGMAS, "ddpm", 25, *nothing).numel() == 0
    with pytest.raises(ValueError, match="fewer steps or a higher denoise"):
        make_sigmas(SIGMAS, "ddpm", 100, 0, 1000, 0.05)
