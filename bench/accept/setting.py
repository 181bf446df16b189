"""What every part of the acceptance is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...lavie_models.published import PUBLISHED, Published


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: "cpu" or "cuda".
        toy: tiny networks and clips, to see that the parts work; figures then mean nothing.
        out: folder of the page, and of what parts keep beside it.
        models: folder with the published weights, or None.
        vram: sizes of graphics memory, in GB, to which ComfyUI is held in turn.
    """

    device: str
    toy: bool
    out: Path
    models: Path | None = None
    vram: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """Of the card, as a file may be called."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return "_".join((name + (" toy" if self.toy else "")).lower().replace("/", " ").split())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What networks run in on this device, names of `DTYPES`."""
        return ("fp16", "bf16") if self.device == "cuda" else ("fp32",)

    @property
    def repeats(self) -> int:
        """Timed runs of what is timed."""
        return 1 if self.toy else 3

    def published(self, stage: str) -> Published:
        """A stage as published, or a toy of it."""
        published = PUBLISHED[stage]
        return small(published) if self.toy else published


def small(published: Published) -> Published:
    """The same architecture on two levels of 32 and 64 channels, and two frames."""
    levels = published.config.attention_levels
    config = replace(
        published.config, block_channels=(32, 64), attention_levels=(levels[0], levels[-1]), num_heads=1,
        layers_per_block=1, context_dim=32,
    )  # fmt: skip
    crop = published.crop._replace(frames=2, images=min(1, published.crop.images), height=8, width=8)
    return replace(published, config=config, window=2, clip=3, latents=(8, 8), crop=crop)
