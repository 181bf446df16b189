"""The transformer of a LaVie UNet: spatial self-attention, text, temporal self-attention, feed-forward."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .attention import Attention
from .config import NORM_GROUPS
from .positions import FramePositions
from .resnet import ClipLayout, add

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
        positions: tables for the clips' frames.
        options: ComfyUI's ``transformer_options`` of this pass, patches included.
    """

    clips: ClipLayout
    text: torch.Tensor
    positions: FramePositions
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


class TransformerBlock(nn.Module):
    """One block over tokens (N, H*W, channels); images bypass temporal attention entirely, ``norm_temp`` included."""

    def __init__(self, channels, heads, context_dim, operations, attention, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.attn1 = Attention(channels, heads, operations, attention, **factory)
        self.attn2 = Attention(channels, heads, operations, attention, context_dim=context_dim, **factory)
        self.attn_temp = Attention(channels, heads, operations, attention, temporal=True, **factory)
        self.ff = FeedForward(channels, operations, **factory)
        self.norm1, self.norm2, self.norm_temp, self.norm3 = (
            operations.LayerNorm(channels, **factory) for _ in range(4)
        )

    def forward(self, x, cond: Condition):
        x = add(x, self._spatial(self.norm1(x), cond))
        for patch in cond.patches("middle_patch"):
            x = patch(x, self._extra_options(cond))
        x = add(x, self._textual(self.norm2(x), cond))
        if torch.is_grad_enabled():
            x = self._temporal(x, cond)
            return x + self.ff(self.norm3(x))
        self._temporal_(x, cond)
        for part in chunks(x, 0):
            part += self.ff(self.norm3(part))
        return x

    def _extra_options(self, cond):
        """What ComfyUI hands to attention patches: its options without the patches, plus the head layout."""
        options = {k: v for k, v in cond.options.items() if k not in ("patches", "patches_replace")}
        size = self.attn1.to_out[0].out_features // self.attn1.heads
        return {**options, "n_heads": self.attn1.heads, "dim_head": size, "attn_precision": None}

    def _spatial(self, n, cond):
        return self._patchable("attn1", self.attn1, n, n, cond)

    def _textual(self, n, cond):
        if cond.patches("attn2_patch") or cond.replacement("attn2"):
            # Patches are promised one context per batch entry.
            text = cond.text.repeat_interleave(n.shape[0] // cond.text.shape[0], dim=0)
            return self._patchable("attn2", self.attn2, n, text, cond)
        if cond.clips.images:
            video, images = n.split((cond.clips.video_frames, cond.clips.images))
            return torch.cat((self.attn2(video, cond.text), self.attn2(images, cond.image_text)))
        return self._patchable("attn2", self.attn2, n, cond.text, cond)

    def _patchable(self, name, attention, n, context, cond):
        """Attention under ComfyUI's contract: ``{name}_patch``, ``patches_replace[name]``, ``{name}_output_patch``."""
        value, extra = context, self._extra_options(cond)
        for patch in cond.patches(f"{name}_patch"):
            n, context, value = patch(n, context, value, extra)
            # A patch may move parts of the queries to the batch axis (HyperTile does); ComfyUI's kernels then view
            # keys and values likewise.
            context, value = (t if t is None else t.reshape(n.shape[0], -1, t.shape[-1]) for t in (context, value))
        replacement = cond.replacement(name)
        if replacement is None:
            n = attention(n, context, value, cond.options)
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
        video = (clips + self._across_frames(clips, cond)).flatten(0, 1)
        return torch.cat((video, images)) if cond.clips.images else video

    def _temporal_(self, x, cond):
        """``_temporal`` in place, a few pixels at a time."""
        clips = x[: cond.clips.video_frames].unflatten(0, (cond.clips.videos, -1))
        for part in chunks(clips, 2):
            part += self._across_frames(part, cond)

    def _across_frames(self, clips, cond):
        """Temporal attention of (videos, frames, tokens, c); the residual is not added."""
        n = rearrange(self.norm_temp(clips), "b f s c -> (b s) f c")
        n = self.attn_temp.over_frames(n, cond.positions, cond.options)
        return rearrange(n, "(b s) f c -> b f s c", b=clips.shape[0])


class SpatialTransformer(nn.Module):
    """Per-frame GroupNorm, 1x1 convolution in, one transformer block, 1x1 convolution out, residual."""

    def __init__(self, channels, heads, context_dim, operations, attention, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm = operations.GroupNorm(NORM_GROUPS, channels, eps=1e-6, **factory)
        self.proj_in = operations.Conv2d(channels, channels, 1, **factory)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, heads, context_dim, operations, attention, **factory)]
        )
        self.proj_out = operations.Conv2d(channels, channels, 1, **factory)

    def forward(self, x, cond: Condition):
        """(N, channels, H, W) -> the same."""
        n, c, h, w = x.shape
        cond = replace(cond, options={**cond.options, "activations_shape": [n, c, h, w], "block_index": 0})
        tokens = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(n, h * w, c)
        tokens = self.transformer_blocks[0](tokens, cond)
        return add(self.proj_out(tokens.view(n, h, w, c).permute(0, 3, 1, 2)), x)
