"""What the compatibility tests share: tiny models in files, core nodes called as ComfyUI calls them, single steps.

Contract: models are loaded by the pack's own loaders from files with random weights, temporal layers included. Every
effect is measured on what the model computes, through core's guiders and samplers.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.comfyui.model import LOW_RESOLUTION, NOISE_LEVEL, SOURCE_LATENTS, load_model
from comfyui_lavie.nodes.extend_video import LaVieExtendVideo
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights"
TINY = {
    "base": UNetConfig.base(
        block_channels=(32, 64), attention_levels=(True, True), num_heads=1, layers_per_block=1, context_dim=16
    ),
    "first_frame": UNetConfig.base(
        in_channels=8, block_channels=(32, 64), attention_levels=(True, True), num_heads=1, layers_per_block=1,
        context_dim=16,
    ),
    "interpolation": UNetConfig.interpolation(
        block_channels=(32, 64), attention_levels=(True, True), layers_per_block=1, context_dim=16
    ),
    "super_resolution": UNetConfig.super_resolution(
        block_channels=(32, 64), attention_levels=(False, True), num_heads=1, layers_per_block=1, context_dim=16
    ),
}  # fmt: skip
# One level of the published width and text: files of SD 1.x (checkpoints, ControlNets, adapters) fit it.
WIDE = UNetConfig.base(block_channels=(320,), attention_levels=(True,), layers_per_block=2)
# What lcm-lora-sdv1-5 was trained on, by diffusers' names; its file has three tensors for each layer.
LCM_TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip
FRAMES = 6
EULER = comfy.samplers.sampler_object("euler")
SCALE = comfy.latent_formats.SD15().scale_factor


def metadata_of(config: UNetConfig) -> dict[str, str]:
    """As training writes it, with the prediction that the stage is published with."""
    configured = {"lavie.stage": config.stage, "lavie.config": json.dumps(config.to_dict())}
    return {**configured, "lavie.prediction": config.architecture.prediction}


def save_unet(path: Path, config: UNetConfig, seed: int = 0) -> Path:
    """A file with random weights whose temporal layers do something."""
    torch.manual_seed(seed)
    unet = LaVieUNet(config)
    for parameter in unet.parameters():
        if not parameter.any() and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    save_file({key: value.contiguous() for key, value in unet.state_dict().items()}, path, metadata_of(config))
    return path


def lcm_layers(config: UNetConfig) -> dict[str, torch.Size]:
    """{diffusers' name: shape of the weight} of the layers of LCM_TARGETS, in an SD UNet of a base model's sizes."""
    down, up = (
        [f"{'CrossAttn' if level else ''}{way}Block2D" for level in levels]
        for way, levels in (("Down", config.attention_levels), ("Up", config.attention_levels[::-1]))
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=config.block_channels, cross_attention_dim=config.context_dim, down_block_types=down,
            up_block_types=up, layers_per_block=config.layers_per_block,
        )  # fmt: skip
    shapes = {name.removesuffix(".weight"): value.shape for name, value in unet.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if name.endswith(tuple(f".{one}" for one in LCM_TARGETS))}


def lcm_lora(config: UNetConfig) -> dict[str, torch.Tensor]:
    """Random weights of rank 1 under the names that lcm-lora-sdv1-5 has."""
    lora = {}
    for name, (out, inner, *kernel) in lcm_layers(config).items():
        key = f"lora_unet_{name.replace('.', '_')}"
        lora[f"{key}.lora_up.weight"] = 0.1 * torch.randn(out, 1, *(1 for _ in kernel))
        lora[f"{key}.lora_down.weight"] = 0.1 * torch.randn(1, inner, *kernel)
        lora[f"{key}.alpha"] = torch.tensor(1.0)
    return lora


def edited(source: Path, target: Path, changes: dict[str, torch.Tensor], name: str = "base"):
    """A model from ``source`` with ``changes`` added to its weights: what a LoRA should amount to."""
    weights = load_file(source)
    for key, change in changes.items():
        weights[key] = weights[key] + change.view_as(weights[key])
    config = TINY[name]
    save_file(weights, target, metadata_of(config))
    return load_model(str(target), config.stage)


def run(node, **inputs) -> tuple:
    """Outputs of a core or LaVie node, of either of ComfyUI's node interfaces."""
    if hasattr(node, "define_schema"):
        out = node.execute(**inputs)
        return out if isinstance(out, tuple) else out.args
    return getattr(node(), node.FUNCTION)(**inputs)


def random(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise(frames: int = FRAMES, seed: int = 5, size: int = 8) -> torch.Tensor:
    return random(frames, 4, size, size, seed=seed)


def text(seed: int, width: int = 16, tokens: int = 7, frames: int = 1, **values) -> list:
    """CONDITIONING of random text."""
    return [[random(frames, tokens, width, seed=seed), values]]


def moving_mask() -> torch.Tensor:
    """(F, 64, 64): ones in a column of 16 pixels that moves on by 8 with every frame."""
    mask = torch.zeros(FRAMES, 64, 64)
    for i in range(FRAMES):
        mask[i, :, 8 * i : 8 * i + 16] = 1.0
    return mask


def guider(model, positive, negative=None, cfg: float = 1.0) -> comfy.samplers.CFGGuider:
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive, positive if negative is None else negative)
    made.set_cfg(cfg)
    return made


class EachLevel(comfy.samplers.Sampler):
    """Calls the model at every noise level, as samplers do, always with the same input; returns the last prediction."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *others):
        for sigma in sigmas[:-1]:
            denoised = model_wrap(noise, sigma.expand(len(noise)), **extra_args)
        return denoised


def step(guider, x: torch.Tensor, *sigmas: float) -> torch.Tensor:
    """The denoised latent, in the model's own units, that ``guider`` predicts from ``x`` at the last of ``sigmas``."""
    levels = torch.tensor([*(sigmas or (1.0,)), 0.0])
    out = guider.sample(x, torch.zeros_like(x), EachLevel(), levels, seed=0, disable_pbar=True)
    return guider.model_patcher.model.latent_format.process_in(out)


def predict(model, seed: int = 1, sigma: float = 1.0, frames: int = FRAMES, size: int = 8, cfg: float = 1.0):
    """One step of a model of any stage, with text of its width and what its stage is conditioned on."""
    config = model.model.model_config.lavie_config
    values = given(config.stage, frames, size) if config.in_channels > 4 else {}
    positive, negative = (text(s, config.context_dim, **values) for s in (seed, seed + 1))
    return step(guider(model, positive, negative, cfg), noise(frames, size=size), sigma)


def given(stage: str, frames: int, size: int = 8) -> dict:
    """What the conditioning nodes of a stage add: frames to start from, each of its own."""
    if stage == "super_resolution":
        return {LOW_RESOLUTION: random(frames, 3, size, size, seed=11), NOISE_LEVEL: 50}
    return {SOURCE_LATENTS: random(frames, 4, size, size, seed=11)}


def sample(
    guider, latent: torch.Tensor, sigmas: torch.Tensor, sampler="euler", seed: int = 0, mask=None, callback=None
):
    """A whole run with core's noise for ``seed``; latents in the VAE's units, as nodes pass them."""
    noisy = comfy.sample.prepare_noise(latent, seed)
    chosen = comfy.samplers.sampler_object(sampler)
    return guider.sample(
        noisy, latent, chosen, sigmas, denoise_mask=mask, callback=callback, disable_pbar=True, seed=seed
    )


def sigmas(model, steps: int, scheduler: str = "normal") -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def windows(
    model, length=4, overlap=0, schedule="batched", fuse="flat", dim=0, freenoise=False, causal=False, retain=""
):
    return run(
        ContextWindowsManualNode, model=model, context_length=length, context_overlap=overlap, dim=dim,
        context_schedule=schedule, context_stride=1, closed_loop=False, fuse_method=fuse, freenoise=freenoise,
        cond_retain_index_list=retain, causal_window_fix=causal,
    )[0]  # fmt: skip


def extended(made, video, frames, clip_frames=6, overlap=2, steps=3, seed=3, denoise=1.0):
    return run(
        LaVieExtendVideo, noise=Noise_RandomNoise(seed), guider=made, sampler=EULER,
        sigmas=sigmas(made.model_patcher, steps), latent={"samples": video}, total_frames=frames,
        clip_frames=clip_frames, overlap=overlap, denoise=denoise,
    )[0]["samples"]  # fmt: skip


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference in parts of the norm of ``b``."""
    return ((a - b).norm() / b.norm()).item()


# --- ComfyUI's own SD UNet with the same weights ----------------------------------------------------------------------

# Three levels, so that patches which look for certain widths find them.
TWIN = UNetConfig.base(
    block_channels=(32, 64, 128), attention_levels=(True, True, True), num_heads=1, layers_per_block=1, context_dim=16
)


def twins(path: Path, frames: int) -> tuple:
    """(LaVie base, ComfyUI's SD 1.x model) of the same spatial weights, and a noise on which they agree.

    Temporal attention adds nothing and all ``frames`` of the noise are alike, so that statistics over the clip are
    those of a frame: whatever a node does to the one it must do to the other.
    """
    torch.manual_seed(0)
    unet = LaVieUNet(TWIN)
    save_file(unet.state_dict(), path, metadata_of(TWIN))
    config = comfy.supported_models.SD15(
        {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1, 1],
            "channel_mult": [1, 2, 4], "transformer_depth": [1] * 3, "transformer_depth_output": [1] * 6,
            "transformer_depth_middle": 1, "context_dim": 16, "use_spatial_transformer": True, "legacy": False,
            "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
        }
    )  # fmt: skip
    config.unet_config["num_heads"] = TWIN.num_heads
    config.sampling_settings = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02}
    config.set_inference_dtype(torch.float32, None)
    theirs = comfy.model_base.BaseModel(config)
    missing, _ = theirs.diffusion_model.load_state_dict(unet.state_dict(), strict=False)
    assert not missing
    device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(theirs, device, torch.device("cpu"))
    x = noise(1).repeat(frames, 1, 1, 1)
    return load_model(str(path), "base"), patcher, x
