"""What a LoRA file does to a model, key by key: nothing is dropped in silence."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from dataclasses import dataclass, field

import comfy.lora
import comfy.lora_convert
import comfy.utils
import torch

from ..unet import is_temporal

TEMPORAL_MARKS = ("_temp_", "motion_module", "temporal")  # in LoRA keys of layers that look across frames
TEXT_MARKS = ("lora_te", "text_encoder", "text_model")
PEFT_NAME = re.compile(r"attn\d\.to_\w+(\.0)?\.lora")  # without diffusers' older `.processor.`
SIDE_WEIGHTS = (".alpha", ".dora_scale")  # which core reads beside an adapter's own weights
BIAS_WEIGHTS = (".diff_b", ".b_norm")  # which core adds to a bias


@dataclass
class Report:
    """Key names of a LoRA file, sorted by what becomes of them."""

    spatial: list[str] = field(default_factory=list)
    temporal: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    text_unchecked: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    unmatched_temporal: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = (
            ("spatial layers of the UNet", self.spatial),
            ("temporal layers of the UNet", self.temporal),
            ("text encoder", self.text),
        )
        matched = sum(len(keys) for _, keys in counts)
        lines = [f"{matched} of {sum(map(len, vars(self).values()))} keys match"]
        lines += [f"  {name}: {len(keys)}" for name, keys in counts]
        named = (
            ("Temporal layers changed", self.temporal),
            ("Text encoder keys, not looked at (connect the CLIP)", self.text_unchecked),
            (f"Not used: unknown to this model{self._hint()}", self.unmatched),
            ("Not used: layers across frames that this model does not have", self.unmatched_temporal),
            ("Not used: named like a layer of this model, but of another shape", self.wrong_shape),
            ("Core's Load LoRA fails at these: the file is damaged or incomplete", self.unreadable),
        )
        for title, keys in named:
            if keys:
                lines += ["", f"{title} ({len(keys)}):", *(f"  {key}" for key in sorted(keys))]
        return "\n".join(lines)

    def _hint(self) -> str:
        if any(PEFT_NAME.search(key) for key in self.unmatched):
            return ", among them PEFT's names, which core does not map for SD 1.x: save the LoRA with kohya's names"
        return ""


def make_report(lora: dict[str, torch.Tensor], unet, text_encoder=None) -> Report:
    """Sort the keys of a LoRA by what core's loaders do with them.

    Args:
        lora: the file's tensors.
        unet: BaseModel, as in a patcher's ``model``.
        text_encoder: as in a CLIP's ``cond_stage_model``, or None if text encoder keys are not to be looked at.
    """
    report = Report()
    lora = _converted(dict(lora))
    names = comfy.lora.model_lora_keys_unet(unet, {})
    weights = dict(unet.state_dict())
    text_names = {}
    if text_encoder is not None:
        text_names = comfy.lora.model_lora_keys_clip(text_encoder, {})
        weights |= text_encoder.state_dict()
    names |= text_names
    patches = _read(lora, names, report.unreadable)
    refused = {target for target, patch in patches.items() if _is_refused(patch, weights.get(_name(target)))}
    for key in set(lora) - set(report.unreadable):
        module = _module_of(key, names)
        target = _target(key, names.get(module))
        if target not in patches or not _is_read(key, module, patches[target]):
            _sort_unmatched(key, text_encoder is not None, report)
        elif target in refused:
            report.wrong_shape.append(key)
        elif module in text_names:
            report.text.append(key)
        else:
            (report.temporal if is_temporal(_name(target)) else report.spatial).append(key)
    return report


def _converted(lora: dict) -> dict:
    """What core makes of other formats' names; a file it cannot convert keeps its own."""
    try:
        return comfy.lora_convert.convert_lora(lora)
    except Exception as error:  # core's converters take the shapes of weights for granted
        logging.warning("core cannot convert this LoRA's names: %s", error)
        return lora


def _read(lora: dict, names: dict, unreadable: list[str]) -> dict:
    """Core's patches; the keys of modules at which core itself would fail go to ``unreadable``."""
    try:
        return comfy.lora.load_lora(lora, names, log_missing=False)
    except Exception:  # of one module or another: found by reading each by itself
        patches, modules = {}, {}
        for key in lora:
            modules.setdefault(_module_of(key, names), []).append(key)
        modules.pop(None, None)
        for module, keys in modules.items():
            try:
                own = {key: lora[key] for key in keys}
                patches |= comfy.lora.load_lora(own, {module: names[module]}, log_missing=False)
            except Exception:
                unreadable += keys
        return patches


def _module_of(key: str, names: dict) -> str | None:
    """The longest known name that ``key`` begins with, up to a dot or to diffusers' old `_lora.`."""
    ends = [i for i, letter in enumerate(key) if letter == "." or key.startswith("_lora.", i)]
    return next((key[:end] for end in reversed([*ends, len(key)]) if key[:end] in names), None)


def _target(key: str, target):
    """The weight that a key changes: its module's, or the module's bias."""
    if target is not None and key.endswith(BIAS_WEIGHTS):
        return _name(target).removesuffix(".weight") + ".bias"
    return target


def _name(target) -> str:
    """A weight's name; core writes parts of a weight as (name, part)."""
    return target if isinstance(target, str) else target[0]


def _is_read(key: str, module: str, patch) -> bool:
    loaded = getattr(patch, "loaded_keys", None)  # full differences are plain tuples and have none
    return loaded is None or key in loaded or key.removeprefix(module) in SIDE_WEIGHTS


def _sort_unmatched(key: str, text_checked: bool, report: Report) -> None:
    if not text_checked and any(mark in key for mark in TEXT_MARKS):
        report.text_unchecked.append(key)
    elif is_temporal(key) or any(mark in key for mark in TEMPORAL_MARKS):
        report.unmatched_temporal.append(key)
    else:
        report.unmatched.append(key)


def _is_refused(patch, weight: torch.Tensor | None) -> bool:
    """Whether core cannot add a patch to a weight; core itself logs that and goes on. Only shapes are computed."""
    if weight is None:
        return True
    with _complaints() as said:
        try:
            comfy.lora.calculate_weight([(1.0, _on_meta(patch), 1.0, None, None)], weight.to("meta").float(), "")
        except Exception:  # core would fail at it too
            return True
    return bool(said)


def _on_meta(patch):
    """A copy of a patch whose tensors hold no values."""
    if isinstance(patch, tuple):
        return patch[0], tuple(_meta(value) for value in patch[1])
    return type(patch)(patch.loaded_keys, type(patch.weights)(_meta(value) for value in patch.weights))


def _meta(value):
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@contextlib.contextmanager
def _complaints():
    """A list that gathers this thread's warnings and errors until the end of the block, instead of the log."""
    said: list[str] = []
    thread = threading.get_ident()

    def listen(record: logging.LogRecord) -> bool:
        ours = record.levelno >= logging.WARNING and record.thread == thread
        if ours:
            said.append(record.getMessage())
        return not ours

    logging.getLogger().addFilter(listen)
    try:
        yield said
    finally:
        logging.getLogger().removeFilter(listen)
