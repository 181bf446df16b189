"""What one training step of a UNet costs, found by running it on torch's meta device: FLOPs and peak memory.

Contract: the real LaVieUNet and the real objective run forwards and backwards at full size without computing a number.
Layers imitate CUDA's autocast (matrix products and convolutions in bf16, normalisation in float32) and attention keeps
what a fused kernel keeps (queries, keys, values, output, one number per query), so sizes are those of a GPU run up to
workspace and fragmentation. FLOPs are two per multiply-add.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..lavie_models import LaVieUNet, UNetConfig
from ..lavie_models.conditioning import MAX_NOISE_LEVEL
from ..lavie_models.schedule import alphas_cumprod
from ..lavie_models.unet import is_temporal
from ..training.step import Batch, row_losses
from ..training.trainee import checkpoint_blocks
from .measure import PeakMemory

LOW = torch.bfloat16


def _cast(module: nn.Module):
    """A layer class whose inputs and parameters are cast to bf16 in use, as autocast casts them."""

    class Cast(module):
        def forward(self, x):
            x, weight = x.to(LOW), self.weight.to(LOW)
            bias = None if self.bias is None else self.bias.to(LOW)
            return F.linear(x, weight, bias) if module is nn.Linear else self._conv_forward(x, weight, bias)

    return Cast


def _float32(module: nn.Module):
    """A normalisation that works in float32, as autocast has it."""

    class Float32(module):
        def forward(self, x):
            return super().forward(x.float())

    return Float32


class AutocastLayers:
    """What stands in for ``torch.nn`` in LaVieUNet's ``operations``."""

    Linear, Conv2d, Conv3d = _cast(nn.Linear), _cast(nn.Conv2d), _cast(nn.Conv3d)
    GroupNorm, LayerNorm, Embedding = _float32(nn.GroupNorm), _float32(nn.LayerNorm), nn.Embedding


class FusedAttention(torch.autograd.Function):
    """Shapes of a fused attention kernel; counts what it would compute in ``flops``."""

    flops = 0

    @staticmethod
    def forward(ctx, q, k, v, mask, heads):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty((q.shape[0], heads, q.shape[1]), dtype=torch.float32))
        ctx.mask = mask
        FusedAttention.flops += 2 * FusedAttention.product(q, k)
        return out

    @staticmethod
    def backward(ctx, gradient):
        q, k, v, *_ = ctx.saved_tensors
        FusedAttention.flops += 5 * FusedAttention.product(q, k)  # scores again, and four gradients
        mask = None if ctx.mask is None else torch.empty_like(ctx.mask)
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), mask, None

    @staticmethod
    def product(q, k) -> int:
        """FLOPs of queries times keys, over all heads."""
        return 2 * q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]


def fused_attention(q, k, v, heads, mask=None, transformer_options=None):
    """`attention.sdpa_attention` in shapes alone."""
    q, k, v = (t.to(LOW) for t in (q, k, v))
    return FusedAttention.apply(q, k, v, None if mask is None else mask.to(LOW), heads)


@dataclass(frozen=True)
class Footprint:
    """One step. ``parameters`` and ``trained`` are counts; ``forward_flops`` and ``flops`` are the forward pass's and
    the whole step's; ``activations`` are bytes at the peak beyond weights, gradients and the optimiser's states."""

    parameters: int
    trained: int
    forward_flops: int
    flops: int
    activations: int


def footprint(
    config: UNetConfig, frames: int, images: int, height: int, width: int, rows: int = 1, checkpointing: bool = False,
    temporal_only: bool = False,
) -> Footprint:  # fmt: skip
    """Run one step on ``rows`` rows of ``frames`` + ``images`` latents of ``height`` x ``width``."""
    unet = LaVieUNet(config, operations=AutocastLayers, attention=fused_attention, device="meta")
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(is_temporal(name) or not temporal_only)
    if checkpointing:
        checkpoint_blocks(unet)
    batch = training_batch(config, frames, images, height, width, rows, "meta")
    alphas = alphas_cumprod().to("meta")
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)  # there from the start, so that the peak is activations alone

    def loss() -> torch.Tensor:
        return row_losses(unet, batch, batch.text, alphas, "epsilon").mean()

    memory, counter = PeakMemory(), FlopCounterMode(display=False)
    with memory:
        loss().backward()
    FusedAttention.flops = 0
    with counter:  # by itself, for it keeps tensors alive
        value = loss()
        forward = counter.get_total_flops() + FusedAttention.flops
        value.backward()
    return Footprint(
        sum(parameter.numel() for parameter in unet.parameters()), sum(parameter.numel() for parameter in trained),
        forward, counter.get_total_flops() + FusedAttention.flops, memory.peak,
    )  # fmt: skip


def training_batch(
    config: UNetConfig, frames: int, images: int, height: int, width: int, rows: int, device: str
) -> Batch:
    """Rows of zeros as a training step takes them."""
    shape, options = (rows, frames + images), {"device": device}
    latents = torch.zeros(*shape, 4, height, width, **options)
    more, levels = config.in_channels - 4, config.architecture.noise_levels
    return Batch(
        latents, torch.zeros_like(latents), torch.zeros(rows, dtype=torch.long, **options),
        torch.zeros(rows * (1 + images), 77, config.context_dim, **options), frames, images,
        torch.zeros(*shape, more, height, width, **options) if more else None,
        torch.full((rows,), MAX_NOISE_LEVEL, **options) if levels else None,
    )  # fmt: skip
