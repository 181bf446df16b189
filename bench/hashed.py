"""Tensors made of hashed names, and the golden cases that were computed with them (see tests/data/README.md).

They check the numbers of this code, in the tests and, on any device, in the acceptance.

A name's stream of numbers is SplitMix64 with the name's CRC-32 as the index of the seed: element i hashes the 64-bit
counter i + (1 + crc) * GOLDEN. The upper 53 bits become a uniform number, stretched to mean 0 and variance 1. What a
weight's numbers are scaled by follows from its key: see `weight`.
"""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file

from ..lavie_models import LaVieUNet, UNetConfig
from ..lavie_models.checkpoint import convert_state_dict
from ..place import ROOT

DATA = ROOT / "tests" / "data"
GOLDEN = 0x9E3779B97F4A7C15
STAGE_NAMES = {"vsr": "super_resolution"}  # the reference's: ours
ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def uniform(name: str, count: int) -> np.ndarray:
    """(count,) float64 in 0 .. 1, the same for a name everywhere."""
    seed = (1 + zlib.crc32(name.encode())) * GOLDEN % 2**64
    state = np.arange(count, dtype=np.uint64) + np.uint64(seed)
    for shift, factor in ROUNDS:
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def centred(name: str, count: int) -> np.ndarray:
    """(count,) float64 of mean 0 and variance 1."""
    return (2 * uniform(name, count) - 1) * math.sqrt(3.0)


def _tensor(numbers: np.ndarray, shape) -> torch.Tensor:
    return torch.from_numpy(numbers.astype(np.float32)).reshape(tuple(shape))


def tensor(name: str, shape, scale: float = 1.0) -> torch.Tensor:
    """A hashed input, float32."""
    return _tensor(centred(name, math.prod(shape)) * scale, shape)


def weight(key: str, shape, prefix: str = "") -> torch.Tensor:
    """A hashed parameter, float32: matrices keep variance, norms are near 1, biases small, embeddings halved."""
    numbers = centred(prefix + key, math.prod(shape))
    if key.endswith(("relative_attention_bias.weight", "class_embedding.weight", ".emb.weight")):
        numbers = numbers * 0.5
    elif len(shape) > 1:
        numbers = numbers * (1 / math.sqrt(math.prod(shape[1:])))
    elif key.endswith(".weight"):
        numbers = 1 + 0.1 * numbers
    elif key.endswith(".bias"):
        numbers = 0.05 * numbers
    else:
        raise ValueError(f"no rule for a parameter {key} of shape {tuple(shape)}")
    return _tensor(numbers, shape)


def manifest(name: str) -> dict:
    return json.loads((DATA / "manifests" / f"{name}.json").read_text())


def meta(shapes: dict) -> dict[str, torch.Tensor]:
    """Tensors without content, one per name of a manifest."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def to_frames(x: torch.Tensor) -> torch.Tensor:
    """Clips as the reference lays them out -> frames on the batch axis."""
    return rearrange(x, "b c f h w -> (b f) c h w")


class GoldenCase:
    """One case of tests/data: ``facts`` (its JSON), ``expected`` (its tensors), hashed inputs by name."""

    def __init__(self, name: str):
        self.name = name
        self.facts = json.loads((DATA / f"{name}.json").read_text())
        self.expected = load_file(DATA / f"{name}.safetensors")

    def input(self, name: str) -> torch.Tensor:
        entry = self.facts["inputs"][name]
        return tensor(entry["hash_name"], entry["shape"], entry["scale"])

    def arguments(self) -> dict:
        """Arguments of the forward that a forward case is about, for ``LaVieUNet``."""
        x, level = self.input("sample"), None
        if "class_labels" in self.facts:
            x, level = torch.cat((x, self.input("low_res")), dim=1), torch.tensor(self.facts["class_labels"])
        return {
            "x": to_frames(x), "timesteps": torch.tensor(self.facts["timestep"]).reshape(-1),
            "context": self.input("encoder_hidden_states"), "num_frames": x.shape[2], "noise_level": level,
        }  # fmt: skip

    def assert_close(self, actual: torch.Tensor, name: str, factor: float = 10) -> None:
        """Within ``factor`` times the rounding floor of the reference, everywhere."""
        tolerance = factor * self.facts["fp64_max_abs_diff"][name]
        torch.testing.assert_close(
            actual, self.expected[name], atol=tolerance, rtol=0, msg=lambda text: f"{self.name}, {name}: {text}"
        )

    def config(self) -> UNetConfig:
        published = self.facts["config"]
        return UNetConfig(
            stage=STAGE_NAMES.get(self.facts["stage"], self.facts["stage"]),
            in_channels=published["in_channels"],
            out_channels=published["out_channels"],
            block_channels=published["block_out_channels"],
            layers_per_block=published["layers_per_block"],
            num_heads=published["attention_head_dim"],  # the reference's name for the number of heads
            context_dim=published["cross_attention_dim"],
            attention_levels=["CrossAttn" in kind for kind in published["down_block_types"]],
        )


def small_published_weights(stage: str = "base") -> dict[str, torch.Tensor]:
    """The hashed checkpoint of a stage's small model under its published names, rotary tables left out."""
    shapes = manifest(f"{stage}_small")["state_dict"]
    return {key: weight(key, shape) for key, shape in shapes.items() if not key.endswith("rotary_emb.freqs")}


def small_unet(config: UNetConfig) -> LaVieUNet:
    unet = LaVieUNet(config).eval().requires_grad_(False)
    unet.load_state_dict(convert_state_dict(small_published_weights(config.stage), config), strict=True)
    return unet
