"""LaVie weights on disk and in memory: reading files safely, converting names both ways.

Contract: nothing here executes code from a file. Every file that cannot be used raises CheckpointError saying what is
wrong with it and what to do. What a file *is* is told by `identify` (see `identify.py`), which this module re-exports.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .config import UNetConfig
from .identify import CheckpointError, detect_config, identify, unet_prefix
from .key_names import FREQUENCIES, SHARED_FREQUENCIES, module_names, rename
from .positions import rotary_frequencies
from .unet import LaVieUNet

__all__ = ["CheckpointError", "convert_state_dict", "detect_config", "export_published", "identify", "load_checkpoint"]

logger = logging.getLogger(__name__)

WRAPPERS = ("ema", "state_dict", "model")  # dictionary entries under which training scripts keep weights, best first
TORCH_STARTS = (b"PK", b"\x80")  # of torch.save's files: a zip archive, or a bare pickle from before 2020
NAMED = 6  # keys that an error lists by name


def load_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a file of tensors onto the CPU, memory-mapped where the format allows.

    Args:
        path: .safetensors, or a file that torch.save wrote (.pt, .pth, .ckpt, .bin); told apart by content.

    Returns:
        (state dict, metadata). Weights nested under ``ema``, ``state_dict`` or ``model`` come unwrapped; entries that
        are no tensors (step counters, options) are left out. Metadata is empty unless a safetensors file has some.

    Raises:
        CheckpointError: missing, empty, truncated, or of another format; a pickle with anything but plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the name or download it")
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); the download failed, get the file again")
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        state_dict, metadata = _read_safetensors(path, size)
    elif path.suffix == ".safetensors":
        raise CheckpointError(f"{path} does not begin like a safetensors file; it is damaged or misnamed, get it again")
    elif not start.startswith(TORCH_STARTS):
        raise CheckpointError(f"{path} is neither a safetensors file nor one that torch.save wrote; get it again")
    else:
        state_dict, metadata = _unwrap(_read_pickle(path)), {}
    if not state_dict:
        raise CheckpointError(f"{path} holds no weights (expected a dictionary of named tensors)")
    return state_dict, metadata


def _read_safetensors(path: Path, size: int):
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        promised = _promised_size(path, size)
        if promised > size:
            raise CheckpointError(
                f"{path} is truncated: its header promises {promised} bytes, the file has {size}; download it again"
            ) from error
        raise CheckpointError(f"{path} is a damaged safetensors file ({error}); get it again") from error


def _promised_size(path: Path, size: int) -> int:
    """Bytes that a whole safetensors file would have by its own header; 0 if the header does not tell."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length + 8 > size:
            return length + 8
        try:
            entries = json.loads(file.read(length))
            return 8 + length + max(entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0


def _read_pickle(path: Path):
    """torch.load restricted to tensors; training options kept as an argparse.Namespace are plain data too."""
    whole = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=whole or None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains pickled Python objects besides tensors, which could run code on this computer; it was "
            f"not loaded. Use a .safetensors file, or save the weights alone again ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({_first_line(error)}); download it again") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if "unsupported" in line.lower()] or lines
    return useful[0][:160] if useful else type(error).__name__


def _unwrap(content) -> dict[str, torch.Tensor]:
    """The innermost dictionary of tensors under WRAPPERS; {} if there is none."""
    while isinstance(content, dict):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        content = inner
    return {}


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
    state_dict = _unwrap(state_dict)
    prefix, published = unet_prefix(state_dict)
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
        if architecture.positions and name.endswith(f"attn_{architecture.temporal_name}.to_q.weight"):
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
