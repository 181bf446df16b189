"""LPIPS (Zhang et al. 2018) against a reference, of VGG-16."""

from __future__ import annotations

from ..errors import EvaluationError
from .base import Clip, Metric, Setup
from .weight_files import VGG


def _start(setup: Setup):
    import torch  # slow to import

    from .torchscript import load_network, video_tensor

    network = load_network(setup.path(VGG), setup.device)

    @torch.no_grad()
    def measure(clip: Clip) -> float:
        apart = []
        for pair in zip(clip.frames, clip.reference, strict=True):
            seen, truth = (video_tensor(frame[None], setup.device)[:, :, 0] for frame in pair)
            said = network(torch.cat([seen, truth]), resize_images=False, return_lpips=True)
            if said.ndim != 2 or len(said) != 2:
                raise EvaluationError(f"{VGG.name} gives {tuple(said.shape)}, expected (2, features)")
            apart.append(float((said[0] - said[1]).square().sum()))
        return sum(apart) / len(apart)

    return measure


METRICS = (
    Metric(
        "lpips_vgg", "LPIPS (VGG)", "lower",
        "Squared distance of the weighted VGG-16 features that vgg16.pt gives (return_lpips, pictures of 0 to 255, not "
        "resized); mean over frames.",
        _start, needs=(VGG,), reference=True, digits=4,
    ),
)  # fmt: skip
