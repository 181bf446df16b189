"""Low-resolution clips as they come out of cameras, encoders and earlier stages, to train super-resolution on.

Contract: `degrade` is a pure function of the frames and of the generator's state. One chain is drawn per clip and all
its frames go through it: blur, down-scaling, noise, compression (the classical order of blind super-resolution). Only
noise differs from frame to frame. The ranges are ours; the paper gives none.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from ...datasets.video import bt709_frame, bt709_stream, decode_video

BLUR = 0.7  # probability of a blur
BLUR_SIGMA = (0.2, 0.6)  # per factor: a down-scaling by 4 sees 0.8 .. 2.4 pixels
NOISE = {"none": 0.3, "gaussian": 0.4, "poisson": 0.3}  # probabilities
GAUSSIAN_SIGMA = (1.0, 12.0)  # of 255
POISSON_PHOTONS = (60.0, 600.0)  # photons of a white pixel, drawn evenly on a logarithmic scale
COMPRESSION = {"none": 0.2, "jpeg": 0.4, "x264": 0.4}
JPEG_QUALITY = (40, 95)
X264_CRF = (18, 34)
DOWNSCALE = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}  # Pillow widens all of them with the factor: none of them aliases


@dataclass(frozen=True)
class Degradation:
    """One chain. sigma: of the blur along (y, x) in pixels, 0 for none; noise_amount: sigma (of 255), or photons of a
    white pixel; quality: JPEG's, or x264's crf."""

    sigma: tuple[float, float]
    downscale: str
    noise: str
    noise_amount: float
    compression: str
    quality: int


def draw_degradation(rng: np.random.Generator, factor: int = 4) -> Degradation:
    """Draw a chain."""
    blurred = rng.random() < BLUR
    sigma = tuple(float(value) * factor * blurred for value in rng.uniform(*BLUR_SIGMA, 2))
    downscale = str(rng.choice(list(DOWNSCALE)))
    noise = str(rng.choice(list(NOISE), p=list(NOISE.values())))
    gaussian = rng.uniform(*GAUSSIAN_SIGMA)
    photons = np.exp(rng.uniform(*np.log(POISSON_PHOTONS)))
    compression = str(rng.choice(list(COMPRESSION), p=list(COMPRESSION.values())))
    low, high = X264_CRF if compression == "x264" else JPEG_QUALITY
    quality = int(rng.integers(low, high + 1))
    amount = float(photons if noise == "poisson" else gaussian)
    return Degradation(sigma, downscale, noise, amount, compression, quality)


def degrade(frames: np.ndarray, rng: np.random.Generator, factor: int = 4) -> np.ndarray:
    """uint8 (F, H, W, 3) to (F, H / factor, W / factor, 3). Raises ValueError if the factor does not divide H and W."""
    return apply(draw_degradation(rng, factor), frames, rng, factor)


def apply(chain: Degradation, frames: np.ndarray, rng: np.random.Generator, factor: int) -> np.ndarray:
    """Degrade with a given chain; `rng` gives the noise."""
    height, width = frames.shape[1:3]
    if frames.dtype != np.uint8 or height % factor or width % factor:
        raise ValueError(f"expected uint8 frames whose sides {factor} divides, got {frames.dtype} {width}x{height}")
    small = np.stack([_shrink(_blur(frame, chain.sigma), chain.downscale, factor) for frame in frames])
    noisy = _add_noise(small, chain, rng)
    if chain.compression == "jpeg":
        return np.stack([_jpeg(frame, chain.quality) for frame in noisy])
    return _x264(noisy, chain.quality) if chain.compression == "x264" else noisy


def _blur(frame: np.ndarray, sigma: tuple[float, float]) -> np.ndarray:
    if not any(sigma):
        return frame
    return _to_uint8(gaussian_filter(frame.astype(np.float32), (*sigma, 0)))


def _shrink(frame: np.ndarray, downscale: str, factor: int) -> np.ndarray:
    size = (frame.shape[1] // factor, frame.shape[0] // factor)
    return np.asarray(Image.fromarray(frame).resize(size, DOWNSCALE[downscale]))


def _add_noise(frames: np.ndarray, chain: Degradation, rng: np.random.Generator) -> np.ndarray:
    if chain.noise == "gaussian":
        return _to_uint8(frames + rng.normal(0, chain.noise_amount, frames.shape))
    if chain.noise == "poisson":
        return _to_uint8(rng.poisson(frames / 255 * chain.noise_amount) * (255 / chain.noise_amount))
    return frames


def _jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _x264(frames: np.ndarray, crf: int) -> np.ndarray:
    """Through an H.264 encoder and back, in memory; odd sides are padded for it and cut again.

    On one thread and without macroblock trees, whose results differ from call to call.
    """
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = bt709_stream(container, 8, *padded.shape[1:3], **options)
        for frame in padded:
            container.mux(stream.encode(bt709_frame(frame)))
        container.mux(stream.encode())
    decoded = decode_video(file.getvalue())
    return decoded[:, :height, :width]


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
