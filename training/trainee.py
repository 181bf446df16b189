"""What is trained, as one module: the UNet, perhaps adapters, perhaps a text encoder; its average and its optimiser.

Contract: `Trainee` maps a batch to its rows' losses, so that distributed wrappers see one module with one forward pass.
Parameters that learn are float32; frozen matrices and kernels have the precision of the run.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..lavie_models import LaVieUNet
from ..lavie_models.dtypes import DTYPES
from ..lavie_models.resnet import ResBlock, TemporalModule
from ..lavie_models.schedule import alphas_cumprod, rescale_to_zero_terminal_snr
from ..lavie_models.transformer import SpatialTransformer
from ..lavie_models.unet import is_temporal
from .distill import distillation_losses
from .lora import LoRA, text_layers, unet_layers
from .muon import Muon, split_matrices
from .recipe import OptimizerSettings, Recipe
from .start import starting_unet
from .step import Batch, row_losses

BLOCKS = (ResBlock, SpatialTransformer, TemporalModule)  # what gradient checkpointing computes again, one at a time
MOMENTUM = 0.9  # of Muon
PRECISIONS = {"no": torch.float32, **{name: DTYPES[name] for name in ("bf16", "fp16")}}


def eager_attention(q, k, v, heads: int, mask=None, transformer_options=None):
    """Plain matrix products: on sequences as short as the nano model's about 1.3 times as fast as the fused kernel."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class Trainee(nn.Module):
    """The networks of one training.

    Attributes:
        unet, unet_lora, text, text_lora: the latter three None where the recipe does without.
        prediction: what the UNet predicts. source: 16 digits that identify what it started from.
    """

    def __init__(self, recipe: Recipe, text_model: nn.Module, device):
        super().__init__()
        device = torch.device(device)
        self.prediction, lora = recipe.model.prediction, recipe.lora
        self.distillation = recipe.distillation
        unet, self.source = starting_unet(recipe, eager_attention if device.type == "cpu" else None)
        whole = recipe.run.parallel == "ddp"  # shards are made of contiguous float32 tensors
        self.unet = unet.channels_last() if whole else unet
        self.text = text_model if lora and lora.text_encoder else None
        self.unet_lora = self.text_lora = None
        if lora:
            self.unet_lora = LoRA(self.unet, unet_layers(self.unet, lora.targets), lora.rank, lora.alpha)
            if self.text is not None:
                self.text_lora = LoRA(self.text, text_layers(self.text), lora.rank, lora.alpha)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(not lora and _learns(recipe, name))
        if recipe.model.train == "temporal":
            keep_norms_from_crashing(self.unet)
        if recipe.run.gradient_checkpointing:
            checkpoint_blocks(self.unet)
        alphas = alphas_cumprod()
        if recipe.objective.zero_terminal_snr:
            alphas = rescale_to_zero_terminal_snr(alphas)
        self.register_buffer("alphas", alphas, persistent=False)
        if whole:
            for parameter in self.unet.parameters():
                if not parameter.requires_grad and parameter.ndim > 1:
                    parameter.data = parameter.data.to(PRECISIONS[recipe.run.precision])
        self.to(device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, 2): mean squared error of each row's clip and of its images; in distillation, their distances."""
        if self.distillation:
            return distillation_losses(
                self.unet, self.unet_lora, batch, batch.text, self.alphas, self.prediction, self.distillation
            )
        return row_losses(self.unet, batch, self.context(batch.text), self.alphas, self.prediction)

    def context(self, text: torch.Tensor) -> torch.Tensor:
        """Encoded captions; token numbers go through the text encoder that learns."""
        return text if self.text is None else self.text(text).last_hidden_state


def _learns(recipe: Recipe, name: str) -> bool:
    if not recipe.data.video:
        return not is_temporal(name)  # single images say nothing about time
    return {"all": True, "temporal": is_temporal(name), "spatial": not is_temporal(name)}[recipe.model.train]


def checkpoint_blocks(unet: LaVieUNet) -> None:
    """Keep only the inputs of residual blocks, transformers and temporal modules; compute the rest again for gradients.

    The blocks stay the modules they are, so neither names nor the UNet's code know of it.
    """
    for module in unet.modules():
        if isinstance(module, BLOCKS):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)


def keep_norms_from_crashing(unet: LaVieUNet) -> None:
    """Let what enters a GroupNorm that learns want a gradient, though frozen layers made it; the gradient ends there.

    Without, torch's CPU kernel (2.11) ends the process: channels-last input that wants no gradient, weights that do.
    """

    def forward(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        return nn.functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

    for module in unet.modules():
        if isinstance(module, nn.GroupNorm) and module.weight.requires_grad:
            module.forward = partial(forward, module)


def find_trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that learn, by the names they have in checkpoints (a wrapper's prefix removed)."""
    return {
        name.removeprefix("module."): parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


class Average:
    """Exponential moving average of parameters, on their device; it begins as a copy.

    The rate rises to ``decay`` as (1 + n) / (10 + n) over n updates, so that a short run's average is not its start.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float):
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in parameters.values()], 1 - decay)

    @contextmanager
    def in_place_of(self, parameters: dict[str, nn.Parameter]):
        """The averages as the module's parameters, for as long as the context lasts."""
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        _copy(self.values, parameters)
        try:
            yield
        finally:
            _copy(kept, parameters)


@torch.no_grad()
def _copy(values: dict[str, torch.Tensor], parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def make_optimizer(settings: OptimizerSettings, groups: list[dict]) -> torch.optim.Optimizer:
    """Of parameter groups, whose ``share`` of ``settings.lr`` each is learned by.

    Raises ImportError naming what an 8-bit one needs.
    """
    options = {"betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, **options)
    if settings.name == "muon":
        parts = [(group, *split_matrices(group["params"])) for group in groups]
        faster = settings.matrix_lr / settings.lr
        matrices = [{**group, "params": large, "share": group["share"] * faster, "momentum": MOMENTUM}
                    for group, large, _ in parts if large]  # fmt: skip
        rest = [{**group, "params": small} for group, _, small in parts if small]
        return Muon([*matrices, *rest], **options)
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise ImportError(
                "optimizer.name = adamw8bit needs the package torchao (or bitsandbytes, on NVIDIA); install one of "
                "them, or use adamw"
            ) from None
    return AdamW8bit(groups, **options)
