"""Colour correction: closed forms of what goes and what stays, whole clips in parts, refusals, decoding with it."""

from __future__ import annotations

import comfy.utils
import pytest
import torch
from comfyui_lavie.lavie_models.comfyui.color import FRAMES_AT_ONCE, correct_clip
from comfyui_lavie.nodes.color import LaVieColorCorrection
from comfyui_lavie.nodes.video import LaVieDecodeToVideo

LOW, HIGH = (6, 10), (24, 40)  # height and width, four times as many


def small_clip(frames: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand((frames, *LOW, 3), generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25


def enlarged(small: torch.Tensor) -> torch.Tensor:
    height, width = HIGH
    return comfy.utils.common_upscale(small.movedim(-1, 1), width, height, "bicubic", "disabled").movedim(1, -1)


def stripes(period: int) -> torch.Tensor:
    """A cosine across the width, (1, H, W, 1), with ``period`` pixels."""
    return 0.1 * torch.cos(2 * torch.pi * torch.arange(HIGH[1]) / period).view(1, 1, -1, 1)


def correct(images, reference, radius: float = 1.0) -> torch.Tensor:
    return LaVieColorCorrection.execute(images, reference, radius).result[0]


def test_the_enlarged_reference_stays():
    """Also an edge, whose bicubic interpolation goes beyond what images hold."""
    small = small_clip()
    small[:, :, 5:] = 1.0
    images = enlarged(small).clamp(0, 1)
    torch.testing.assert_close(correct(images, small), images)


@pytest.mark.parametrize("shift", [0.1, torch.tensor([0.1, -0.05, 0.2])], ids=["light", "colour"])
@pytest.mark.parametrize("radius", [0.25, 1.0, 64.0])
def test_a_constant_shift_is_removed(shift, radius):
    small = small_clip()
    torch.testing.assert_close(correct(enlarged(small) + shift, small, radius), enlarged(small), atol=2e-6, rtol=0)


def test_fine_detail_stays_and_a_slow_change_goes():
    """Of what is added to the enlarged reference, the part 1 - exp(-(2 pi radius / period)^2 / 2) is left."""
    small, middle = small_clip(), slice(14, 26)  # far from the borders
    for period, radius in ((4, 1.0), (40, 1.0), (20, 0.5)):
        added = stripes(period)
        left = (correct(enlarged(small) + added, small, radius) - enlarged(small))[:, :, middle]
        sigma = 4 * radius
        part = 1 - torch.exp(torch.tensor(-((2 * torch.pi * sigma / period) ** 2) / 2))
        torch.testing.assert_close(left, (part * added)[:, :, middle].expand_as(left), atol=1e-3, rtol=0)


def test_parts_of_a_clip_are_the_whole():
    """Each frame by itself is what it is in the clip; alpha is left out; what is given is not changed."""
    frames = 2 * FRAMES_AT_ONCE + 1
    small, images = small_clip(frames), torch.rand(frames, *HIGH, 4)
    kept = images.clone()
    whole = correct_clip(images, small)
    assert whole.shape == (frames, *HIGH, 3) and torch.equal(images, kept)
    apart = [correct_clip(images[at : at + 1], small[at : at + 1]) for at in range(frames)]
    torch.testing.assert_close(whole, torch.cat(apart))


@pytest.mark.parametrize(
    ("images", "reference", "message"),
    [
        ((2, *HIGH, 3), (3, *LOW, 3), "a frame for each of the 2 frames, got 3"),
        ((2, *LOW, 3), (2, *HIGH, 3), "same shape as 10 x 6, got 40 x 24"),
        ((2, *HIGH, 3), (2, 10, 6, 3), "same shape as 40 x 24, got 6 x 10"),
    ],
    ids=["another number", "changed round", "another shape"],
)
def test_what_does_not_belong_together(images, reference, message):
    with pytest.raises(ValueError, match=message):
        correct(torch.zeros(images), torch.zeros(reference))


def test_decoding_corrects_while_it_writes(nano_vae):
    """What the node makes of decoded images, a few frames at a time; a reference of another length before any work."""
    latent = torch.randn((5, 4, *LOW), generator=torch.Generator().manual_seed(0))
    decoded = nano_vae.decode(latent)
    small = comfy.utils.common_upscale(decoded.movedim(-1, 1), 12, 8, "area", "disabled").movedim(1, -1) * 0.8
    video = LaVieDecodeToVideo.execute({"samples": latent}, nano_vae, 8.0, 2, 1.5, reference=small).result[0]
    torch.testing.assert_close(video.get_components().images, correct(decoded, small, 1.5), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="each of the 5 frames, got 4"):
        LaVieDecodeToVideo.execute({"samples": latent}, nano_vae, 8.0, 2, 1.5, reference=small[:4])
