"""LaVie weights under our names and the published ones, converted both ways.

Contract: weights that are not exactly those of the UNet that is expected raise CheckpointError naming the keys. Files
are read by `weights_file`, what they are is told by `identify`; this module re-exports both for those who need all.
"""

from __future__ import annotations

import torch

from .config import UNetConfig
from .errors import CheckpointError
from .identify import detect_config, identify, unet_prefix
from .key_names import FREQUENCIES, SHARED_FREQUENCIES, module_names, rename
from .positions import rotary_frequencies
from .unet import LaVieUNet
from .weights_file import WeightsFile, load_checkpoint, unwrap

__all__ = ["CheckpointError", "convert_state_dict", "detect_config", "export_published", "identify", "load_checkpoint"]

NAMED = 6  # keys that an error lists by name


def convert_state_dict(state_dict: dict, config: UNetConfig) -> dict[str, torch.Tensor]:
    """Weights of a LaVie UNet under our names, ready for ``load_state_dict(strict=True)``.

    Args:
        state_dict: published names or ours, plain or nested under WRAPPERS, with or without a common prefix such as
            ``module.`` or ``model.diffusion_model.``; beside a prefixed UNet other models may be present.
            Rotary tables are checked against their formula and dropped; they need not be there.
        config: the layout to expect, from `detect_config`.

    Raises:
        CheckpointError: naming keys that are unknown, missing or of another shape.
    """
    state_dict = unwrap(state_dict)
    return _our_names(state_dict, config, *unet_prefix(state_dict))


def unet_weights(file: WeightsFile) -> dict[str, torch.Tensor]:
    """`convert_state_dict` of an opened file, whose layout is known."""
    layout = file.unet
    return _our_names(file.weights, layout.config, layout.prefix, layout.published)


def _our_names(state_dict: dict, config: UNetConfig, prefix: str, published: bool) -> dict[str, torch.Tensor]:
    state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    names = module_names(config)
    converted, unknown = {}, []
    for key, value in state_dict.items():
        if key.endswith(FREQUENCIES):
            _check_frequencies(key, value)
            continue
        name = rename(key, names) if published else key
        if name is None:
            unknown.append(key)
        else:
            converted[name] = value
    expected = _shapes(config)
    unknown += [key for key in converted if key not in expected]
    missing = [key for key in expected if key not in converted]
    if unknown or missing:
        raise CheckpointError(
            f"these weights are not those of a {config.stage} UNet of this layout; unknown: {_list(unknown)}; missing: "
            f"{_list(missing)}. The file is incomplete or made for another model"
        )
    for key, shape in expected.items():
        if converted[key].shape != shape:
            raise CheckpointError(
                f"{key} has shape {tuple(converted[key].shape)}, but this {config.stage} UNet needs {tuple(shape)}; "
                "the file is damaged or its configuration does not belong to its weights"
            )
    return converted


def export_published(state_dict: dict, config: UNetConfig) -> dict[str, torch.Tensor]:
    """Inverse of `convert_state_dict`: published names, with the rotary table of every temporal attention.

    Raises:
        CheckpointError: if ``state_dict`` is not exactly that of ``LaVieUNet(config)``.
    """
    ours, architecture = convert_state_dict(state_dict, config), config.architecture
    names = {name: published for published, name in module_names(config).items()}
    exported = {}
    for key, value in ours.items():
        name = rename(key, names)
        exported[name] = value
        if architecture.rotary and name.endswith(f"attn_{architecture.temporal_name}.to_q.weight"):
            frequencies = rotary_frequencies(value.device).to(value.dtype)
            exported[name.replace("to_q.weight", FREQUENCIES)] = frequencies
            if config.stage == "super_resolution":
                exported[SHARED_FREQUENCIES] = frequencies.clone()
    return exported


def _shapes(config: UNetConfig) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in LaVieUNet(config, device="meta").state_dict().items()}


def _check_frequencies(key: str, value: torch.Tensor) -> None:
    """Raise CheckpointError if a stored rotary table is not the formula's, as far as its dtype can tell."""
    expected = rotary_frequencies()
    if value.shape != expected.shape:
        raise CheckpointError(f"{key} has shape {tuple(value.shape)}, expected {tuple(expected.shape)}")
    if not value.is_meta and not torch.allclose(value.cpu().float(), expected, rtol=0.01, atol=1e-6):
        raise CheckpointError(
            f"{key} differs from the rotary frequencies of LaVie; the file was made for a model with other positions"
        )


def _list(keys: list[str]) -> str:
    if not keys:
        return "none"
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(sorted(keys)[:NAMED]) + more
