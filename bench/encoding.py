"""What the frozen encoders around a training cost per step, found by running them on torch's meta device.

Contract: sizes are those of the published cascade: the VAE and text encoder of Stable Diffusion 1.x, for
super-resolution those of the x4-upscaler. FLOPs are two per multiply-add.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..lavie_models.autoencoder import LATENT_SCALES

VAE_WIDTHS = {8: (128, 256, 512, 512), 4: (128, 256, 512)}  # by pixels per latent
TEXT_SIZES = {"super_resolution": (1024, 23, 16)}  # width, layers, heads: OpenCLIP ViT-H
TEXT_SIZE = (768, 12, 12)  # CLIP ViT-L/14
TOKENS = 77


@dataclass(frozen=True)
class EncodingCost:
    """Of one step: FLOPs of the VAE and of the text encoder, and bytes of both networks' float32 weights."""

    vae_flops: int
    text_flops: int
    weights: int


NO_ENCODING = EncodingCost(0, 0, 0)


def encoding_cost(stage: str, pictures: int, texts: int, height: int, width: int) -> EncodingCost:
    """To encode ``pictures`` whose latents are ``height`` x ``width``, and ``texts``."""
    from transformers import CLIPTextConfig, CLIPTextModel

    factor = 4 if stage == "super_resolution" else 8
    hidden, layers, heads = TEXT_SIZES.get(stage, TEXT_SIZE)
    with torch.device("meta"):
        vae = make_vae(factor, VAE_WIDTHS[factor])
        text = CLIPTextModel(CLIPTextConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                                            intermediate_size=4 * hidden))  # fmt: skip
        picture, tokens = torch.empty(1, 3, factor * height, factor * width), torch.zeros(1, TOKENS, dtype=torch.long)
        vae_flops, text_flops = _flops(vae.encode, picture), _flops(text, tokens)
    return EncodingCost(pictures * vae_flops, texts * text_flops, _bytes(vae) + _bytes(text))


def make_vae(factor: int, widths: tuple[int, ...]) -> nn.Module:
    """diffusers' AutoencoderKL of Stable Diffusion 1.x (factor 8) or the x4-upscaler (4), of these widths."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=widths, layers_per_block=2, latent_channels=4, scaling_factor=LATENT_SCALES[factor],
        down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
    )  # fmt: skip


def _flops(function, argument: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(argument)
    return counter.get_total_flops()


def _bytes(module: nn.Module) -> int:
    return sum(4 * parameter.numel() for parameter in module.parameters())
