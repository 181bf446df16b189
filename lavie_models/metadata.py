"""What a safetensors file says about itself: the keys of its metadata, and how a value becomes one to rely on.

Contract: metadata is input like any other. `read_object` bounds a value before it is parsed; `check_fields` holds what
was parsed against a table of types and ranges. Both raise CheckpointError naming the key, what was expected and got.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from .errors import CheckpointError

STAGE = "lavie.stage"  # which network: one of the stages, "text_encoder" or "vae"
CONFIG = "lavie.config"  # its sizes, a JSON object
PREDICTION = "lavie.prediction"  # what a UNet predicts: "epsilon" or "v"
TOKENIZER = "lavie.tokenizer"  # of a text encoder: {"vocab": {token: id}, "merges": ["left right", ...]}
LATENT_COLORS = "lavie.latent_rgb"  # of UNets whose latents are not Stable Diffusion's: colours of previews
STEP, SEED = "lavie.step", "lavie.seed"  # of the training that made it
DATA, START = "lavie.data", "lavie.start"  # fingerprints of what it was trained on and from
DIGEST = "lavie.digest"  # of all weights and all other metadata, in files small enough to check it

MAX_CHARACTERS = 8 * 2**20  # of one value; CLIP's own vocabulary and merges take 2 million


class Range(NamedTuple):
    """Numbers from ``least`` to ``most``; whole ones unless these are floats."""

    least: float
    most: float

    def __contains__(self, value) -> bool:
        kinds = (int, float) if isinstance(self.least, float) else int
        return isinstance(value, kinds) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a {'number' if isinstance(self.least, float) else 'whole number'} from {self.least} to {self.most}"


def read_object(metadata: Mapping[str, str], key: str) -> dict:
    """The JSON object under a key.

    Raises:
        CheckpointError: the key is missing, its value too long or no JSON object; nesting without end is none either.
    """
    text = metadata.get(key)
    if text is None:
        raise CheckpointError(f"the file's metadata has no {key}; get the file again, or export it again")
    if len(text) > MAX_CHARACTERS:
        raise CheckpointError(f"{key} in the file's metadata has {len(text)} characters, more than {MAX_CHARACTERS}")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{key} in the file's metadata cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{key} in the file's metadata must be a JSON object, got {_short(value)}")
    return value


def check_fields(values: Mapping, table: Mapping[str, object], what: str) -> None:
    """Hold each value against its row of the table, a Range or a tuple of choices.

    Raises:
        CheckpointError: naming fields that are unknown, missing, or of another type or range.
    """
    unknown, missing = sorted(set(values) - set(table)), sorted(set(table) - set(values))
    if unknown or missing:
        raise CheckpointError(f"{what}: unknown fields {unknown}, missing fields {missing}; is it of another version?")
    for name, allowed in table.items():
        if values[name] not in allowed:
            expected = f"one of {allowed}" if isinstance(allowed, tuple) else allowed
            raise CheckpointError(f"{what}: {name} must be {expected}, got {_short(values[name])}")


def read_colors(metadata: Mapping[str, str]) -> tuple[list[list[float]], list[float]] | None:
    """(4 x 3 factors, 3 biases) from latent channels to colours in -1 .. 1, where a file states them.

    Raises:
        CheckpointError: they are stated in another form.
    """
    if LATENT_COLORS not in metadata:
        return None
    colors = read_object(metadata, LATENT_COLORS)
    factors, bias = colors.get("factors"), colors.get("bias")
    if not _is_row(factors, 4, list) or not all(_is_row(row, 3) for row in factors) or not _is_row(bias, 3):
        raise CheckpointError(f"{LATENT_COLORS} must be 4 rows of 3 factors and 3 biases, got {_short(colors)}")
    return factors, bias


def _is_row(value, length: int, kind: type = float) -> bool:
    number = Range(-1e6, 1e6)
    whole = isinstance(value, list) and len(value) == length
    return whole and all(isinstance(one, list) if kind is list else one in number for one in value)


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no number")


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
