"""The networks under test, built from one description of the case: a stage of LaVie, and its peer in diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..lavie_models import LaVieUNet, UNetConfig
from ..lavie_models.attention import sdpa_attention
from ..lavie_models.config import NORM_GROUPS
from ..lavie_models.dtypes import DTYPES
from ..lavie_models.published import PUBLISHED, Published
from ..lavie_models.unet import COMPUTE_AGAIN

TEXT_TOKENS = 77


@dataclass(frozen=True)
class Case:
    """What both networks compute.

    Attributes:
        stage: "base", "interpolation" or "super_resolution".
        frames: length of the one clip, 1 or more.
        size: height and width of the latents, a multiple of 8 (three halvings; the peer cannot do others).
        width_divisor: 1 for published width; others divide every level's width, for a quick look.
        dtype: a name of ``DTYPES``.
        device: "cpu" or "cuda".
        threads: threads of CPU kernels.
    """

    stage: str = "base"
    frames: int = 16
    size: int = 32
    width_divisor: int = 1
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        if self.frames < 1 or self.size < 8 or self.size % 8:
            raise ValueError(
                "expected 1 frame or more and a size that is a multiple of 8, got "
                f"{self.frames} frames, size {self.size}"
            )
        widths = PUBLISHED[self.stage].config.block_channels
        fitting = [n for n in range(1, 11) if not any(width % (n * NORM_GROUPS) for width in widths)]
        if self.width_divisor not in fitting:
            raise ValueError(
                f"width_divisor of {self.stage} must be one of {fitting} (groups of {NORM_GROUPS} channels), got "
                f"{self.width_divisor}"
            )

    @property
    def config(self) -> UNetConfig:
        """The stage's; when narrower with fewer heads, since a head needs 32 channels or more."""
        published = PUBLISHED[self.stage].config
        widths = tuple(width // self.width_divisor for width in published.block_channels)
        heads = max(1, published.num_heads // self.width_divisor)
        return replace(published, block_channels=widths, num_heads=heads)


def lavie(case: Case) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """The stage's LaVieUNet and a function that runs it once."""
    unet = LaVieUNet(case.config, **_factory(case)).eval().channels_last()
    latents, timestep, text = _inputs(case)
    level = torch.tensor([50], device=case.device) if case.config.architecture.noise_levels else None
    return unet, lambda: unet(latents, timestep, text, num_frames=case.frames, noise_level=level)


def peer(case: Case) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """diffusers' UNetMotionModel of the stage's widths (base: SD 1.5 with motion adapter v1-5-2), and a function that
    runs it once. It has a temporal transformer after every residual block, and none of the stages' own layers."""
    from diffusers import UNetMotionModel

    config = case.config
    kinds = ["CrossAttn" if attends else "" for attends in config.attention_levels]
    unet = UNetMotionModel(
        in_channels=config.in_channels,
        down_block_types=tuple(f"{kind}DownBlockMotion" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlockMotion" for kind in reversed(kinds)),
        block_out_channels=config.block_channels,
        cross_attention_dim=config.context_dim,
        num_attention_heads=config.num_heads,
        motion_num_attention_heads=config.num_heads,
        motion_max_seq_length=max(32, case.frames),
    )
    unet = unet.to(**_factory(case)).eval()
    latents, timestep, text = _inputs(case)
    latents = latents.transpose(0, 1)[None].contiguous()  # (F, C, H, W) -> (1, C, F, H, W)
    text = text.repeat_interleave(case.frames, dim=0)  # it takes the text once per frame, as its pipeline gives it
    return unet, lambda: unet(latents, timestep, text).sample


def _fused_attention(q, k, v, heads, mask=None, transformer_options=None):
    """What a fused kernel leaves behind: its result, no scores."""
    return torch.empty_like(q)


def published_forward(
    case: Published, dtype: torch.dtype, device: str, again: bool, unet: torch.nn.Module | None = None
) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """A stage's network as published, or ``unet``, and a function that runs it once on one window; on "meta" in sizes
    alone. ``again``: see ``unet.COMPUTE_AGAIN``."""
    config, made = case.config, {"dtype": dtype, "device": device}
    if unet is None:
        attention = _fused_attention if device == "meta" else sdpa_attention
        unet = LaVieUNet(config, attention=attention, **made).eval().channels_last()
    x = torch.zeros(case.window, config.in_channels, *case.latents, **made)
    text, timestep = torch.zeros(1, TEXT_TOKENS, config.context_dim, **made), torch.zeros(1, device=device)
    level = timestep.long() if config.architecture.noise_levels else None
    options = {"num_frames": case.window, "noise_level": level, "transformer_options": {COMPUTE_AGAIN: again}}
    return unet, lambda: unet(x, timestep, text, **options)


SUBJECTS = {"LaVieUNet": lavie, "UNetMotionModel": peer}


def _factory(case: Case) -> dict:
    return {"dtype": DTYPES[case.dtype], "device": case.device}


def _inputs(case: Case):
    """Latents (F, C, size, size), timestep (1,), text (1, 77, width); the same for both networks."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(case.frames, case.config.in_channels, case.size, case.size, generator=rng)
    text = torch.randn(1, TEXT_TOKENS, case.config.context_dim, generator=rng)
    return latents.to(**_factory(case)), torch.tensor([500], device=case.device), text.to(**_factory(case))
