"""Files that loader nodes read: one wording for every file that is of another kind than the node wants, or broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import comfy.model_management
import torch

from ..errors import CheckpointError
from ..weights_file import WeightsFile, open_weights

KINDS = {  # of `identify`: what an artist calls the file, and what loads it
    "base": ("LaVie's base network", "use Load LaVie Base Model"),
    "interpolation": ("LaVie's temporal interpolation network", "use Load LaVie Interpolation Model"),
    "super_resolution": ("LaVie's video super-resolution network", "use Load LaVie Super-Resolution Model"),
    "sd_checkpoint": ("a Stable Diffusion checkpoint (images, no temporal layers)", "use Load Checkpoint"),
    "sd_unet": ("an image UNet without temporal layers", "use Load Diffusion Model"),
    "text_encoder": ("a text encoder", "use Load LaVie Text Encoder"),
    "vae": ("a VAE", "use Load LaVie VAE"),
    "lora": ("a LoRA", "load the model it belongs to and add it with Load LoRA"),
    "unknown": ("no model that this pack knows", "check where the file comes from"),
}


def open_model_file(path: str, wanted: str) -> WeightsFile:
    """A file of the kind ``wanted``, one of ``KINDS``.

    Raises:
        CheckpointError: for a file of another kind, naming what it is and which loader wants it; for a file that
            cannot be read, as `open_weights` does.
    """
    file = open_weights(path)
    if file.kind != wanted:
        what, loader = KINDS[file.kind]
        raise CheckpointError(f"{path} is {what}, but {KINDS[wanted][0]} is wanted here; {loader}")
    return file


@contextlib.contextmanager
def building(path: str, what: str) -> Iterator[None]:
    """Around the making of a model from a file: whatever fails in it is a CheckpointError that names the file.

    A device without memory is no fault of the file and passes, as an interruption does.
    """
    try:
        yield
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # sizes that do not fit, told by torch, or by what core builds
        if comfy.model_management.is_oom(error):
            raise
        said = str(error) or type(error).__name__
        raise CheckpointError(f"{path} is not {what} of the expected layout: {said}") from error


def require_layout(what: str, weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Hold names and shapes of weights against those of a model, which may lie on the meta device.

    Raises:
        CheckpointError: naming weights that are missing, surplus or of another shape.
    """
    missing, surplus = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing:
        raise CheckpointError(
            f"this is not a whole {what}: {len(missing)} weights are missing, the first is {missing[0]}; get the file "
            "again"
        )
    if surplus:
        raise CheckpointError(
            f"this {what} has {len(surplus)} weights too many for its configuration, the first is {surplus[0]}; the "
            "file is damaged or its metadata was changed"
        )
    for key, value in expected.items():
        if weights[key].shape != value.shape:
            raise CheckpointError(
                f"{key} has shape {tuple(weights[key].shape)}, but this {what} needs {tuple(value.shape)}; the file is "
                "damaged or its metadata was changed"
            )
