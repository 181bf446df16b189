"""Where a training starts: weights of any kind that can become the recipe's UNet, and what has to be invented.

Contract: `starting_unet` gives a UNet on the CPU in float32 whose every weight is known: read, or the fresh
initialisation that the recipe's seed draws. Temporal layers that the source lacks begin without effect, so an inflated
image model computes what it did frame by frame; input channels beyond the source's begin at zero. What cannot be used
raises TrainingError naming the file, what it is and what to do.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..lavie_models import LaVieUNet, UNetConfig
from ..lavie_models.identify import POSITION_BIAS, STAGES, unet_prefix
from ..lavie_models.key_names import FREQUENCIES, module_names, rename
from ..lavie_models.unet import is_temporal
from ..lavie_models.weights_file import open_weights
from .checkpoints import Checkpoints
from .errors import TrainingError
from .files import file_digest, required
from .recipe import Recipe
from .recipe_file import recipe_of_run

STEM = "input_blocks.0.0.weight"
IMAGE_MODELS = ("sd_checkpoint", "sd_unet")
UNET_FILES = ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors")  # of diffusers
WHERE = {
    "base": "lavie_base.pt (Hugging Face, YaohuiW/LaVie) or any Stable Diffusion 1.x checkpoint",
    "interpolation": "lavie_base.pt (Hugging Face, YaohuiW/LaVie), or lavie_interpolation.pt to go on from there",
    "super_resolution": "the folder of stable-diffusion-x4-upscaler (Hugging Face, stabilityai), or lavie_vsr.pt",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartWeights:
    """Weights to start from: our names, the layout they have, and what identifies them."""

    weights: dict[str, torch.Tensor]
    config: UNetConfig
    kind: str
    digest: str
    name: str


def starting_unet(recipe: Recipe, attention=None) -> tuple[LaVieUNet, str]:
    """(the UNet, 16 digits that identify its source)."""
    torch.manual_seed(recipe.run.seed)
    kernel = {"attention": attention} if attention else {}
    if recipe.model.start == "random":
        return LaVieUNet(recipe.unet_config(), **kernel), "random"
    source = read_source(recipe)
    unet = LaVieUNet(_target_config(recipe, source), **kernel)
    unet.load_state_dict(_fit(source, unet))
    return unet, source.digest


def read_source(recipe: Recipe) -> StartWeights:
    """Read ``model.start``: a run's folder, a diffusers folder or a file."""
    path = Path(recipe.model.start)
    required(path, "model.start", WHERE[recipe.model.stage])
    if path.is_dir() and Checkpoints(path).files():
        return source_of_state(path, recipe_of_run(path), Checkpoints(path).load())
    if path.is_dir():
        found = next((path / name for name in UNET_FILES if (path / name).is_file()), None)
        if found is None:
            raise TrainingError(f"model.start: {path} is neither a run of ours nor a diffusers folder of a UNet")
        path = found
    file = open_weights(path)
    if file.kind not in (*STAGES, *IMAGE_MODELS):
        wanted = WHERE[recipe.model.stage]
        raise TrainingError(f"model.start: {path} is no UNet (it looks like: {file.kind}); wanted: {wanted}")
    config = file.unet.config if file.kind in STAGES else recipe.unet_config()
    return StartWeights(_our_names(file.weights, config), config, file.kind, file_digest(path), str(path))


def source_of_state(folder: Path, recipe: Recipe, state: dict, averaged: bool = True) -> StartWeights:
    """The (averaged) weights of a run, joined with those it kept frozen. Raises TrainingError for a LoRA's run."""
    if recipe.lora:
        raise TrainingError(f"model.start: {folder} trained a LoRA, which is no model to start from")
    config = UNetConfig.from_dict(json.loads(state["settings"]["config"]))
    values = (averaged and state["average"]) or state["model"]
    trained = {key.removeprefix("unet."): value for key, value in values.items()}
    if len(trained) < len(LaVieUNet(config, device="meta").state_dict()):
        trained = starting_unet(recipe)[0].state_dict() | trained
    digest = hashlib.sha256(Checkpoints(folder).files()[-1].name.encode()).hexdigest()[:16]
    return StartWeights(trained, config, config.stage, digest, str(folder))


def _our_names(state_dict: dict[str, torch.Tensor], config: UNetConfig) -> dict[str, torch.Tensor]:
    prefix, published = unet_prefix(state_dict)
    weights = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    if published:
        names = module_names(config)
        weights = {rename(key, names) or key: value for key, value in weights.items()}
    return {key: value for key, value in weights.items() if not key.endswith(FREQUENCIES)}


def _target_config(recipe: Recipe, source: StartWeights) -> UNetConfig:
    """The source's sizes for the recipe's stage; the sizes that the recipe names must be among them.

    Positions are no size: the recipe may give or take them.
    """
    wanted = recipe.unet_config()
    config = replace(source.config, stage=wanted.stage, in_channels=wanted.in_channels)
    if "positions" in recipe.model.config:
        config = replace(config, positions=wanted.positions)
    named = {key: getattr(wanted, key) for key in recipe.model.config}
    other = {key: getattr(config, key) for key, value in named.items() if getattr(config, key) != value}
    if other:
        raise TrainingError(f"model.config asks for {named}, but {source.name} has {other}; leave these sizes out")
    return config


def _fit(source: StartWeights, unet: LaVieUNet) -> dict[str, torch.Tensor]:
    """All weights of ``unet``: the source's where it has them, and fresh ones where it may lack them."""
    fresh = unet.state_dict()
    weights = {key: value.float() for key, value in source.weights.items()}
    more = unet.config.in_channels - weights[STEM].shape[1] if STEM in weights else 0
    if more > 0:
        weights[STEM] = torch.nn.functional.pad(weights[STEM], (0, 0, 0, 0, 0, more))
    other_stage = source.kind != unet.config.stage
    other_bias = source.config.architecture.position_bias != unet.config.architecture.position_bias

    def may_differ(key: str) -> bool:
        return is_temporal(key) and (other_stage or (other_bias and key.endswith(POSITION_BIAS)))

    dropped = sorted(key for key in weights if key not in fresh and may_differ(key))
    unknown = sorted(key for key in weights if key not in fresh and key not in dropped)
    missing = sorted(key for key in fresh if key not in weights)
    lost = [key for key in missing if not may_differ(key)]
    wrong = [key for key, value in fresh.items() if key in weights and weights[key].shape != value.shape]
    if unknown or lost or wrong:
        shapes = [f"{key} {tuple(weights[key].shape)} for {tuple(fresh[key].shape)}" for key in wrong[:3]]
        raise TrainingError(
            f"model.start: {source.name} does not fit a {unet.config.stage} UNet; unknown: {unknown[:3]}, missing: "
            f"{lost[:3]}, of another shape: {shapes}. Wanted: {WHERE[unet.config.stage]}; other sizes go into "
            "[model.config]"
        )
    log.info(
        "start: %s (%s); %d weights read, %d temporal ones new, %d dropped, %d new input channels at zero",
        source.name, source.kind, len(weights) - len(dropped), len(missing), len(dropped), more,
    )  # fmt: skip
    return fresh | {key: value for key, value in weights.items() if key in fresh}
