"""Learned quality: a network of the user's own choice that judges pictures, such as MUSIQ, CLIP-IQA or DOVER.

No package brings one with its weights, so it is a file that torch.export saved (.pt2), made on a machine that has the
network's own code:

    program = torch.export.export(network.eval(), (torch.zeros(3, 3, 224, 224),))
    torch.export.save(program, "weights/quality.pt2")

It gets a shot's three stills, float32 (3, 3, H, W), RGB, 0 to 1, scaled and cut to the size it was exported for, and
answers with a number for each, or one for all. Normalisation is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..shots import STILLS, Shot
from .base import Stage, Weights

SOURCE = "a network that judges pictures, saved by torch.export (how: datasets/stages/learned_quality.py)"


@dataclass(frozen=True)
class LearnedQuality(Stage):
    """model: a file in the weights' folder."""

    model: str = "quality.pt2"

    name = "learned_quality"
    packages = ("torch",)
    columns = {"learned_quality": "float64"}
    needs_device = True

    def weights(self, folder: Path) -> list[Weights]:
        """The network."""
        return [Weights(folder / self.model, SOURCE)]

    def lacks(self, folder: Path) -> list[str]:
        """As other stages; and a file that is no such network is named, for it would cost every shot its score."""
        if absent := super().lacks(folder):
            return absent
        try:
            height, width = (network := _load(folder / self.model, "cpu"))[1]
            _judge(network, [np.zeros((height, width, 3), np.uint8)] * len(STILLS))
        except Exception as error:  # whatever a file may do that somebody else wrote
            return [f"{folder / self.model}: expected {SOURCE}, got a file that fails: {str(error).splitlines()[0]}"]
        return []

    def setup(self, device: str, folder: Path) -> Any:
        """(network, (height, width), device)."""
        return _load(folder / self.model, device)

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """learned_quality: the mean of what the network says of a shot, in its own units."""
        return [{"learned_quality": _judge(models, shot.pixels.stills)} for shot in shots]


def _load(path: Path, device: str) -> tuple[Any, tuple[int, int], str]:
    """(network, (height, width) that it was exported for, device). Raises ValueError for another input."""
    import torch
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(path)
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"].shape for node in program.graph.nodes if node.name in names]
    if len(inputs) != 1 or tuple(inputs[0][:2]) != (len(STILLS), 3) or len(inputs[0]) != 4:
        shapes = ", ".join(str(tuple(shape)) for shape in inputs)
        raise ValueError(f"expected one input ({len(STILLS)}, 3, height, width), got {shapes}")
    return move_to_device_pass(program, device).module(), tuple(map(int, inputs[0][2:])), device


def _judge(models: tuple[Any, tuple[int, int], str], stills: Sequence[np.ndarray]) -> float:
    import torch

    network, (height, width), device = models
    fitted = [ImageOps.fit(Image.fromarray(still), (width, height), Image.Resampling.BICUBIC) for still in stills]
    pictures = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).to(device, torch.float32) / 255
    with torch.inference_mode():
        said = network(pictures)
    if not isinstance(said, torch.Tensor) or said.numel() not in (1, len(stills)):
        got = tuple(said.shape) if isinstance(said, torch.Tensor) else type(said).__name__
        raise ValueError(f"expected {len(stills)} numbers or one, got {got}")
    return said.float().mean().item()
