"""Aesthetics: LAION's predictor on CLIP ViT-L/14, as Vimeo25M and its relatives use it.

The predictor is "improved-aesthetic-predictor" MLP V2 (sac+logos+ava1-l14-linearMSE.pth): five linear layers on the
normalised image embedding. Not the one-layer predictor that VBench uses. Scores are about 1 to 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shots import Shot
from .base import Stage, Weights
from .clip import CLIP_SOURCE, ClipEncoder

PREDICTOR_SOURCE = "christophschuhmann/improved-aesthetic-predictor on GitHub"


@dataclass(frozen=True)
class Aesthetics(Stage):
    """clip, predictor: a folder and a file in the weights' folder."""

    clip: str = "clip-vit-large-patch14"
    predictor: str = "sac+logos+ava1-l14-linearMSE.pth"

    name = "aesthetics"
    packages = ("torch", "transformers")
    columns = {"aesthetics": "float64", "aesthetics_least": "float64"}
    needs_device = True

    def weights(self, folder: Path) -> list[Weights]:
        """CLIP and the predictor."""
        return [Weights(folder / self.clip, CLIP_SOURCE), Weights(folder / self.predictor, PREDICTOR_SOURCE)]

    def setup(self, device: str, folder: Path) -> Any:
        """(CLIP, predictor)."""
        return ClipEncoder.load(folder / self.clip, device), load_predictor(folder / self.predictor).to(device).eval()

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """Mean and least of the three stills."""
        import torch

        clip, predictor = models
        with torch.inference_mode():
            scores = predictor(clip.embed_shots(shots))[..., 0]  # (shots, stills)
        return [
            {"aesthetics": mean, "aesthetics_least": least}
            for mean, least in zip(scores.mean(1).tolist(), scores.min(1).values.tolist(), strict=True)
        ]


def load_predictor(path: Path):
    """The predictor's network; its widths are read off its file."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    layers = sorted({int(name.split(".")[1]) for name in state})
    network = torch.nn.Sequential()
    for layer in layers:
        network.add_module(str(layer), torch.nn.Linear(*reversed(state[f"layers.{layer}.weight"].shape)))
    network.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})
    return network
