"""The nodes between the stages: what they hand to the models, and what they say to bad input."""

import json

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfyui_lavie.bench.hashed import GoldenCase
from comfyui_lavie.bench.measure import peak_activations
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.comfyui.model import LOW_RESOLUTION, NOISE_LEVEL, SOURCE_LATENTS, load_model
from comfyui_lavie.lavie_models.conditioning import interpolated_frames, interpolation_sources, noise_low_resolution
from comfyui_lavie.nodes.context_windows import LaVieContextWindows
from comfyui_lavie.nodes.frames import encode_frames
from comfyui_lavie.nodes.interpolation import LaVieInterpolationConditioning
from comfyui_lavie.nodes.latent import DECODED_BY, EmptyLaVieLatent
from comfyui_lavie.nodes.super_resolution import LaVieSuperResolutionConditioning, plan
from comfyui_lavie.nodes.video import LaVieDecodeToVideo
from safetensors.torch import save_file

import nodes

SIZES = {"block_channels": (32, 32), "layers_per_block": 1, "num_heads": 1, "context_dim": 16}
CONFIGS = {
    "base": UNetConfig.base(**SIZES, attention_levels=(True, True)),
    "interpolation": UNetConfig.interpolation(**SIZES, attention_levels=(True, True)),
    "super_resolution": UNetConfig.super_resolution(**SIZES, attention_levels=(False, True)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny MODEL of each stage, temporal layers included."""
    folder = tmp_path_factory.mktemp("models")
    for stage, config in CONFIGS.items():
        torch.manual_seed(0)
        unet = LaVieUNet(config)
        for name, parameter in unet.named_parameters():
            if "to_out" in name or "shift_conv" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        metadata = {"lavie.stage": stage, "lavie.config": json.dumps(config.to_dict())}
        weights = {key: value.contiguous() for key, value in unet.state_dict().items()}
        save_file(weights, folder / f"{stage}.safetensors", metadata)
    return {stage: load_model(str(folder / f"{stage}.safetensors"), stage) for stage in CONFIGS}


def prompt(width=16, tokens=5):
    return [[torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(1)), {}]]


def sample(model, positive, negative, latent, steps=2, guidance=4.0):
    samples = latent["samples"]
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(2))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    sampler = comfy.samplers.sampler_object("euler")
    return comfy.sample.sample_custom(
        model, noise, guidance, sampler, sigmas, positive, negative, samples, disable_pbar=True, seed=0
    )


# --- interpolation ----------------------------------------------------------------------------------------------------


def test_condition_map_is_the_reference():
    golden = GoldenCase("interpolation_condition_map")
    assert interpolation_sources(16).tolist() == golden.facts["cond"] == golden.expected["cond"].tolist()
    assert interpolated_frames(16) == golden.facts["n_output"]


@pytest.mark.parametrize("frames", [2, 3, 16])
def test_interpolation_of_a_latent(models, frames):
    clip = torch.randn(frames, 4, 8, 8)
    positive, negative, latent = LaVieInterpolationConditioning.execute(
        prompt(), prompt(), latent={"samples": clip}
    ).result
    assert latent["samples"].shape == (4 * (frames - 1) + 1, 4, 8, 8) and not latent["samples"].any()
    for conditioning in (positive, negative):
        sources = conditioning[0][1][SOURCE_LATENTS]
        assert torch.equal(sources[0], clip[0]) and torch.equal(sources[-1], clip[-1])
        assert [int((sources[k] - clip).abs().sum((1, 2, 3)).argmin()) for k in range(5)] == [0, 0, 0, 1, 1]
    result = sample(models["interpolation"], positive, negative, latent)
    assert result.shape == latent["samples"].shape and result.isfinite().all()


def test_every_frame_is_conditioned_by_its_own_source(models):
    """Another source for the last two output frames changes what the network makes of them and not of the first."""
    clip = torch.randn(3, 4, 8, 8)
    other = torch.cat((clip[:2], torch.randn(1, 4, 8, 8)))
    first, second = (
        sample(
            models["interpolation"], *LaVieInterpolationConditioning.execute(prompt(), prompt(), {"samples": c}).result
        )
        for c in (clip, other)
    )
    change = (first - second).abs().mean((1, 2, 3))
    assert change[-1] > 2 * change[0]


def test_interpolation_of_frames(nano_vae):
    """Frames are cropped around their centre to whole latents; the result is what the VAE gives for all at once."""
    frames = torch.rand(11, 67, 75, 3)
    positive, _, latent = LaVieInterpolationConditioning.execute(prompt(), prompt(), frames=frames, vae=nano_vae).result
    assert latent["samples"].shape == (41, 4, 8, 9)
    expected = nano_vae.encode(frames[:, 1:65, 1:73])[interpolation_sources(11)]
    torch.testing.assert_close(positive[0][1][SOURCE_LATENTS], expected, atol=1e-4, rtol=0)


def test_encoding_memory_does_not_grow_with_the_clip(nano_vae):
    """The VAE sees a few frames at a time: 48 more frames cost less than two of them cost the VAE."""

    def peak(count):
        frames = torch.rand(count, 64, 64, 3)
        return peak_activations(lambda: encode_frames(nano_vae, frames), "cpu")

    of_one = peak(8) / 8
    assert peak(64) - peak(16) < 2 * of_one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "connect the clip"),
        ({"latent": {"samples": torch.zeros(3, 4, 8, 8)}, "frames": torch.zeros(3, 16, 16, 3)}, "not both"),
        ({"frames": torch.zeros(3, 16, 16, 3)}, "frames need a VAE"),
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "at least 2 frames, got 1.*Batch"),
        ({"frames": torch.zeros(1, 16, 16, 3)}, "at least 2 frames, got 1"),
        ({"latent": {"samples": torch.zeros(3, 16, 8, 8)}}, r"must be a latent of .*got \(3, 16, 8, 8\)"),
        ({"latent": {"samples": torch.zeros(2, 4, 3, 8, 8)}}, "must be a latent"),
    ],
)
def test_bad_clips_for_interpolation(arguments, message):
    with pytest.raises(ValueError, match=message):
        LaVieInterpolationConditioning.execute(prompt(), prompt(), **arguments)


def test_frames_too_small_for_a_latent(nano_vae):
    with pytest.raises(ValueError, match="at least 8 x 8 pixels, got 30 x 7"):
        LaVieInterpolationConditioning.execute(prompt(), prompt(), frames=torch.zeros(3, 7, 30, 3), vae=nano_vae)


# --- super-resolution -------------------------------------------------------------------------------------------------


def test_noised_frames_are_reproducible_from_the_seed():
    frames = torch.rand(3, 16, 24, 4)  # a fourth channel, as of a PNG, is left out

    def noised(seed, level=50):
        positive, negative, latent = LaVieSuperResolutionConditioning.execute(
            prompt(), prompt(), frames, level, seed
        ).result
        assert latent["samples"].shape == (3, 4, 16, 24)
        assert positive[0][1][NOISE_LEVEL] == negative[0][1][NOISE_LEVEL] == level
        assert torch.equal(positive[0][1][LOW_RESOLUTION], negative[0][1][LOW_RESOLUTION])
        return positive[0][1][LOW_RESOLUTION]

    assert torch.equal(noised(1), noised(1)) and not torch.equal(noised(1), noised(2))
    pixels = frames[..., :3].movedim(-1, 1) * 2 - 1
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(noised(1), noise_low_resolution(pixels, noise, torch.tensor(50)))
    spread = [(noised(1, level) - pixels).std().item() for level in (0, 50, 350)]
    assert spread == sorted(spread) and spread[0] < 0.05


@pytest.mark.parametrize("constant", [False, True])
def test_constant_noise_is_the_same_for_every_frame(models, constant):
    """Frames come out of core's KSampler equal, exactly where they begin so; by base, which tells them apart by nothing
    else: super-resolution's convolutions along time know the clip's ends.
    """
    frames = torch.full((3, 16, 16, 3), 0.5)
    latent = LaVieSuperResolutionConditioning.execute(prompt(), prompt(), frames, 0, 0, constant).result[2]
    settings = 2, 4.0, "euler", "normal", prompt(), prompt(), latent
    first, other = (nodes.KSampler().sample(models["base"], seed, *settings)[0]["samples"] for seed in (5, 6))
    scale = first.std()
    assert ((first[1:] - first[0]).abs().max() < 1e-3 * scale) == constant and (first - other).abs().max() > 0.1 * scale


@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_super_resolution_of_any_size(models, size):
    positive, negative, latent = LaVieSuperResolutionConditioning.execute(
        prompt(), prompt(), torch.rand(2, *size, 3), 20, 0
    ).result
    result = sample(models["super_resolution"], positive, negative, latent)
    assert result.shape == (2, 4, *size) and result.isfinite().all()


def test_the_noise_level_reaches_the_network(models):
    def run(level):
        positive, negative, latent = LaVieSuperResolutionConditioning.execute(
            prompt(), prompt(), torch.zeros(2, 8, 8, 3), 0, 0
        ).result
        for conditioning in (positive, negative):
            conditioning[0][1][NOISE_LEVEL] = level
        return sample(models["super_resolution"], positive, negative, latent, steps=1)

    assert torch.equal(run(20), run(20)) and not torch.allclose(run(20), run(300))


def test_windows_take_the_frames_that_belong_to_them(models):
    """The conditioning of a frame in the second window is that frame's: changing it leaves the first window alone."""
    model = LaVieContextWindows.execute(models["super_resolution"], 4, 1, "pyramid", False).result[0]
    frames = torch.rand(7, 8, 8, 3)
    changed = torch.cat((frames[:6], torch.rand(1, 8, 8, 3)))
    first, second = (
        sample(model, *LaVieSuperResolutionConditioning.execute(prompt(), prompt(), f, 0, 0).result, steps=1)
        for f in (frames, changed)
    )
    change = (first - second).abs().amax((1, 2, 3))
    assert change[:3].max() == 0 and change[6] > 1e-3


def test_frames_too_small_for_super_resolution():
    with pytest.raises(ValueError, match="at least 8 x 8 pixels, got 20 x 4"):
        LaVieSuperResolutionConditioning.execute(prompt(), prompt(), torch.zeros(2, 4, 20, 3), 50, 0)


def test_a_huge_clip_is_announced():
    assert plan(61, 320, 512, 10**12) == "61 frames -> 2048 x 1280 pixels; decoded 1.92 GB"
    assert "8 GB free: use LaVie Decode to Video" in plan(610, 320, 512, 8 * 10**9)


# --- what does not belong together -----------------------------------------------------------------------------------


def test_prompts_without_frames(models):
    latent = {"samples": torch.zeros(5, 4, 8, 8)}
    for stage, node in (("interpolation", "Interpolation"), ("super_resolution", "Super-Resolution")):
        with pytest.raises(ValueError, match=f"LaVie {node} Conditioning first"):
            sample(models[stage], prompt(), prompt(), latent)


def test_a_latent_of_another_length_or_size(models):
    positive, negative, _ = LaVieInterpolationConditioning.execute(
        prompt(), prompt(), {"samples": torch.randn(2, 4, 8, 8)}
    ).result
    for shape in ((4, 4, 8, 8), (5, 4, 16, 8)):
        with pytest.raises(ValueError, match=r"is for 5 frames of 8 x 8 latent pixels, .*use the latent that LaVie"):
            sample(models["interpolation"], positive, negative, {"samples": torch.zeros(shape)})


def test_conditioning_of_super_resolution_in_the_base_model(models):
    positive, negative, latent = LaVieSuperResolutionConditioning.execute(
        prompt(), prompt(), torch.rand(2, 8, 8, 3), 20, 0
    ).result
    with pytest.raises(ValueError, match="base UNet knows no noise_level"):
        sample(models["base"], positive, negative, latent)


@pytest.mark.parametrize(("stage", "width", "right", "wrong"), [
    ("base", 1024, "768 wide (CLIP ViT-L/14", "1024 wide (OpenCLIP ViT-H"),
    ("interpolation", 1024, "768 wide (CLIP ViT-L/14", "1024 wide (OpenCLIP ViT-H"),
    ("super_resolution", 768, "1024 wide (OpenCLIP ViT-H", "768 wide (CLIP ViT-L/14"),
])  # fmt: skip
def test_swapped_text_encoders_are_named(stage, width, right, wrong):
    published = getattr(UNetConfig, stage)()
    unet = LaVieUNet(published, device="meta")
    x = torch.empty(2, published.in_channels, 8, 8, device="meta")
    with pytest.raises(ValueError) as caught:
        unet(x, torch.zeros(1), torch.zeros(1, 77, width), num_frames=2)
    assert f"reads text {right}" in str(caught.value) and f"got {wrong}" in str(caught.value)


def test_a_vae_of_the_wrong_factor(nano_vae):
    latent = LaVieSuperResolutionConditioning.execute(prompt(), prompt(), torch.rand(2, 8, 8, 3), 20, 0).result[2]
    with pytest.raises(ValueError, match="4 pixels to a latent pixel, the VAE 8: connect the x4-upscaler's VAE"):
        LaVieDecodeToVideo.execute(latent, nano_vae, 8.0, 4)
    assert EmptyLaVieLatent.execute(64, 64, 2).result[0][DECODED_BY] == 8
    with pytest.raises(ValueError, match="must be a latent of"):
        LaVieDecodeToVideo.execute({"samples": torch.zeros(1, 4, 3, 8, 8)}, nano_vae, 8.0, 4)


def test_windows_for_another_model(models):
    model = models["base"].clone()
    model.model = torch.nn.Module()
    model.model.model_config = object()
    with pytest.raises(ValueError, match="needs a LaVie MODEL"):
        LaVieContextWindows.execute(model, 0, 0, "pyramid", False)
