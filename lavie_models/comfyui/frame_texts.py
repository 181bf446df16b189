"""Texts that hold one entry per frame, and core's nodes that join them with texts of a whole clip.

Contract: a `FrameTexts` is a tensor (frames, tokens, width) to all of ComfyUI. Where core's Conditioning (Concat) or
(Average) join it with the text of a whole clip, that text serves every frame; two of different numbers of frames are
refused by name. What the network gets is a plain tensor.
"""

from __future__ import annotations

import torch


class FrameTexts(torch.Tensor):
    """One text per frame."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.cat, torch.concat):
            args = (_of_equal_frames(args[0]), *args[1:])
        elif function in (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__):
            _of_equal_frames(args[:2])
        return super().__torch_function__(function, types, args, kwargs or {})


def per_frame(texts: torch.Tensor) -> torch.Tensor:
    """A tensor as `FrameTexts`."""
    return texts.as_subclass(FrameTexts)


def plain(texts: torch.Tensor) -> torch.Tensor:
    """The tensor alone."""
    return texts.as_subclass(torch.Tensor)


def _of_equal_frames(parts) -> list:
    """All of the same number of frames. Raises ValueError where they are for clips of different lengths."""
    counts = {len(part) for part in parts if isinstance(part, torch.Tensor) and part.ndim} - {1}
    if len(counts) > 1:
        listed = " and ".join(map(str, sorted(counts)))
        raise ValueError(
            f"prompts for {listed} frames cannot be joined; give every LaVie Frame Prompts the same number of frames"
        )
    frames = counts.pop() if counts else 1
    return [part.expand(frames, *part.shape[1:]) if len(part) == 1 else part for part in parts]
