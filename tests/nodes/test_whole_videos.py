"""A video file is there when it is whole: an interruption, a failing VAE or a full disk leaves nothing of its name."""

from __future__ import annotations

import errno
import io
import os
from fractions import Fraction

import comfy.model_management
import pytest
import torch
from comfyui_lavie.datasets.video import decode_video
from comfyui_lavie.nodes.frames import require_image_vae
from comfyui_lavie.nodes.video import LatentVideo, LaVieDecodeToVideo


class Frames:
    """Twelve plain frames, of which the eighth may fail."""

    shape = (12, 32, 48, 3)

    def __init__(self, error: BaseException | None = None):
        self.error = error

    def __iter__(self):
        for number in range(12):
            if number == 7 and self.error:
                raise self.error
            yield torch.full((32, 48, 3), number / 12)


def test_the_file_is_what_core_writes(tmp_path):
    path = tmp_path / "clip.mp4"
    LatentVideo(Frames(), Fraction(8)).save_to(str(path), metadata={"prompt": {"1": "a fish"}})
    assert decode_video(path).shape == Frames.shape and os.listdir(tmp_path) == ["clip.mp4"]
    buffer = io.BytesIO()
    LatentVideo(Frames(), Fraction(8)).save_to(buffer)
    assert decode_video(buffer.getvalue()).shape == Frames.shape


@pytest.mark.parametrize(
    "error",
    [comfy.model_management.InterruptProcessingException(), RuntimeError("VAE"), OSError(errno.ENOSPC, "disk full")],
)
def test_nothing_is_left(tmp_path, error):
    with pytest.raises(type(error)):
        LatentVideo(Frames(error), Fraction(8)).save_to(str(tmp_path / "clip.mp4"))
    assert os.listdir(tmp_path) == []


def test_a_vae_of_another_kind(nano_vae):
    """One of sixteen channels, and one of videos, are refused before anything is decoded."""
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    assert LaVieDecodeToVideo.execute(latent, nano_vae, 8.0, 4).result[0].get_frame_count() == 2
    for name, value in (("latent_channels", 16), ("latent_dim", 3)):
        was = getattr(nano_vae, name)
        setattr(nano_vae, name, value)
        try:
            with pytest.raises(ValueError, match=f"4 latent channels, got one with .*{value}"):
                require_image_vae(nano_vae)
        finally:
            setattr(nano_vae, name, was)
