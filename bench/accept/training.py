"""A training step of each stage: time and peak memory beside what ``bench scale`` computes from the network."""

from __future__ import annotations

import torch

from ...lavie_models import LaVieUNet
from ...lavie_models.published import PUBLISHED
from ...lavie_models.schedule import alphas_cumprod
from ...lavie_models.unet import is_temporal
from ...tables import markdown_table
from ...training.step import row_losses
from ...training.trainee import checkpoint_blocks, keep_norms_from_crashing
from ..footprint import footprint, training_batch
from ..measure import seconds
from .setting import Setting

TITLE = "Training"
READS = ()


def measure(setting: Setting) -> dict:
    """{stage: seconds, FLOPs, bytes of activations taken (CUDA alone) and predicted} with gradient checkpointing."""
    found = {}
    for stage in PUBLISHED:
        published = setting.published(stage)
        frames, images, height, width = published.crop
        temporal = stage == "super_resolution"
        cost = footprint(published.config, frames, images, height, width, 1, True, temporal)
        took, held = _step(setting, stage, temporal)
        found[stage] = {"seconds": took, "flops": cost.flops, "held": held, "predicted": cost.activations}
    return found


def _step(setting: Setting, stage: str, temporal_only: bool) -> tuple[float, int | None]:
    """Seconds of a step without its optimiser, and bytes at its peak beyond weights and gradients."""
    published, device = setting.published(stage), setting.device
    unet = LaVieUNet(published.config, device=device)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(is_temporal(name) or not temporal_only)
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    if temporal_only:
        keep_norms_from_crashing(unet)
    checkpoint_blocks(unet)
    batch = training_batch(published.config, *published.crop, rows=1, device=device)
    alphas = alphas_cumprod().to(device)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            row_losses(unet, batch, batch.text, alphas, "epsilon").mean().backward()

    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    took = seconds(step, device)[0]
    return took, torch.cuda.max_memory_allocated() - before if device == "cuda" else None


def report(result: dict) -> str:
    """One row per stage."""
    about = "One row per step, gradient checkpointing, on a GPU bf16 autocast, without the optimiser."
    rows = [
        (stage, f"{1 / row['seconds']:.3g}", f"{row['flops'] / row['seconds'] / 1e12:.3g}",
         "-" if row["held"] is None else f"{row['held'] / 1e9:.2f} GB", f"{row['predicted'] / 1e9:.2f} GB")
        for stage, row in result.items()
    ]  # fmt: skip
    return about + "\n\n" + markdown_table(("stage", "steps/s", "TFLOP/s", "activations", "predicted"), rows)
