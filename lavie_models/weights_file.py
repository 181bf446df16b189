"""Files of weights: opened once, written whole.

Contract: nothing here executes code from a file. `open_weights` reads a file and finds once what the rest of the way
to a model needs: its kind, its metadata, its tensors. Every file that cannot be used raises CheckpointError saying what
is wrong with it and what to do. `write_weights` is how every file of ours is written.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import whole_file
from .errors import CheckpointError
from .identify import UNetLayout, identify, lay_out_unet
from .metadata import DIGEST, MAX_CHARACTERS

log = logging.getLogger(__name__)

MAX_NESTING = 8  # of dictionaries around the weights; one that contains itself never ends
CHECKED_BYTES = 64 * 2**20  # files up to this size carry a digest of their content
UNUSUAL = {
    "sparse": lambda value: value.layout != torch.strided,
    "quantised": lambda value: value.is_quantized,
    "without values": lambda value: value.is_meta,
    "one value repeated": lambda value: value.numel() * value.element_size() > value.untyped_storage().nbytes(),
}
WRAPPERS = ("ema", "state_dict", "model")  # dictionary entries under which training scripts keep weights, best first
TORCH_STARTS = (b"PK", b"\x80")  # of torch.save's files: a zip archive, or a bare pickle from before 2020


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds: its tensors by the names they have there, its metadata ({} without), and what it is.

    ``kind`` is one of those that `identify` tells.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    metadata: dict[str, str]
    kind: str

    @functools.cached_property
    def unet(self) -> UNetLayout:
        """Of a LaVie UNet: its configuration, prediction and names. Raises CheckpointError, which names the file."""
        try:
            return lay_out_unet(self.weights, self.metadata, self.kind)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error


def open_weights(path: str | Path) -> WeightsFile:
    """Read a file and tell what it is. Raises CheckpointError as `load_checkpoint` does."""
    weights, metadata = load_checkpoint(path)
    return WeightsFile(Path(path), weights, metadata, identify(weights, metadata))


def write_weights(path: str | Path, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> int:
    """Write a safetensors file, whole or not at all; its size in bytes. Folders on the way to it are made."""
    path, metadata = Path(path), dict(metadata)
    weights = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    if sum(value.nbytes for value in weights.values()) + MAX_CHARACTERS <= CHECKED_BYTES:
        metadata[DIGEST] = digest(weights, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        save_file(weights, part, metadata)
    return path.stat().st_size


def digest(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of weights and metadata, without the entry for the digest itself; the order they come in is no matter."""
    found = hashlib.sha256()
    for name, text in sorted(metadata.items()):
        if name != DIGEST:
            found.update(json.dumps([name, text]).encode())
    for key, value in sorted(weights.items()):
        found.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, {} for a file of another format; no weight is read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


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
        state_dict, metadata = unwrap(_read_pickle(path)), {}
    if not state_dict:
        raise CheckpointError(f"{path} holds no weights (expected a dictionary of named tensors)")
    _require_plain(path, state_dict)
    if (stated := metadata.pop(DIGEST, None)) is not None and size <= CHECKED_BYTES:
        if stated != digest(state_dict, metadata):
            raise CheckpointError(
                f"{path} is damaged: its content is not what was written; get the file again. If a tool changed it on "
                f"purpose, take {DIGEST} out of its metadata"
            )
    return state_dict, metadata


def _read_safetensors(path: Path, size: int):
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except Exception as error:  # SafetensorError mostly; other kinds for dtypes that this torch does not know
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
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
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
    except Exception as error:  # whatever a damaged pickle or archive makes torch and zipfile raise
        raise CheckpointError(f"{path} is truncated or damaged ({_first_line(error)}); download it again") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if "unsupported" in line.lower()] or lines
    return useful[0][:160] if useful else type(error).__name__


def unwrap(content) -> dict[str, torch.Tensor]:
    """The innermost dictionary of tensors under WRAPPERS; {} if there is none, or none within MAX_NESTING."""
    for _ in range(MAX_NESTING):
        if not isinstance(content, dict):
            break
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        content = inner
    return {}


def _require_plain(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Raise CheckpointError for tensors without values of their own, which a small file can make huge."""
    for key, value in weights.items():
        kind = next((kind for kind, test in UNUSUAL.items() if test(value)), None)
        if kind:
            raise CheckpointError(f"{path}: {key} is {kind}, not a plain tensor; save the weights again as safetensors")


def inspect_weights(path: str | Path, weights: Mapping[str, torch.Tensor]) -> None:
    """What the values of weights may be: floating ones; NaN and infinity are warned of, since some networks live on.

    Raises:
        CheckpointError: a weight of whole numbers or of true and false, by name.
    """
    broken = []
    for key, value in weights.items():
        if not value.is_floating_point():
            raise CheckpointError(
                f"{path}: {key} holds {str(value.dtype).removeprefix('torch.')}, expected floating-point weights; the "
                "file is quantised in a way that this pack does not read, or damaged"
            )
        if not value.float().sum().isfinite() and not value.float().isfinite().all():
            broken.append(key)
    if broken:
        log.warning(
            "%s: %d weights hold NaN or infinity, the first is %s; pictures will be black or noise. Get the file again",
            path, len(broken), broken[0],
        )  # fmt: skip
