"""The layout of clips and images on the batch axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ClipLayout:
    """How a batch of N frames divides: ``videos`` clips of ``frames`` adjacent frames, then ``images`` single images.

    Images meet a video in shared parameters only: their statistics and attention are their own.
    """

    videos: int
    frames: int
    images: int = 0

    @property
    def video_frames(self) -> int:
        return self.videos * self.frames

    def apart(self, function, x: torch.Tensor, *args) -> torch.Tensor:
        """``function(clips, x, ...)`` with the videos as clips and each image as a clip of one frame, joined again."""
        if not self.images:
            return function(self, x, *args)
        videos, images = ClipLayout(self.videos, self.frames), ClipLayout(self.images, 1)
        parts = x.split((self.video_frames, self.images))
        return torch.cat([function(clips, part, *args) for clips, part in zip((videos, images), parts, strict=True)])

    def videos_only(self, function, x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        """``function(clips, x, ...)`` of the videos alone; images pass by unchanged."""
        if not self.images:
            return function(self, x, *args)
        videos = function(ClipLayout(self.videos, self.frames), *(t[: self.video_frames] for t in (x, *args)))
        return torch.cat((videos, x[self.video_frames :]))
