"""The transformer of a LaVie UNet: spatial attention, text, temporal self-attention, feed-forward.

Stages differ in what the first attention reads, in positions and in order; see ``config.Architecture``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .attention import Attention
from .config import NORM_GROUPS, UNetConfig
from .positions import FramePositions
from .resnet import ClipLayout, ClipResBlock, add

# Values that the feed-forward and temporal attention take at a time when there are no gradients. Both widen their input
# eight times or copy it, so this bounds the largest activations of the network. On the CPU it also keeps them in cache;
# elsewhere large kernels matter more.
CHUNK_VALUES_CPU = 2**19
CHUNK_VALUES = 2**23


def chunks(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
    """Views of ``x`` along ``dim``, of about the number of values that fit."""
    most = CHUNK_VALUES_CPU if x.device.type == "cpu" else CHUNK_VALUES
    return x.split(max(1, most * x.shape[dim] // max(1, x.numel())), dim)


@dataclass(frozen=True)
class Condition:
    """What every transformer of one forward pass shares.

    Attributes:
        clips: layout of the batch axis.
        text: (videos or video frames, tokens, width) and, with images, (images, tokens, width).
        positions: tables for the clips' frames, where the architecture has positions.
        options: ComfyUI's ``transformer_options`` of this pass, patches included.
    """

    clips: ClipLayout
    text: torch.Tensor
    positions: FramePositions | None
    image_text: torch.Tensor | None = None
    options: dict = field(default_factory=dict)

    def patches(self, name: str) -> list:
        return self.options.get("patches", {}).get(name, ())

    def replacement(self, name: str):
        """The function that replaces attention ``name`` in the current block, or None."""
        candidates = self.options.get("patches_replace", {}).get(name, {})
        block = self.options.get("block")
        if block is None:
            return None
        return candidates.get((block[0], block[1], self.options["block_index"]), candidates.get(block))


class GEGLU(nn.Module):
    def __init__(self, channels, inner, operations, dtype=None, device=None):
        super().__init__()
        self.proj = operations.Linear(channels, 2 * inner, dtype=dtype, device=device)

    def forward(self, x):
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate) if torch.is_grad_enabled() else F.gelu(gate).mul_(x)


class FeedForward(nn.Module):
    """Gated feed-forward with an inner width of four times the channels."""

    def __init__(self, channels, operations, dtype=None, device=None):
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels, operations, dtype, device),
            nn.Identity(),  # keeps the published index; dropout there is zero
            operations.Linear(4 * channels, channels, dtype=dtype, device=device),
        )

    def forward(self, x):
        return self.net(x)


def _first_and_previous(clips: ClipLayout, x: torch.Tensor) -> torch.Tensor:
    """Tokens (N, T, c) -> (N, 2 T, c): those of the clip's first frame, then of the frame before (or the first)."""
    clip = x.unflatten(0, (clips.videos, clips.frames))
    first = clip[:, :1].expand_as(clip)
    previous = torch.cat((clip[:, :1], clip[:, :-1]), dim=1)
    return torch.cat((first, previous), dim=2).flatten(0, 1)


class TransformerBlock(nn.Module):
    """One block over tokens (N, H*W, channels); images bypass temporal attention entirely, its norm included.

    ``text_first``: the first attention reads the text, not the frame.
    """

    def __init__(
        self, channels, config: UNetConfig, text_first: bool, operations, attention, dtype=None, device=None
    ):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.architecture = config.architecture
        self.text_first = text_first

        def attend(**options):
            return Attention(channels, config.num_heads, operations, attention, **options, **factory)

        self.attn1 = attend(context_dim=config.context_dim if text_first else None)
        self.attn2 = attend(context_dim=config.context_dim)
        self.ff = FeedForward(channels, operations, **factory)
        self.norm1, self.norm2, norm_temporal, self.norm3 = (
            operations.LayerNorm(channels, **factory) for _ in range(4)
        )
        name = self.architecture.temporal_name
        self.add_module(f"attn_{name}", attend(temporal=True, positions=self.architecture.positions))
        self.add_module(f"norm_{name}", norm_temporal)

    def forward(self, x, cond: Condition):
        x = add(x, self._spatial(self.norm1(x), cond))
        for patch in cond.patches("middle_patch"):
            x = patch(x, self._extra_options(cond))
        x = add(x, self._textual("attn2", self.attn2, self.norm2(x), cond))
        steps = (self._temporal, self._feed_forward)
        for step in reversed(steps) if self.architecture.temporal_last else steps:
            x = step(x, cond)
        return x

    def _feed_forward(self, x, cond):
        if torch.is_grad_enabled():
            return x + self.ff(self.norm3(x))
        for part in chunks(x, 0):
            part += self.ff(self.norm3(part))
        return x

    def _extra_options(self, cond):
        """What ComfyUI hands to attention patches: its options without the patches, plus the head layout."""
        options = {k: v for k, v in cond.options.items() if k not in ("patches", "patches_replace")}
        size = self.attn1.to_out[0].out_features // self.attn1.heads
        return {**options, "n_heads": self.attn1.heads, "dim_head": size, "attn_precision": None}

    def _spatial(self, n, cond):
        if self.text_first:
            return self._textual("attn1", self.attn1, n, cond)
        if not self.architecture.sparse_causal:
            return self._patchable("attn1", self.attn1, n, n, cond)

        def gather(tokens):
            return cond.clips.apart(_first_and_previous, tokens)

        if cond.patches("attn1_patch") or cond.replacement("attn1"):
            return self._patchable("attn1", self.attn1, n, gather(n), cond)
        return self._patchable("attn1", self.attn1, n, n, cond, gather)

    def _textual(self, name, attention, n, cond):
        if cond.patches(f"{name}_patch") or cond.replacement(name):
            # Patches are promised one context per batch entry.
            text = cond.text.repeat_interleave(n.shape[0] // cond.text.shape[0], dim=0)
            return self._patchable(name, attention, n, text, cond)
        if cond.clips.images:
            video, images = n.split((cond.clips.video_frames, cond.clips.images))
            return torch.cat((attention(video, cond.text), attention(images, cond.image_text)))
        return self._patchable(name, attention, n, cond.text, cond)

    def _patchable(self, name, attention, n, context, cond, gather=None):
        """Attention under ComfyUI's contract: ``{name}_patch``, ``patches_replace[name]``, ``{name}_output_patch``."""
        value, extra = context, self._extra_options(cond)
        for patch in cond.patches(f"{name}_patch"):
            n, context, value = patch(n, context, value, extra)
        replacement = cond.replacement(name)
        if replacement is None:
            n = attention(n, context, value, cond.options, gather)
        else:
            value = context if value is None else value
            n = replacement(attention.to_q(n), attention.to_k(context), attention.to_v(value), extra)
            n = attention.to_out(n)
        for patch in cond.patches(f"{name}_output_patch"):
            n = patch(n, extra)
        return n

    def _temporal(self, x, cond):
        video, images = x.split((cond.clips.video_frames, cond.clips.images))
        clips = video.unflatten(0, (cond.clips.videos, -1))
        if not torch.is_grad_enabled():
            for part in chunks(clips, 2):
                part += self._across_frames(part, cond)
            return x
        video = (clips + self._across_frames(clips, cond)).flatten(0, 1)
        return torch.cat((video, images)) if cond.clips.images else video

    def _across_frames(self, clips, cond):
        """Temporal attention of (videos, frames, tokens, c); the residual is not added."""
        name = self.architecture.temporal_name
        norm, attention = getattr(self, f"norm_{name}"), getattr(self, f"attn_{name}")
        n = rearrange(norm(clips), "b f s c -> (b s) f c")
        n = attention.over_frames(n, cond.positions, cond.options)
        return rearrange(n, "(b s) f c -> b f s c", b=clips.shape[0])


class SpatialTransformer(nn.Module):
    """Per-frame GroupNorm, projection in, one transformer block, projection out, residual.

    With temporal convolutions a residual block of them comes first, before the residual is taken; images bypass it.
    """

    def __init__(self, channels, config: UNetConfig, text_first, operations, attention, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.resblock_temporal = None
        if config.architecture.temporal_convolutions:
            self.resblock_temporal = ClipResBlock(channels, (3, 3), operations, **factory)
        self.linear = config.architecture.linear_projections
        project = operations.Linear if self.linear else functools.partial(operations.Conv2d, kernel_size=1)
        self.norm = operations.GroupNorm(NORM_GROUPS, channels, eps=1e-6, **factory)
        self.proj_in = project(channels, channels, **factory)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, config, text_first, operations, attention, **factory)]
        )
        self.proj_out = project(channels, channels, **factory)

    def forward(self, x, cond: Condition):
        """(N, channels, H, W) -> the same."""
        n, c, h, w = x.shape
        cond = replace(cond, options={**cond.options, "activations_shape": [n, c, h, w], "block_index": 0})
        if self.resblock_temporal is not None:
            x = cond.clips.videos_only(self.resblock_temporal, x)
        tokens = self._project(self.proj_in, self.norm(x)).permute(0, 2, 3, 1).reshape(n, h * w, c)
        tokens = self.transformer_blocks[0](tokens, cond)
        return add(self._project(self.proj_out, tokens.view(n, h, w, c).permute(0, 3, 1, 2)), x)

    def _project(self, projection, x):
        """A 1x1 convolution or a linear layer over the channels of (N, channels, H, W)."""
        return projection(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.linear else projection(x)
