"""The two networks under test, built from one description of the case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..lavie_models import LaVieUNet, UNetConfig

WIDTHS = (320, 640, 1280, 1280)  # Stable Diffusion 1.5's, LaVie's and the motion adapter's
HEADS = 8
TEXT_TOKENS, TEXT_WIDTH = 77, 768


@dataclass(frozen=True)
class Case:
    """What both networks compute.

    Attributes:
        frames: length of the one clip, 1 or more.
        size: height and width of the latents, a multiple of 8 (three halvings; the peer cannot do others).
        width_divisor: 1 for published width; 2, 5 or 10 divide every level's width, for a quick look.
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu" or "cuda".
        threads: threads of CPU kernels.
    """

    frames: int = 16
    size: int = 32
    width_divisor: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self):
        if self.frames < 1 or self.size < 8 or self.size % 8:
            raise ValueError(
                "expected 1 frame or more and a size that is a multiple of 8, got "
                f"{self.frames} frames, size {self.size}"
            )
        if self.width_divisor not in (1, 2, 5, 10):
            raise ValueError(f"width_divisor must be 1, 2, 5 or 10 (groups of 32 channels), got {self.width_divisor}")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(width // self.width_divisor for width in WIDTHS)

    @property
    def heads(self) -> int:
        """Published heads at published width; fewer when narrower, since a head needs 32 channels or more."""
        return max(1, HEADS // self.width_divisor)


def lavie(case: Case) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """The base LaVieUNet and a function that runs it once."""
    config = UNetConfig.base(block_channels=case.widths, num_heads=case.heads)
    unet = LaVieUNet(config, **_factory(case)).eval().channels_last()
    latents, timestep, text = _inputs(case)
    return unet, lambda: unet(latents, timestep, text, num_frames=case.frames)


def peer(case: Case) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """diffusers' UNetMotionModel, sized as SD 1.5 with motion adapter v1-5-2, and a function that runs it once."""
    from diffusers import UNetMotionModel

    unet = UNetMotionModel(
        block_out_channels=case.widths,
        cross_attention_dim=TEXT_WIDTH,
        num_attention_heads=case.heads,
        motion_num_attention_heads=case.heads,
        motion_max_seq_length=max(32, case.frames),
    )
    unet = unet.to(**_factory(case)).eval()
    latents, timestep, text = _inputs(case)
    latents = latents.transpose(0, 1)[None].contiguous()  # (F, C, H, W) -> (1, C, F, H, W)
    text = text.repeat_interleave(case.frames, dim=0)  # it takes the text once per frame, as its pipeline gives it
    return unet, lambda: unet(latents, timestep, text).sample


SUBJECTS = {"LaVieUNet": lavie, "UNetMotionModel": peer}


def _factory(case: Case) -> dict:
    return {"dtype": getattr(torch, case.dtype), "device": case.device}


def _inputs(case: Case):
    """Latents (F, 4, size, size), timestep (1,), text (1, 77, 768); the same for both networks."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(case.frames, 4, case.size, case.size, generator=rng)
    text = torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, generator=rng)
    return latents.to(**_factory(case)), torch.tensor([500], device=case.device), text.to(**_factory(case))
