"""Caching, masks, samplers.

Whole runs beside ComfyUI's own SD 1.x UNet of the same weights, and masks that hold frames and parts of frames.
"""

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_advanced_samplers import SamplerEulerCFGpp
from comfy_extras.nodes_custom_sampler import CFGGuider, Noise_RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfyui_lavie.tests.compat.kit import (
    FRAMES,
    SCALE,
    guider,
    moving_mask,
    noise,
    random,
    relative,
    run,
    sample,
    sigmas,
    text,
    twins,
)

from nodes import InpaintModelConditioning, KSampler, SetLatentNoiseMask, VAEDecode, VAEEncode, VAEEncodeForInpaint

STEPS = 8


@pytest.fixture(scope="module")
def pair(files):
    ours, theirs, _ = twins(files / "sampling_twin.safetensors", 1)
    return ours, theirs


def run_of(model, sampler="euler", mask=None, source=None, cfg=3.0):
    """A run of one frame with "simple" noise levels, which are trained ones; and how often the network was called."""
    calls = []

    def counted(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key("diffusion_model", "zz_counted", counted)
    latent = torch.zeros(1, 4, 8, 8) if source is None else source
    steps = sigmas(model, STEPS, "simple")
    return sample(guider(model, text(1), text(2), cfg), latent, steps, sampler, mask=mask), len(calls)


CACHES = [
    (EasyCacheNode, {"reuse_threshold": 3.0, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}),
    (LazyCacheNode, {"reuse_threshold": 3.0, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}),
]


@pytest.mark.parametrize(
    ("node", "inputs"),
    [pytest.param(n, i, id=n.__name__, marks=pytest.mark.core(n.__name__.removesuffix("Node"))) for n, i in CACHES],
)
def test_cache_skips_the_steps_that_it_skips_on_an_sd_unet(pair, node, inputs):
    (got, calls), (wanted, their_calls) = (run_of(run(node, model=model, **inputs)[0]) for model in pair)
    full, all_calls = run_of(pair[0])
    assert calls == their_calls < all_calls == STEPS
    assert relative(got, wanted) < 1e-3 < relative(got, full)


@pytest.mark.core("DifferentialDiffusion")
def test_differential_diffusion_with_a_gradient(pair):
    source, mask = random(1, 4, 8, 8, seed=3), torch.linspace(0, 1, 8).expand(1, 8, 8)
    got, wanted = (
        run_of(run(DifferentialDiffusion, model=m, strength=1.0)[0], mask=mask, source=source)[0] for m in pair
    )
    plain, _ = run_of(pair[0], mask=mask, source=source)
    assert relative(got, wanted) < 1e-3 < relative(got, plain)
    change = (got - source).abs().mean(dim=(0, 1, 2))
    assert change[0] < 1e-4 < change[-1], "black stays, white is new"


@pytest.mark.core("euler_cfg_pp, SamplerEulerCFGpp")
def test_cfg_pp(pair):
    (sampler,) = run(SamplerEulerCFGpp, version="regular")
    results = []
    for model in pair:
        steps = sigmas(model, STEPS, "simple")
        made = guider(model, text(1), text(2), 1.5)
        noisy = noise(1, seed=0)
        results.append(made.sample(noisy, torch.zeros_like(noisy), sampler, steps, seed=0, disable_pbar=True))
    named, _ = run_of(pair[0], "euler_cfg_pp", cfg=1.5)
    assert relative(results[0], results[1]) < 1e-3
    assert named.isfinite().all() and relative(named, run_of(pair[1], "euler_cfg_pp", cfg=1.5)[0]) < 1e-3


# --- video to video ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_of_frames():
    """A white square that moves right over black, (F, 64, 64, 3)."""
    frames = torch.zeros(FRAMES, 64, 64, 3)
    for i in range(FRAMES):
        frames[i, 24:40, 6 * i : 6 * i + 16] = 1.0
    return frames


def ksampler(model, latent, denoise, steps=6):
    width = model.model.model_config.unet_config["context_dim"]
    return run(
        KSampler, model=model, seed=1, steps=steps, cfg=2.0, sampler_name="euler", scheduler="normal",
        positive=text(1, width), negative=text(2, width), latent_image=latent, denoise=denoise,
    )[0]["samples"]  # fmt: skip


@pytest.mark.core("VAEEncode of a clip, KSampler with denoise below 1")
def test_less_denoise_stays_nearer_to_the_clip(nano, nano_vae, clip_of_frames):
    (latent,) = run(VAEEncode, vae=nano_vae, pixels=clip_of_frames)
    assert latent["samples"].shape == (FRAMES, 4, 8, 8)
    (round_trip,) = run(VAEDecode, vae=nano_vae, samples=latent)
    assert relative(round_trip, clip_of_frames) < 0.5
    distance = [relative(ksampler(nano, latent, denoise), latent["samples"]) for denoise in (0.1, 0.4, 1.0)]
    assert 0 < distance[0] < distance[1] < distance[2]


@pytest.mark.core("SetLatentNoiseMask with a mask for each frame")
def test_inpainting_with_a_mask_for_each_frame(model):
    source = {"samples": random(FRAMES, 4, 8, 8, seed=4)}
    (latent,) = run(SetLatentNoiseMask, samples=source, mask=moving_mask())
    change = (ksampler(model, latent, 1.0) - source["samples"]).abs().amax(dim=1)
    new = moving_mask()[:, ::8, ::8].bool()
    assert change[~new].max() < 1e-4 and change[new].min() > 1e-3


@pytest.mark.core("VAEEncodeForInpaint with a mask for each frame")
def test_vae_encode_for_inpaint(model, nano_vae, clip_of_frames):
    (latent,) = run(VAEEncodeForInpaint, vae=nano_vae, pixels=clip_of_frames, mask=moving_mask(), grow_mask_by=0)
    change = (ksampler(model, latent, 1.0) - latent["samples"]).abs().amax(dim=1)
    new = moving_mask()[:, ::8, ::8].bool()
    assert change[~new].max() < 1e-4 and change[new].min() > 1e-3


@pytest.mark.core("InpaintModelConditioning", note="As a noise mask; LaVie has no inpainting model.")
def test_inpaint_conditioning(nano, nano_vae, clip_of_frames):
    width = nano.model.model_config.unet_config["context_dim"]
    positive, negative, latent = run(
        InpaintModelConditioning, positive=text(1, width), negative=text(2, width), vae=nano_vae, pixels=clip_of_frames,
        mask=moving_mask(), noise_mask=True,
    )  # fmt: skip
    made = guider(nano, positive, negative, 2.0)
    out = sample(made, latent["samples"], sigmas(nano, 4), mask=latent["noise_mask"])
    change = (out - latent["samples"]).abs().amax(dim=1)
    new = moving_mask()[:, ::8, ::8].bool()
    assert change[~new].max() < 1e-4 and change[new].min() > 1e-3


@pytest.mark.core("first and last frame held by a mask")
def test_held_frames_stay_and_lead_the_others(model):
    source = torch.zeros(FRAMES, 4, 8, 8)
    source[[0, -1]] = random(2, 4, 8, 8, seed=4)
    mask = torch.ones(FRAMES, 64, 64)
    mask[[0, -1]] = 0.0
    held = {"samples": source, "noise_mask": mask}
    out = ksampler(model, held, 1.0)
    assert (out - source)[[0, -1]].abs().max() < 1e-4
    other = ksampler(model, {"samples": source * 2, "noise_mask": mask}, 1.0)
    assert relative(out[1:-1], other[1:-1]) > 1e-5, "the frames between follow the held ones"


@pytest.mark.core("SamplerCustomAdvanced, CFGGuider")
def test_custom_sampling_is_ksampler(model):
    latent = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    (made,) = run(CFGGuider, model=model, positive=text(1), negative=text(2), cfg=2.0)
    custom, _ = run(
        SamplerCustomAdvanced, noise=Noise_RandomNoise(1), guider=made, sampler=comfy.samplers.sampler_object("euler"),
        sigmas=sigmas(model, 6), latent_image=latent,
    )  # fmt: skip
    assert relative(custom["samples"], ksampler(model, latent, 1.0)) < 1e-5
    assert custom["samples"].std() > SCALE
