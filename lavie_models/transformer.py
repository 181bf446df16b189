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
from .resnet import ClipLayout

CHUNK_TOKENS = 4096


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
        return x * F.gelu(gate)


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
        if torch.is_grad_enabled():
            return self.net(x)
        # Eight times the input's width is the largest activation of the network; without gradients a few thousand
        # tokens at a time keep it small and lose no speed.
        return torch.cat([self.net(part) for part in x.split(max(1, CHUNK_TOKENS // x.shape[1]))])


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
        x = x + self._spatial(self.norm1(x), cond)
        for patch in cond.patches("middle_patch"):
            x = patch(x, self._extra_options(cond))
        x = x + self._textual(self.norm2(x), cond)
        x = self._temporal(x, cond)
        return x + self.ff(self.norm3(x))

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
        clips = cond.clips
        video, images = x.split((clips.video_frames, clips.images))
        n = rearrange(self.norm_temp(video), "(b f) s c -> (b s) f c", b=clips.videos)
        n = self.attn_temp.over_frames(n, cond.positions, cond.options)
        split = {"b": clips.videos}
        video = rearrange(video, "(b f) s c -> b f s c", **split) + rearrange(n, "(b s) f c -> b f s c", **split)
        video = video.flatten(0, 1)
        return torch.cat((video, images)) if clips.images else video


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
        return x + self.proj_out(tokens.view(n, h, w, c).permute(0, 3, 1, 2))
