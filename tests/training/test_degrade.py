"""Degradations: pure, one chain per clip, and each link does to pixels what its name says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from comfyui_lavie.nano.shapes import render_dense
from comfyui_lavie.training.data.degrade import Degradation, apply, degrade, draw_degradation
from PIL import Image
from scipy.fft import dctn

PLAIN = Degradation((0.0, 0.0), "area", "none", 0.0, "none", 0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """(4, 64, 96, 3): a crowded picture that moves by 8 pixels a frame."""
    picture = np.asarray(Image.fromarray(render_dense(5, 128)))
    return np.stack([picture[:64, 8 * i : 8 * i + 96] for i in range(4)])


def sharpness(frames: np.ndarray) -> float:
    """Mean energy of the upper half of the frequencies."""
    spectrum = dctn(frames.astype(float), axes=(1, 2), norm="ortho")
    return float(np.square(spectrum[:, frames.shape[1] // 2 :, frames.shape[2] // 2 :]).mean())


def test_pure_and_of_the_right_size(clip):
    for seed in range(8):
        small = degrade(clip, rng(seed))
        assert small.shape == (4, 16, 24, 3) and small.dtype == np.uint8
        assert np.array_equal(small, degrade(clip, rng(seed)))
    assert degrade(clip, rng(), factor=2).shape == (4, 32, 48, 3)


def test_no_seed_gives_what_another_gives(clip):
    assert len({degrade(clip, rng(seed)).tobytes() for seed in range(20)}) == 20


def test_x264_repeats_itself(clip):
    """It would not with all of its defaults."""
    chain = replace(PLAIN, compression="x264", quality=20)
    noisy = rng().integers(0, 256, (16, 160, 160, 3), np.uint8)
    assert len({apply(chain, noisy, rng(), 2).tobytes() for _ in range(12)}) == 1


def test_every_kind_of_link_is_drawn():
    chains = [draw_degradation(rng(seed)) for seed in range(300)]
    for field, kinds in (("downscale", 3), ("noise", 3), ("compression", 3)):
        counts = Counter(getattr(chain, field) for chain in chains)
        assert len(counts) == kinds and min(counts.values()) > 40
    blurred = [chain.sigma for chain in chains if any(chain.sigma)]
    assert 180 < len(blurred) < 240
    assert all(0.8 <= value <= 2.4 for sigma in blurred for value in sigma)


def test_area_is_the_mean_of_its_pixels(clip):
    means = clip.reshape(4, 16, 4, 24, 4, 3).mean((2, 4))
    assert np.abs(apply(PLAIN, clip, rng(), 4) - means).max() <= 1  # rounded after rows and after columns


@pytest.mark.parametrize("downscale", ["area", "bilinear", "bicubic"])
def test_nothing_aliases(downscale):
    """Stripes one pixel wide become gray."""
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    inner = apply(replace(PLAIN, downscale=downscale), stripes, rng(), 4)[:, 2:-2, 2:-2]
    assert np.abs(inner.astype(int) - 127).max() < 12


def test_blur_along_either_axis(clip):
    before = sharpness(apply(PLAIN, clip, rng(), 4))
    both = sharpness(apply(replace(PLAIN, sigma=(2.4, 2.4)), clip, rng(), 4))
    one = sharpness(apply(replace(PLAIN, sigma=(2.4, 0.0)), clip, rng(), 4))
    assert both < one < before and both < before / 3


def test_noise_is_as_strong_as_it_says():
    gray = np.full((8, 64, 64, 3), 120, np.uint8)
    gaussian = apply(replace(PLAIN, noise="gaussian", noise_amount=8.0), gray, rng(), 2).astype(float)
    assert gaussian.std() == pytest.approx(8, rel=0.03) and gaussian.mean() == pytest.approx(120, abs=0.3)
    for level in (40, 200):
        plain = np.full((8, 64, 64, 3), level, np.uint8)
        poisson = apply(replace(PLAIN, noise="poisson", noise_amount=200.0), plain, rng(), 2).astype(float)
        assert poisson.mean() == pytest.approx(level, abs=0.5)
        assert poisson.std() == pytest.approx(255 * np.sqrt(level / 255 / 200), rel=0.05)  # grows with brightness


def test_noise_differs_from_frame_to_frame_and_the_rest_does_not():
    still = np.repeat(render_dense(1, 64)[None], 4, axis=0)
    noisy = apply(replace(PLAIN, noise="gaussian", noise_amount=8.0), still, rng(), 4)
    assert not np.array_equal(noisy[0], noisy[1])
    for compression, quality in (("none", 0), ("jpeg", 60)):
        chain = Degradation((1.0, 2.0), "bicubic", "none", 0.0, compression, quality)
        small = apply(chain, still, rng(), 4)
        assert all(np.array_equal(frame, small[0]) for frame in small)


@pytest.mark.parametrize(("compression", "better", "worse"), [("jpeg", 95, 40), ("x264", 18, 34)])
def test_compression_loses_more_at_lower_quality(clip, compression, better, worse):
    small = apply(PLAIN, clip, rng(), 2).astype(int)
    losses = [
        np.abs(apply(replace(PLAIN, compression=compression, quality=quality), clip, rng(), 2) - small).mean()
        for quality in (better, worse)
    ]
    assert 0 < losses[0] < losses[1] < 20


def test_odd_sides_survive_the_encoder():
    frames = np.repeat(render_dense(2, 72)[None], 3, axis=0)[:, :36, :60]  # 9 x 15 after shrinking by four
    assert apply(replace(PLAIN, compression="x264", quality=20), frames, rng(), 4).shape == (3, 9, 15, 3)


@pytest.mark.parametrize("frames", [np.zeros((2, 30, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.float32)])
def test_what_cannot_be_degraded_is_refused(frames):
    with pytest.raises(ValueError, match="expected uint8 frames whose sides 4 divides"):
        degrade(frames, rng())
