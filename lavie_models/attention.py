"""One attention layer. Self, cross and temporal attention differ only in how it is called."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .positions import BIAS_BUCKETS, FramePositions


def sdpa_attention(q, k, v, heads: int, mask=None, transformer_options=None):
    """Multi-head attention on (B, N, heads * size) tensors; ``mask`` is added to the scores.

    The signature is that of ComfyUI's ``optimized_attention``, which takes its place at inference;
    ``transformer_options`` lets a user override that choice there and is of no use here.
    """
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, heads, N, size)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class RelativePositionBias(nn.Module):
    """Learned score offset per head and relative frame distance (names as published)."""

    def __init__(self, heads: int, operations, dtype=None, device=None):
        super().__init__()
        self.relative_attention_bias = operations.Embedding(BIAS_BUCKETS, heads, dtype=dtype, device=device)

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """(F, F) buckets -> (1, heads, F, F) offsets."""
        return self.relative_attention_bias(buckets).permute(2, 0, 1)[None]


class Attention(nn.Module):
    """Multi-head attention with separate key and value sources.

    Args:
        channels: width of the queries and of the output.
        heads: number of heads; head size = channels / heads.
        context_dim: width of keys' and values' source; default ``channels``.
        temporal: starts with a zero output projection, so that a freshly inflated video model computes exactly what
            its image model does (paper section 3.2).
        rotary, position_bias: of temporal attention, see ``config.Architecture``.
        attention: the kernel, called as ``sdpa_attention`` is.
    """

    def __init__(
        self, channels, heads, operations, attention, context_dim=None, temporal=False, rotary=False,
        position_bias=False, dtype=None, device=None,
    ):  # fmt: skip
        super().__init__()
        context_dim = context_dim or channels
        self.heads = heads
        self.attention = attention
        self.rotary = rotary
        self.to_q = operations.Linear(channels, channels, bias=False, dtype=dtype, device=device)
        self.to_k = operations.Linear(context_dim, channels, bias=False, dtype=dtype, device=device)
        self.to_v = operations.Linear(context_dim, channels, bias=False, dtype=dtype, device=device)
        self.to_out = nn.Sequential(operations.Linear(channels, channels, dtype=dtype, device=device))
        self.time_rel_pos_bias = RelativePositionBias(heads, operations, dtype, device) if position_bias else None
        if temporal:
            for parameter in self.to_out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x, context=None, value=None, transformer_options=None, gather=None):
        """(B, N, channels), keys from ``context`` and values from ``value`` (each defaulting to the one before).

        ``x`` may hold a whole multiple of the context's batch, that many adjacent entries to each context: text
        shared by the frames of a clip is then projected once and never repeated. ``gather`` rearranges keys and
        values once they are projected.
        """
        context = x if context is None else context
        value = context if value is None else value
        k, v = self.to_k(context), self.to_v(value)
        if gather is not None:
            k, v = gather(k), gather(v)
        return self.read(x, k, v, transformer_options)

    def read(self, x, k, v, transformer_options=None):
        """`forward` on keys and values that are projected already."""
        q = self.to_q(x).reshape(k.shape[0], -1, x.shape[-1])
        out = self.attention(q, k, v, self.heads, transformer_options=transformer_options)
        return self.to_out(out).view_as(x)

    def over_frames(self, x, positions: FramePositions | None, transformer_options=None):
        """Temporal self-attention along axis 1 of (B, F, channels), with what the architecture knows of positions."""
        if positions is None:
            return self(x, transformer_options=transformer_options)
        q, k = self.to_q(x), self.to_k(x)
        if self.rotary:
            q, k = (positions.rotate(t.unflatten(-1, (self.heads, -1))).flatten(2) for t in (q, k))
        bias = None
        if self.time_rel_pos_bias is not None:
            bias = self.time_rel_pos_bias(positions.buckets).to(q.dtype)
        out = self.attention(q, k, self.to_v(x), self.heads, mask=bias, transformer_options=transformer_options)
        return self.to_out(out)
