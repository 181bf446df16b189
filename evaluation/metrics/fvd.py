"""Frechet video distance (Unterthiner et al. 2018), which only the I3D weights make.

Two preparations are in use and give different numbers; clips that are not square are cropped first.
"""

from __future__ import annotations

from .base import Metric, Setup
from .frechet import judge_frechet
from .weight_files import I3D

LOGITS = 400
COMMON = (
    "Frechet distance of the 400 logits of I3D (Kinetics-400, i3d_torchscript.pt); of made clips the first {frames} "
    "frames; covariances divided by the number of clips."
)


def _start(setup: Setup):
    from .torchscript import centre_square, feature_function, load_network  # torch is slow to import

    network = load_network(setup.path(I3D), setup.device)
    options = {"rescale": True, "resize": True, "return_features": True, "random_offset": True}
    return feature_function(network, centre_square, setup.frames, LOGITS, setup.device, **options)


def _start_128(setup: Setup):
    from .torchscript import centre_square, feature_function, load_network, resize  # torch is slow to import

    network = load_network(setup.path(I3D), setup.device)

    def prepare(video):
        height, width = video.shape[-2:]
        scale = 128 / min(height, width)
        small = resize(video, max(128, round(height * scale)), max(128, round(width * scale)))
        return resize(centre_square(small), 224, 224)

    options = {"rescale": True, "resize": False, "return_features": True}
    return feature_function(network, prepare, setup.frames, LOGITS, setup.device, **options)


METRICS = (
    Metric(
        "fvd", "FVD", "lower",
        f"{COMMON} Preparation of StyleGAN-V: the centre square, resized to 224 inside the TorchScript file; "
        "of real clips {frames} frames from a place that their content decides, as random as StyleGAN-V's.",
        _start, judge_frechet, (I3D,), real=True, digits=1,
    ),
    Metric(
        "fvd_128", "FVD, by way of 128 pixels", "lower",
        f"{COMMON} Preparation of cd-fvd: short side to 128, centre square, to 224, bilinear without antialiasing; of "
        "real clips the first {frames} frames. The network is StyleGAN-V's file, not cd-fvd's own "
        "i3d_pretrained_400.pt.",
        _start_128, judge_frechet, (I3D,), real=True, digits=1,
    ),
)  # fmt: skip
