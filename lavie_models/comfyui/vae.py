"""VAE files as ComfyUI's own VAE objects.

Contract: what `load_vae` returns is a comfy.sd.VAE with 4 latent channels, for core's decode, encode and tiled nodes.
Stable Diffusion's autoencoder is accepted with diffusers or LDM names, with or without the prefix it has inside a
checkpoint; our nano autoencoder, told by its metadata, takes the place of the network inside such a VAE.
"""

from __future__ import annotations

import json

import comfy.diffusers_convert
import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch

from ..autoencoder import AutoencoderConfig, NanoAutoencoder
from ..checkpoint import CheckpointError
from .files import read_model_file

PREFIXES = ("first_stage_model.", "vae.", "module.")
LATENT_CHANNELS = 4


def load_vae(path: str, device: torch.device | None = None) -> comfy.sd.VAE:
    """Load a VAE file. Raises CheckpointError saying what the file is if it is anything else, or not whole."""
    weights, metadata = read_model_file(path, "vae")
    build = _nano_vae if "lavie.config" in metadata else _stable_diffusion_vae
    try:
        vae = build(path, weights, metadata, device)
    except CheckpointError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:  # sizes that do not fit, told by torch or json
        raise CheckpointError(f"{path} is not an autoencoder of the expected layout: {error}") from error
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
            f"{path} is a VAE with {channels} latent channels; LaVie needs the one of Stable Diffusion 1.x with "
            f"{LATENT_CHANNELS}, such as vae-ft-mse-840000-ema-pruned"
        )
    vae = comfy.sd.VAE(sd=dict(weights), device=device, metadata=metadata)
    _require_whole(path, vae.first_stage_model, weights)
    return vae


def _nano_vae(path: str, weights: dict, metadata: dict, device) -> comfy.sd.VAE:
    """A VAE that ComfyUI sets up for its own network (device, dtype, sizes), with ours put in its place."""
    vae = _placeholder_vae(device)
    config = AutoencoderConfig.from_dict(json.loads(metadata["lavie.config"]))
    model = NanoAutoencoder(config, comfy.ops.disable_weight_init, dtype=vae.vae_dtype).eval().requires_grad_(False)
    comfy.model_management.archive_model_dtypes(model)
    _require_whole(path, model, weights)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    model.load_state_dict(weights, assign=patcher.is_dynamic())
    vae.first_stage_model, vae.patcher, vae.size = model, patcher, None
    vae.model_size()
    # Peak of activations, in numbers per pixel: `head` channels at full size, `width` / 16 in patches of 4 x 4.
    per_pixel = 4 * max(config.head, config.width // NanoAutoencoder.PATCH**2)
    vae.memory_used_encode = lambda shape, dtype: per_pixel * shape[2] * shape[3] * dtype.itemsize
    vae.memory_used_decode = lambda shape, dtype: per_pixel * shape[2] * shape[3] * 64 * dtype.itemsize
    return vae


def _placeholder_vae(device) -> comfy.sd.VAE:
    """The smallest VAE of 4 channels and factor 8 as far as ComfyUI is concerned."""
    sizes = {"double_z": True, "z_channels": LATENT_CHANNELS, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
             "ch_mult": [1], "num_res_blocks": 0, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    params = {"ddconfig": sizes, "embed_dim": LATENT_CHANNELS}
    weights = comfy.ldm.models.autoencoder.AutoencoderKL(**params).state_dict()
    return comfy.sd.VAE(sd=weights, device=device, config={"params": params})


def _require_whole(path: str, model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing:
        raise CheckpointError(
            f"{path} is not a whole VAE: {len(missing)} weights are missing, the first is {missing[0]}; "
            "get the file again"
        )


def _ldm_names(path: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The autoencoder's own weights under LDM names. Raises CheckpointError where there are none."""
    marker = "decoder.conv_in.weight"
    found = next((p + marker for p in ("", *PREFIXES) if p + marker in weights), None)
    if found is None:
        raise CheckpointError(
            f"{path} holds no Stable Diffusion VAE (expected {marker}, with or without first_stage_model. before it); "
            "use an SD 1.x VAE or lavie_nano_vae"
        )
    prefix = found.removesuffix(marker)
    parts = tuple(prefix + part for part in ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(parts)}
    if "decoder.up_blocks.0.resnets.0.norm1.weight" in weights:
        weights = comfy.diffusers_convert.convert_vae_state_dict(weights)
    return weights
