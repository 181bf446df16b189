"""Every input of every node, held against the node's own schema when the node runs.

Contract: ComfyUI checks ranges and choices of typed-in values only; what comes through a link may be anything, the more
so behind a wildcard output. `checked` makes an `execute` refuse what its schema does not promise, before any work: a
ValueError naming the node, the input, what was expected and what came. Ranges stand in the schema alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping

import torch
from comfy_api.latest import io

from ..lavie_models.config import LATENT_CHANNELS
from ..lavie_models.metadata import Range

MAX_FRAMES = 4096  # of a clip
# What an object of ComfyUI's must have for us to use it.
OBJECTS = {
    "MODEL": ("model", "get_model_object"),
    "CLIP": ("cond_stage_model", "tokenize", "encode_from_tokens_scheduled"),
    "VAE": ("encode", "decode", "spacial_compression_decode"),
    "GUIDER": ("model_patcher", "original_conds", "sample"),
    "NOISE": ("seed", "generate_noise"),
    "SAMPLER": ("sample",),
}


def checked(execute: Callable) -> Callable:
    """Decorator below @classmethod: `execute` gets what the schema of its node promises, or is not called."""
    names = list(inspect.signature(execute).parameters)[1:]

    @functools.wraps(execute)
    def run(cls, *args, **given):
        given |= zip(names, args, strict=False)
        return execute(cls, **check_inputs(cls.define_schema(), given))

    return run


def refusal(node: type[io.ComfyNode], check: Callable, **typed) -> bool | str:
    """What `validate_inputs` returns: True, or why ``check(**typed)`` raised ValueError.

    None stands for a link: a range is checked without it, all else when the node runs.
    """
    try:
        known = check_inputs(node.define_schema(), {name: value for name, value in typed.items() if value is not None})
        if len(known) == len(typed):
            check(**known)
    except ValueError as error:
        return str(error)
    return True


def check_inputs(schema: io.Schema, given: Mapping) -> dict:
    """The inputs of a node as it may use them: whole numbers as int, numbers as float, all else as it came.

    Raises:
        ValueError: naming all that are not what the schema says.
    """
    described = {one.id: one for one in schema.inputs}
    unknown = given.keys() - described.keys()  # core drops values of inputs that a node has not, but no links
    if unknown:
        raise ValueError(
            f"{schema.display_name} has no input {', '.join(sorted(unknown))}; take what is linked to it out. The "
            "workflow may be of another version of this pack"
        )
    problems = [
        f"{name} must be {expected}, got {_describe(value)}"
        for name, value in given.items() if (expected := _expected(described[name], value))
    ]  # fmt: skip
    if problems:
        raise ValueError(f"{schema.display_name}: {'; '.join(problems)}. Change it, or what is linked to it")
    return {name: _convert(described[name], value) for name, value in given.items()}


def _convert(described: io.Input, value):
    number = {"INT": int, "FLOAT": float}.get(described.get_io_type())
    return number(value) if number and value is not None else value


def _expected(described: io.Input, value) -> str:
    """What an input should have been, or "" where it is that."""
    kind = described.get_io_type()
    if value is None and described.optional:
        return ""
    if kind == "INT" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind in ("INT", "FLOAT"):
        number = int if kind == "INT" else float
        allowed = Range(number(described.min), number(described.max))
        return "" if value in allowed else str(allowed)
    if kind == "COMBO":
        some = ", ".join(map(str, described.options[:12])) + (", ..." if len(described.options) > 12 else "")
        return "" if isinstance(value, str) and value in described.options else f"one of: {some or '(none here yet)'}"
    if kind in OBJECTS:
        return "" if all(hasattr(value, name) for name in OBJECTS[kind]) else f"a {kind}"
    text, fits = VALUES[kind]
    return "" if fits(value) else text


def _is_numbers(value, ndim: int) -> bool:
    """A tensor of so many axes, none of them empty, of finite numbers."""
    plain = isinstance(value, torch.Tensor) and value.ndim == ndim and value.numel() and value.is_floating_point()
    return bool(plain) and bool(value.sum(dtype=torch.float64).isfinite())


def _is_latent(value) -> bool:
    samples = value.get("samples") if isinstance(value, dict) else None
    return _is_numbers(samples, 4) and samples.shape[1] == LATENT_CHANNELS


def _is_image(value) -> bool:
    return _is_numbers(value, 4) and value.shape[3] >= 3


def _is_conditioning(value) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_prompt, value))


def _is_prompt(entry) -> bool:
    pair = isinstance(entry, list | tuple) and len(entry) == 2
    return pair and isinstance(entry[0], torch.Tensor) and isinstance(entry[1], dict)


def _is_audio(value) -> bool:
    sound = isinstance(value, dict) and _is_numbers(value.get("waveform"), 3)
    return sound and value.get("sample_rate") in Range(1, 10**6)


VALUES: dict[str, tuple[str, Callable]] = {
    "STRING": ("a text", lambda value: isinstance(value, str)),
    "BOOLEAN": ("true or false", lambda value: isinstance(value, bool)),
    "SIGMAS": ("a row of finite noise levels", lambda value: _is_numbers(value, 1)),
    "LATENT": (f"a latent of (frames, {LATENT_CHANNELS}, height, width), without NaN or infinity", _is_latent),
    "IMAGE": ("frames of (frames, height, width, 3), at least one, without NaN or infinity", _is_image),
    "CONDITIONING": ("prompts as CLIP Text Encode gives them", _is_conditioning),
    "AUDIO": ("a sound of (batch, channels, samples)", _is_audio),
}


def _describe(value) -> str:
    """A value in a message: short, tensors by their shape."""
    if isinstance(value, dict) and ("samples" in value or "waveform" in value):
        value = value.get("samples", value.get("waveform"))
    if isinstance(value, torch.Tensor):
        broken = value.is_floating_point() and value.numel() and not value.sum(dtype=torch.float64).isfinite()
        return f"{tuple(value.shape)}{' with NaN or infinity' if broken else ''}"
    if value is None or isinstance(value, str | int | float | bool):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return f"a {type(value).__name__}"
