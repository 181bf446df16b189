"""Convolutional parts of the UNet.

Without gradients, large activations are worked on a part at a time (``parts``), in the memory of what they replace.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from .clips import ClipLayout
from .config import NORM_GROUPS
from .parts import ClipNorm, chunk_values, frame_parts, keeps_whole, pixel_parts


def _clip_group_norm(clips: ClipLayout, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    if clips.frames == 1:
        return norm(x)
    _, c, h, w = x.shape
    # Channels-last memory is (clip, frame, h, w, c): with frames and rows seen as one axis it is again a
    # channels-last image, so the ordinary kernel normalises over (channels of the group, F, H, W) without a copy.
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    x = norm(x.reshape(clips.videos, clips.frames * h, w, c).permute(0, 3, 1, 2))
    x = x.permute(0, 2, 3, 1).reshape(clips.video_frames, h, w, c)
    return x.permute(0, 3, 1, 2)


def clip_group_norm(norm: nn.Module, x: torch.Tensor, clips: ClipLayout) -> torch.Tensor:
    """GroupNorm of (N, C, H, W) whose statistics span all frames of a clip."""
    return clips.apart(_clip_group_norm, x, norm)


channels_last = functools.partial(torch.Tensor.contiguous, memory_format=torch.channels_last)


def empty_frames(like: torch.Tensor, count: int) -> torch.Tensor:
    """Room for ``count`` frames such as those of ``like`` (n, C, H, W), channels last."""
    shape = (count, *like.shape[1:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def side_by_side(inputs: tuple[torch.Tensor, ...], frames: slice) -> torch.Tensor:
    """Some frames of tensors whose channels belong together."""
    return inputs[0][frames] if len(inputs) == 1 else torch.cat([x[frames] for x in inputs], dim=1)


def silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU of a temporary: in place where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add(temporary: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The sum, kept in the temporary's memory where no gradient needs it."""
    return temporary + x if torch.is_grad_enabled() else temporary.add_(x)


class ResBlock(nn.Module):
    """Two convolutions per frame with clip-wide GroupNorm and the timestep embedding between them."""

    def __init__(self, in_channels, out_channels, time_dim, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.in_layers = nn.Sequential(
            operations.GroupNorm(NORM_GROUPS, in_channels, **factory),
            nn.SiLU(),
            operations.Conv2d(in_channels, out_channels, 3, padding=1, **factory),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(time_dim, out_channels, **factory))
        self.out_layers = nn.Sequential(
            operations.GroupNorm(NORM_GROUPS, out_channels, **factory),
            nn.SiLU(),
            nn.Identity(),  # keeps the published index of the convolution; dropout there is zero
            operations.Conv2d(out_channels, out_channels, 3, padding=1, **factory),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else operations.Conv2d(in_channels, out_channels, 1, **factory)

    def forward(self, x, emb, clips: ClipLayout, skip=None):
        """(N, in_channels, H, W), emb (N, time_dim) -> (N, out_channels, H, W); ``skip``: further input channels."""
        if keeps_whole(x, clips):
            x = x if skip is None else torch.cat((x, skip), dim=1)
            h = self.in_layers[2](silu(clip_group_norm(self.in_layers[0], x, clips)))
            h = add(h, self.emb_layers(emb).to(h.dtype)[:, :, None, None])
            h = self.out_layers[3](silu(clip_group_norm(self.out_layers[0], h, clips)))
            return add(h, self.skip_connection(x))
        return self._by_frames((x,) if skip is None else (x, skip), emb, clips)

    def _by_frames(self, inputs: tuple[torch.Tensor, ...], emb, clips: ClipLayout):
        """`forward` a few frames at a time: neither joined inputs nor normalised values are held as a whole."""
        emb = self.emb_layers(emb)[:, :, None, None]
        norm, between = ClipNorm(self.in_layers[0], clips), ClipNorm(self.out_layers[0], clips)
        parts = list(frame_parts(inputs[0], clips))
        for video, frames in parts:
            norm.see(video, *(x[frames] for x in inputs))
        h = None
        for video, frames in parts:
            part = self.in_layers[2](norm(video, side_by_side(inputs, frames))).add_(emb[frames].to(inputs[0].dtype))
            h = empty_frames(part, inputs[0].shape[0]) if h is None else h
            h[frames] = part
            between.see(video, part)
        for video, frames in parts:
            part = self.out_layers[3](between(video, h[frames]))
            h[frames] = part.add_(self.skip_connection(side_by_side(inputs, frames)))
        return h


def _frame_convolution(channels, kernel, operations, factory):
    """Over height and width where ``kernel`` is None, else over ``kernel`` frames."""
    if kernel is None:
        return operations.Conv2d(channels, channels, 3, padding=1, **factory)
    return operations.Conv3d(channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0), **factory)


class ClipResBlock(nn.Module):
    """Residual block of super-resolution: two convolutions over frames, or over pixels; names as published.

    Args:
        kernels: frames that each convolution spans; None: 3 x 3 pixels of one frame.
        time_dim: width of the timestep embedding; None: the block does not know the timestep.
    """

    def __init__(self, channels, kernels, operations, time_dim=None, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm1, self.norm2 = (operations.GroupNorm(NORM_GROUPS, channels, eps=1e-6, **factory) for _ in range(2))
        self.conv1, self.conv2 = (_frame_convolution(channels, kernel, operations, factory) for kernel in kernels)
        self.time_emb_proj = None if time_dim is None else operations.Linear(time_dim, channels, **factory)

    def forward(self, clips: ClipLayout, x, emb=None):
        """(N, channels, H, W) of whole clips -> the same."""
        if not keeps_whole(x, clips):
            return self._by_pixels(clips, x, emb)
        h = self._convolve(self.conv1, silu(clip_group_norm(self.norm1, x, clips)), clips)
        if self.time_emb_proj is not None:
            h = add(h, self.embed(emb).to(h.dtype))
        h = self._convolve(self.conv2, silu(clip_group_norm(self.norm2, h, clips)), clips)
        return add(h, x)

    def embed(self, emb):
        """What the timestep adds between the convolutions, (N, channels, 1, 1)."""
        return self.time_emb_proj(F.silu(emb))[:, :, None, None]

    def _by_pixels(self, clips: ClipLayout, x, emb):
        """`forward` of convolutions over frames, some rows of pixels at a time."""
        emb = None if self.time_emb_proj is None else self.embed(emb).to(x.dtype)
        norm, between = ClipNorm(self.norm1, clips), ClipNorm(self.norm2, clips)
        parts = list(pixel_parts(x, clips))
        for video, frames, rows in parts:
            norm.see(video, x[frames, :, rows])
        h, one = torch.empty_like(x, memory_format=torch.channels_last), ClipLayout(1, clips.frames)
        for video, frames, rows in parts:
            part = self._convolve(self.conv1, norm(video, channels_last(x[frames, :, rows])), one)
            part = part if emb is None else part.add_(emb[frames])
            h[frames, :, rows] = part
            between.see(video, part)
        for video, frames, rows in parts:
            part = self._convolve(self.conv2, between(video, channels_last(h[frames, :, rows])), one)
            h[frames, :, rows] = part.add_(x[frames, :, rows])
        return h

    @staticmethod
    def _convolve(convolution, x, clips: ClipLayout):
        if convolution.weight.ndim == 4:
            return convolution(x)
        # Channels-last frames of a clip are a channels-last volume: (clip, frame, h, w, c) in memory.
        x = x.contiguous(memory_format=torch.channels_last)
        volume = x.unflatten(0, (clips.videos, clips.frames)).transpose(1, 2)
        return convolution(volume).transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


class TemporalModule(nn.Module):
    """What super-resolution adds after each level: convolutions over frames, then over pixels, then a 1x1 one.

    The last convolution starts at zero, so that a freshly inflated model equals its image model.
    """

    def __init__(self, channels, time_dim, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.resblocks_3d_t = ClipResBlock(channels, (5, 3), operations, time_dim, **factory)
        self.resblocks_3d_s = ClipResBlock(channels, (None, None), operations, time_dim, **factory)
        self.shift_conv = operations.Conv2d(channels, channels, 1, **factory)
        for parameter in self.shift_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, clips: ClipLayout, x, emb, again: bool = False):
        """(N, channels, H, W) of whole clips -> the same.

        ``again``: compute one convolution of four a second time rather than keep what it gave.
        """
        h = self.resblocks_3d_t(clips, x, emb)
        if keeps_whole(x, clips):
            return add(self.shift_conv(self.resblocks_3d_s(clips, h, emb)), x)
        return self._by_frames(clips, h, x, emb, again)

    def _by_frames(self, clips: ClipLayout, h, x, emb, again: bool):
        """The convolutions over pixels, then the sum with ``x``, in the memory of ``h``, a few frames at a time."""
        block = self.resblocks_3d_s
        emb = block.embed(emb).to(x.dtype)
        norm, between = ClipNorm(block.norm1, clips), ClipNorm(block.norm2, clips)
        parts = list(frame_parts(x, clips))

        def first(video, frames):
            return block.conv1(norm(video, h[frames])).add_(emb[frames])

        for video, frames in parts:
            norm.see(video, h[frames])
        kept = []
        for video, frames in parts:
            part = first(video, frames)
            between.see(video, part)
            if not again:
                kept.append(part)
            del part  # so that the next one finds its room
        kept.reverse()
        for video, frames in parts:
            part = between(video, first(video, frames) if again else kept.pop())
            part = block.conv2(part).add_(h[frames])
            h[frames] = self.shift_conv(part).add_(x[frames])
            del part
        return h


class Downsample(nn.Module):
    """Halve height and width (rounding up) by a strided convolution."""

    def __init__(self, channels, operations, dtype=None, device=None):
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1, dtype=dtype, device=device)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour resize to the size of the skip that comes next, then a convolution."""

    def __init__(self, channels, operations, dtype=None, device=None):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, dtype=dtype, device=device)

    def forward(self, x, size: tuple[int, int]):
        if torch.is_grad_enabled() or x.numel() * size[0] * size[1] <= chunk_values(x) * x.shape[2] * x.shape[3]:
            return self.conv(F.interpolate(x, size=size, mode="nearest"))
        out = None
        for frame in range(x.shape[0]):
            part = self.conv(F.interpolate(x[frame : frame + 1], size=size, mode="nearest"))
            out = empty_frames(part, x.shape[0]) if out is None else out
            out[frame : frame + 1] = part
        return out
