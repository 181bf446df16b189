"""Files that no one should load, each from a seed: shipped ones with bits flipped or ends cut, metadata and tensors
changed, pickles that would run a program.

Contract: `make_file` writes one file and returns its name; a payload that ran would leave the file CANARY.
"""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path

import torch
from comfyui_lavie.lavie_models.metadata import DIGEST
from comfyui_lavie.place import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

WEIGHTS = ROOT / "weights"
SHIPPED = {
    "diffusion_models": WEIGHTS / "diffusion_models" / "lavie_nano_interpolation.safetensors",
    "vae": WEIGHTS / "vae" / "lavie_nano_upscaler_vae.safetensors",
    "text_encoders": WEIGHTS / "text_encoders" / "lavie_nano_text_encoder.safetensors",
    "loras": WEIGHTS / "loras" / "lavie_nano_orange_lora.safetensors",
}
CANARY = "payload-ran"
JSON_VALUES = (0, -1, 1, 10**9, 0.5, "", "x", None, True, [], [1], {}, {"a": {}}, [[[]]], 1e300)
DTYPES = (torch.int64, torch.bool, torch.uint8, torch.float64, torch.bfloat16, torch.float32)


class Payload:
    """What a pickle runs when it is loaded without care."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def make_file(folder: str, models: Path, random_: random.Random) -> str:
    """Write a harmful file of a model folder; always under the same two names, so that disks do not fill."""
    kind = random_.choice((_flip, _flip, _cut, _metadata, _metadata, _tensors, _tensors, _pickle, _noise))
    name = f"fuzz{'.pt' if kind is _pickle else '.safetensors'}"
    path = models / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind(SHIPPED[folder], path, random_)
    return name


def _flip(source: Path, path: Path, random_: random.Random) -> None:
    save_file(load_file(source), path, _undigested(source, random_))
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(random_.randint(1, 8)):
        place = random_.randrange(header if random_.random() < 0.8 else len(content))
        content[place] ^= 1 << random_.randrange(8)
    path.write_bytes(content)


def _cut(source: Path, path: Path, random_: random.Random) -> None:
    content = source.read_bytes()
    path.write_bytes(content[: random_.choice((0, 1, 7, 8, 9, 100, random_.randrange(len(content)), len(content) - 1))])


def _undigested(source: Path, random_: random.Random) -> dict[str, str]:
    """A file's metadata, mostly without the digest, by which every change would be refused at once."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    if random_.random() < 0.9:
        metadata.pop(DIGEST)
    return metadata


def _metadata(source: Path, path: Path, random_: random.Random) -> None:
    metadata = _undigested(source, random_)
    key = random_.choice(sorted(metadata))
    try:
        value = json.loads(metadata[key])
    except ValueError:
        value = metadata[key]
    if isinstance(value, dict) and random_.random() < 0.8:
        value[random_.choice(sorted(value))] = random_.choice(JSON_VALUES)
        metadata[key] = json.dumps(value)
    else:
        metadata[key] = random_.choice((*map(json.dumps, JSON_VALUES), "{", "[" * 5000, "NaN", "\x00"))
    save_file(load_file(source), path, metadata)


def _tensors(source: Path, path: Path, random_: random.Random) -> None:
    metadata = _undigested(source, random_)
    weights = load_file(source)
    for key in random_.sample(sorted(weights), random_.randint(1, 3)):
        change = random_.randrange(6)
        value = weights.pop(key)
        if change == 0:
            weights[key] = value.to(random_.choice(DTYPES))
        elif change == 1:
            weights[key] = value.flatten()[: random_.choice((0, 1, 5))].clone()
        elif change == 2:
            weights[key] = torch.full_like(value, random_.choice((torch.nan, torch.inf)))
        elif change == 3:
            weights[key + ".extra"] = value
        elif change == 4:
            weights[key] = value[None].clone()
    save_file(weights, path, metadata if random_.random() < 0.7 else None)


def _pickle(source: Path, path: Path, random_: random.Random) -> None:
    endless = {"weight": torch.zeros(1)}
    endless[random_.choice(("ema", "state_dict", "model"))] = endless
    weights = load_file(source)
    payload = {**weights, "x": Payload(path.parents[1] / CANARY)}
    content = random_.choice((
        endless, payload, {"state_dict": payload}, {"ema": {1: 2}}, [1, 2], {"a": torch.zeros(1).expand(10**9, 10**6)},
        {key: value.to_sparse() for key, value in list(weights.items())[:2]}, {"model": {"ema": {"model": weights}}},
    ))  # fmt: skip
    if random_.random() < 0.5:
        torch.save(content, path, _use_new_zipfile_serialization=random_.random() < 0.5)
    else:
        path.write_bytes(pickle.dumps(payload))


def _noise(source: Path, path: Path, random_: random.Random) -> None:
    start = random_.choice((b"", b"PK\x03\x04", b"\x80\x02", b"<!DOCTYPE html>", b"\x10\x00\x00\x00\x00\x00\x00\x00{"))
    path.write_bytes(start + random_.randbytes(random_.randrange(2000)))
