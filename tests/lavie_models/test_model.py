"""LaVie base as a MODEL in a real ComfyUI: what core code sees of it, and that it computes what LaVieUNet computes."""

import json

import comfy.context_windows
import comfy.lora
import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.comfyui.model import LaVieModelConfig, load_model
from safetensors.torch import save_file

TINY = UNetConfig.base(
    block_channels=(32, 64), attention_levels=(True, True), num_heads=1, layers_per_block=1, context_dim=16
)
FRAMES = 6


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """A base checkpoint with random weights, temporal layers included."""
    torch.manual_seed(0)
    unet = LaVieUNet(TINY)
    for name, parameter in unet.named_parameters():
        if "attn_temp.to_out" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("models") / "tiny_base.safetensors"
    metadata = {"lavie.stage": "base", "lavie.config": json.dumps(TINY.to_dict()), "lavie.prediction": "epsilon"}
    save_file(unet.state_dict(), path, metadata)
    return path


@pytest.fixture
def model(tiny_file):
    return load_model(str(tiny_file), "base")


@pytest.fixture(scope="module")
def plain(tiny_file):
    unet = LaVieUNet(TINY)
    unet.load_state_dict(comfy.utils.load_torch_file(str(tiny_file)))
    return unet.eval()


def text(seed, tokens=7):
    return torch.randn(1, tokens, TINY.context_dim, generator=torch.Generator().manual_seed(seed))


def noise(frames=FRAMES, seed=5):
    return torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def denoise(model, x, sigma, positive, negative=None, cfg=1.0, options=None):
    """One call of the model as core samplers make it: the denoised latent at ``sigma``."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative or positive)
    guider.set_cfg(cfg)
    seen = []

    def one_step(model_wrap, sigmas, extra_args, *_):
        seen.append(model_wrap(x, torch.full((x.shape[0],), sigma), **extra_args))
        return seen[0]

    sampler = comfy.samplers.KSAMPLER(lambda *a, **k: None)
    sampler.sample = one_step
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), sampler, torch.tensor([sigma, 0.0]), seed=0)
    return seen[0]


def test_a_step_equals_the_plain_unet_with_guidance(model, plain):
    positive, negative = text(1), text(2)
    x, sigma = noise() * 3.0, 2.5
    got = denoise(model, x, sigma, [[positive, {}]], [[negative, {}]], cfg=4.0)
    sampling = model.get_model_object("model_sampling")
    t = sampling.timestep(torch.tensor([sigma]))
    scaled = x / (1 + sigma**2) ** 0.5
    with torch.no_grad():
        conditional, unconditional = (plain(scaled, t, c, num_frames=FRAMES) for c in (positive, negative))
    expected = x - sigma * (unconditional + 4.0 * (conditional - unconditional))
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_prompts_of_different_length_are_two_clips_of_their_own(model):
    """77 tokens against 154, as long prompts give: core repeats the shorter; frames still divide by condition."""
    x = noise()
    long = denoise(model, x, 1.0, [[text(1, 14), {}]], [[text(2, 7), {}]], cfg=3.0)
    doubled = denoise(model, x, 1.0, [[text(1, 14), {}]], [[text(2, 7).repeat(1, 2, 1), {}]], cfg=3.0)
    torch.testing.assert_close(long, doubled, atol=1e-5, rtol=0)


def test_the_noise_schedule_is_lavies_own(model):
    sampling = model.get_model_object("model_sampling")
    assert sampling.sigma_max.item() == pytest.approx(157.407, abs=1e-3)
    assert isinstance(sampling, comfy.model_base.comfy.model_sampling.ModelSamplingDiscrete)


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.zeros(6, 16, 8, 8), "expects latents"),
        (torch.zeros(1, 4, 6, 8, 8), "frames belong on the batch axis"),
    ],
)
def test_latents_of_another_model_are_refused(model, latent, message):
    with pytest.raises(ValueError, match=message):
        comfy.sample.sample(
            model, torch.randn_like(latent), 2, 1.0, "euler", "normal", [[text(1), {}]], [[text(2), {}]], latent
        )


def test_text_of_another_width_is_refused(model):
    wide = [[torch.randn(1, 7, 24), {}]]
    with pytest.raises(ValueError, match="text encoder belongs to another model"):
        denoise(model, noise(), 1.0, wide)


def test_every_spatial_key_of_sd_loras_maps_onto_the_published_model():
    """kohya and diffusers names of all spatial attention, feed-forward, projection and convolution weights."""
    model_config = LaVieModelConfig(UNetConfig.base(), "epsilon")
    model_config.set_inference_dtype(torch.float16, None)
    model = model_config.get_model({}, device=torch.device("meta"))
    keys = comfy.lora.model_lora_keys_unet(model, {})
    weights = {k for k in model.state_dict() if k.startswith("diffusion_model.") and k.endswith(".weight")}
    spatial = {k for k in weights if "_temp" not in k}
    diffusers = comfy.utils.unet_to_diffusers(model.model_config.unet_config)
    assert spatial <= {f"diffusion_model.{v}" for v in diffusers.values()}
    for names in ("lora_unet_down_blocks_", "lora_unet_up_blocks_", "lora_unet_mid_block_"):
        assert any(key.startswith(names) for key in keys)
    mapped = {value for key, value in keys.items() if key.startswith("lora_unet_") and isinstance(value, str)}
    assert spatial <= mapped


def test_a_lora_changes_the_output_and_its_removal_restores_it(model, tiny_file):
    key = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
    rng = torch.Generator().manual_seed(3)
    lora = {
        f"{key}.lora_up.weight": torch.randn(64, 2, generator=rng),
        f"{key}.lora_down.weight": torch.randn(2, TINY.context_dim, generator=rng),
        f"{key}.alpha": torch.tensor(2.0),
    }
    loaded = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(model.model, {}))
    assert list(loaded) == ["diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"]
    patched = model.clone()
    assert len(patched.add_patches(loaded, 1.0)) == 1
    conditioning = [[text(1), {}]]
    before = denoise(model, noise(), 1.0, conditioning)
    assert (denoise(patched, noise(), 1.0, conditioning) - before).abs().max() > 1e-3
    torch.testing.assert_close(denoise(model, noise(), 1.0, conditioning), before)


def test_context_windows_divide_frames(model):
    """20 frames in windows of 6: temporal attention never sees more than a window, guidance included."""
    seen = []
    model = model.clone()
    model.add_wrapper(
        "diffusion_model", lambda executor, x, *args, **kwargs: seen.append(len(x)) or executor(x, *args, **kwargs)
    )
    handler = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=6, context_overlap=2, context_stride=1, closed_loop=False, dim=0,
        causal_window_fix=False,
    )  # fmt: skip
    model.model_options["context_handler"] = handler
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    latent = torch.zeros(20, 4, 8, 8)
    out = comfy.sample.sample(
        model, noise(20), 2, 3.0, "euler", "normal", [[text(1), {}]], [[text(2), {}]], latent, seed=0
    )
    assert out.isfinite().all() and out.shape == latent.shape
    assert set(seen) <= {6, 12}


def test_the_patcher_can_be_made_anew_for_cloning(model):
    factory, arguments = model.cached_patcher_init
    again = factory(*arguments, disable_dynamic=True)
    for key, value in model.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_weight_dtypes(tiny_file, model, dtype):
    conditioning = [[text(1), {}]]
    reference = denoise(model, noise(), 1.0, conditioning)
    cast = load_model(str(tiny_file), "base", {"dtype": dtype})
    out = denoise(cast, noise(), 1.0, conditioning)
    assert out.isfinite().all()
    error = ((out - reference).norm() / reference.norm()).item()
    assert error < {torch.float32: 1e-6, torch.bfloat16: 0.05, torch.float16: 0.01, torch.float8_e4m3fn: 0.2}[dtype]
