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
from .clips import ClipLayout
from .config import NORM_GROUPS, UNetConfig
from .parts import chunks, frame_parts, keeps_whole
from .positions import FramePositions
from .resnet import ClipResBlock, add


@dataclass(frozen=True)
class Condition:
    """What every transformer of one forward pass shares.

    Attributes:
        clips: layout of the batch axis.
        text: (videos or video frames, tokens, width) and, with images, (images, tokens, width).
        positions: tables for the clips' frames, where the architecture knows them.
        options: ComfyUI's ``transformer_options`` of this pass, patches included.
    """

    clips: ClipLayout
    text: torch.Tensor
    positions: FramePositions | None
    image_text: torch.Tensor | None = None
    options: dict = field(default_factory=dict)

    def of_frames(self, video: int, frames: slice) -> Condition:
        """For some frames of one video."""
        text = self.text[video : video + 1] if self.text.shape[0] == self.clips.videos else self.text[frames]
        return replace(self, clips=ClipLayout(1, frames.stop - frames.start), text=text)

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


def _read_by(first: torch.Tensor, before: torch.Tensor, frames: slice) -> torch.Tensor:
    """As `_first_and_previous` for some frames of a clip: its ``first``, and those ``before`` the frames."""
    count = frames.stop - frames.start
    before = before if before.shape[0] == count else torch.cat((first, before))
    return torch.cat((first.expand(count, -1, -1), before), dim=1)


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
        known = {"rotary": self.architecture.rotary, "position_bias": self.architecture.position_bias}
        self.add_module(f"attn_{name}", attend(temporal=True, **known))
        self.add_module(f"norm_{name}", norm_temporal)

    def forward(self, x, cond: Condition):
        return self.finish(self.within_frames(x, cond), cond)

    def within_frames(self, x, cond: Condition):
        """The first two attentions, which see one frame at a time; but for sparse-causal attention."""
        x = add(x, self._spatial(self.norm1(x), cond))
        for patch in cond.patches("middle_patch"):
            x = patch(x, self._extra_options(cond))
        return add(x, self._textual("attn2", self.attn2, self.norm2(x), cond))

    def within_frames_by_parts(self, x, cond: Condition, parts) -> None:
        """`within_frames` of unpatched ``x``, in its memory; ``parts`` as `frame_parts` gives them."""
        if self.architecture.sparse_causal:
            self._first_and_previous_by_parts(x, cond, parts)
        for video, frames in parts:
            part, of_part = x[frames], cond.of_frames(video, frames)
            if not self.architecture.sparse_causal:
                part += self._spatial(self.norm1(part), of_part)
            part += self._textual("attn2", self.attn2, self.norm2(part), of_part)

    def _first_and_previous_by_parts(self, x, cond: Condition, parts) -> None:
        k, v = torch.empty_like(x), torch.empty_like(x)
        for _, frames in parts:
            n = self.norm1(x[frames])
            k[frames], v[frames] = self.attn1.to_k(n), self.attn1.to_v(n)
        for video, frames in parts:
            start = video * cond.clips.frames
            before = slice(max(start, frames.start - 1), frames.stop - 1)
            read = (_read_by(t[start : start + 1], t[before], frames) for t in (k, v))
            x[frames] += self.attn1.read(self.norm1(x[frames]), *read, cond.options)

    def is_patched(self, cond: Condition) -> bool:
        """Whether patches of attention are to see the whole batch."""
        names = ("attn1_patch", "attn1_output_patch", "middle_patch", "attn2_patch", "attn2_output_patch")
        return any(map(cond.patches, names)) or any(map(cond.replacement, ("attn1", "attn2")))

    def finish(self, x, cond: Condition):
        """Attention across frames and the feed-forward."""
        steps = (self._temporal, self._feed_forward)
        for step in reversed(steps) if self.architecture.temporal_last else steps:
            x = step(x, cond)
        return x

    def _feed_forward(self, x, cond):
        if torch.is_grad_enabled():
            return x + self.ff(self.norm3(x))
        x = x.contiguous()
        for part in chunks(x.view(-1, x.shape[-1]), 0):
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
            # A patch may move parts of the queries to the batch axis (HyperTile does); ComfyUI's kernels then view
            # keys and values likewise.
            context, value = (t if t is None else t.reshape(n.shape[0], -1, t.shape[-1]) for t in (context, value))
        replacement = cond.replacement(name)
        if replacement is None:
            n = attention(n, context, value, cond.options, gather)
        else:
            value = context if value is None else value
            queries = attention.to_q(n)
            n = replacement(queries, attention.to_k(context), attention.to_v(value), extra)
            if n.shape != queries.shape:
                raise ValueError(
                    f"a patch (such as Perturbed-Attention Guidance) puts {tuple(n.shape)} in the place of attention's "
                    f"{tuple(queries.shape)}; it was made for frames that attend to themselves, which LaVie's "
                    "interpolation does not. Take it out, or use it with the base model"
                )
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
        block = self.transformer_blocks[0]
        if keeps_whole(x, cond.clips) or block.is_patched(cond):
            tokens = block(self._tokens(x), cond)
            return add(self._project(self.proj_out, tokens.view(n, h, w, c).permute(0, 3, 1, 2)), x)
        tokens, parts = x.new_empty(n, h * w, c), list(frame_parts(x, cond.clips))
        for _, frames in parts:
            tokens[frames] = self._tokens(x[frames])
        block.within_frames_by_parts(tokens, cond, parts)
        frames_of = block.finish(tokens, cond).view(n, h, w, c).permute(0, 3, 1, 2)
        for _, frames in parts:
            frames_of[frames] = add(self._project(self.proj_out, frames_of[frames]), x[frames])
        return frames_of

    def _tokens(self, x):
        """(n, channels, H, W) -> (n, H * W, channels), normalised and projected."""
        return self._project(self.proj_in, self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)

    def _project(self, projection, x):
        """A 1x1 convolution or a linear layer over the channels of (N, channels, H, W)."""
        return projection(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.linear else projection(x)
