"""VAE files as ComfyUI's own VAE objects.

Contract: what `load_vae` returns is a comfy.sd.VAE with 4 latent channels, for core's decode, encode and tiled nodes.
Stable Diffusion's autoencoder (factor 8) and that of the x4-upscaler (factor 4, one level less) are accepted with
diffusers or LDM names, with or without the prefix they have inside a checkpoint; our nano autoencoder, told by its
metadata, takes the place of the network inside such a VAE. `upscale_ratio` and `downscale_ratio` are the factor.

Of the factor-4 autoencoder:
* It never runs in fp16, where its activations overflow and images come out black, but in bf16 or fp32, as the device
  can. ComfyUI's --fp16-vae does not change that: it is one setting for all VAEs, and this one cannot follow it.
* ComfyUI's estimate of the memory for decoding takes 64 pixels per latent pixel for granted; ours counts 16. What a
  pixel takes is ComfyUI's own figure, which leaves room for GPU libraries: decoding takes half of it on a CPU. It
  does not count the middle block's attention where ComfyUI cuts that into slices as large as memory allows (CPU, AMD).
"""

from __future__ import annotations

import logging
import math
import re

import comfy.diffusers_convert
import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch

from ..autoencoder import AutoencoderConfig, NanoAutoencoder
from ..config import LATENT_CHANNELS
from ..errors import CheckpointError
from ..metadata import CONFIG, read_object
from ..weights_file import inspect_weights
from .files import building, open_model_file, require_layout

log = logging.getLogger(__name__)

PREFIXES = ("first_stage_model.", "vae.", "module.")
LEVELS = 4  # of Stable Diffusion's autoencoder, which ComfyUI's renaming takes for granted
DECODE_PER_ENCODE = 2178 / 1767  # ComfyUI's estimates, numbers per pixel
RIGHT_ONES = (
    "use a VAE of Stable Diffusion 1.x (such as vae-ft-mse-840000-ema-pruned) for the base and interpolation networks, "
    "the x4-upscaler's (stable-diffusion-x4-upscaler/vae) for super-resolution, lavie_nano_vae for the nano models"
)


def load_vae(path: str, device: torch.device | None = None) -> comfy.sd.VAE:
    """Load a VAE file. Raises CheckpointError saying what the file is if it is anything else, or not whole."""
    file = open_model_file(path, "vae")
    build = _nano_vae if CONFIG in file.metadata else _stable_diffusion_vae
    with building(path, "an autoencoder"):
        vae = build(path, file.weights, file.metadata, device)
    vae.patcher.cached_patcher_init = (_load_vae_patcher, (path, device))
    return vae


def _load_vae_patcher(path, device=None, disable_dynamic=False):
    """ComfyUI's way to make the same patcher again, on another device for instance."""
    return load_vae(path, device).patcher


def _stable_diffusion_vae(path: str, weights: dict, metadata: dict, device) -> comfy.sd.VAE:
    weights = _ldm_names(path, weights)
    channels = weights["decoder.conv_in.weight"].shape[1]
    if channels != LATENT_CHANNELS:
        raise CheckpointError(
            f"{path} is a VAE with {channels} latent channels; LaVie needs one with {LATENT_CHANNELS}: {RIGHT_ONES}"
        )
    inspect_weights(path, weights)
    last_upsampler = f"decoder.up.{LEVELS - 1}.upsample.conv.weight"
    if last_upsampler in weights:
        vae = comfy.sd.VAE(sd=dict(weights), device=device, metadata=metadata)
    else:
        vae = comfy.sd.VAE(sd=dict(weights), device=device, metadata=metadata, dtype=_dtype_without_fp16(device))
        _count_memory_by_pixels(vae)
    _require_whole(path, vae.first_stage_model, weights)
    return vae


def _dtype_without_fp16(device) -> torch.dtype:
    """bf16 or fp32: what the options and the device say, but for --fp16-vae."""
    device = comfy.model_management.vae_device() if device is None else device
    dtype = comfy.model_management.vae_dtype(device, [torch.bfloat16, torch.float32])
    if dtype != torch.float16:
        return dtype
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32


def _count_memory_by_pixels(vae: comfy.sd.VAE) -> None:
    """Estimate decoding from encoding, whose estimate is of pixels and so holds for every factor."""
    encode, factor = vae.memory_used_encode, vae.upscale_ratio

    def decode(shape, dtype) -> float:
        height, width = _sides(shape)
        return DECODE_PER_ENCODE * encode((shape[0], 3, factor * height, factor * width), dtype)

    vae.memory_used_decode = decode


def _nano_vae(path: str, weights: dict, metadata: dict, device) -> comfy.sd.VAE:
    """A VAE that ComfyUI sets up for its own network (device, dtype, sizes), with ours put in its place."""
    vae = _placeholder_vae(device)
    config = AutoencoderConfig.from_dict(read_object(metadata, CONFIG))
    require_layout("nano VAE", weights, NanoAutoencoder(config, device="meta").state_dict())
    inspect_weights(path, weights)
    model = NanoAutoencoder(config, comfy.ops.disable_weight_init, dtype=vae.vae_dtype).eval().requires_grad_(False)
    comfy.model_management.archive_model_dtypes(model)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    model.load_state_dict(weights, assign=patcher.is_dynamic())
    vae.first_stage_model, vae.patcher, vae.size = model, patcher, None
    vae.downscale_ratio = vae.upscale_ratio = config.factor
    vae.model_size()
    # Peak of activations and a margin: about 4 numbers per channel and pixel (16 pixels share `width` channels) when
    # encoding, 2.5 when decoding, and a convolution's weight in another order.
    patches, weight = config.width // NanoAutoencoder.PATCH**2, 9 * config.width**2
    encode, decode = 5 * max(3, patches), 4 * max(config.head, patches) * config.factor**2
    vae.memory_used_encode = lambda shape, dtype: (encode * math.prod(_sides(shape)) + weight) * dtype.itemsize
    vae.memory_used_decode = lambda shape, dtype: (decode * math.prod(_sides(shape)) + weight) * dtype.itemsize
    return vae


def _sides(shape) -> tuple[int, int]:
    """(height, width) of a batch of images or latents. Raises ValueError: core asks for memory before all else."""
    if len(shape) != 4:
        raise ValueError(
            f"this VAE is for frames and latents of shape (frames, channels, height, width), got {tuple(shape)}; use "
            "what a LaVie stage or VAE Encode gives"
        )
    return shape[2], shape[3]


def _placeholder_vae(device) -> comfy.sd.VAE:
    """The smallest VAE of 4 channels as far as ComfyUI is concerned."""
    sizes = {"double_z": True, "z_channels": LATENT_CHANNELS, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
             "ch_mult": [1], "num_res_blocks": 0, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    params = {"ddconfig": sizes, "embed_dim": LATENT_CHANNELS}
    weights = comfy.ldm.models.autoencoder.AutoencoderKL(**params).state_dict()
    return comfy.sd.VAE(sd=weights, device=device, config={"params": params})


def _require_whole(path: str, model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Of a VAE of another project: nothing may be missing, what is too much is said and left out."""
    expected = model.state_dict()
    if surplus := sorted(set(weights) - set(expected)):
        log.warning("%s: %d weights belong to no layer, the first is %s", path, len(surplus), surplus[0])
    require_layout("VAE", {key: value for key, value in weights.items() if key in expected}, expected)


def _ldm_names(path: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The autoencoder's own weights under LDM names. Raises CheckpointError where there are none."""
    marker = "decoder.conv_in.weight"
    found = next((p + marker for p in ("", *PREFIXES) if p + marker in weights), None)
    if found is None:
        raise CheckpointError(
            f"{path} holds no Stable Diffusion VAE (expected {marker}, with or without first_stage_model. before it): "
            f"{RIGHT_ONES}"
        )
    prefix = found.removesuffix(marker)
    parts = tuple(prefix + part for part in ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(parts)}
    if "decoder.up_blocks.0.resnets.0.norm1.weight" in weights:
        surplus = LEVELS - len({key.split(".")[2] for key in weights if key.startswith("decoder.up_blocks.")})
        weights = comfy.diffusers_convert.convert_vae_state_dict(weights)
        # diffusers counts up blocks from the coarsest, LDM from the finest, ComfyUI's renaming with four in mind.
        weights = {_renumber_up_block(key, surplus): value for key, value in weights.items()}
    return weights


def _renumber_up_block(key: str, surplus: int) -> str:
    return re.sub(r"^decoder\.up\.(\d+)", lambda found: f"decoder.up.{int(found[1]) - surplus}", key)
