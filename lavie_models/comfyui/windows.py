"""Conditions that hold one entry per frame, cut to some of the clip's frames.

Contract: texts, masks and hints hold one entry for the whole clip or one per frame; `check_frames` refuses other
numbers, which core would repeat or cut. Core's context windows cut latents, texts, masks and concat conditions to a
window's frames but hand a ControlNet the hints of the whole clip. `follow_windows` makes a MODEL's hints follow its
windows and refuses what cannot work inside them; `conds_of_frames` cuts the conditions of a guider, for a part of a
clip sampled by itself.
"""

from __future__ import annotations

import contextlib

import comfy.patcher_extension
import torch

from ..conditioning import FRAMES_PER_INTERVAL

WRAPPER_KEY = "lavie_frames"
# Entries of a condition that may hold one thing per frame: what they are, how to get another number of them.
PER_FRAME = {
    "cross_attn": ("the prompts are", "set frames of LaVie Frame Prompts to {}"),
    "mask": ("the masks of a prompt are", "use a batch of {} masks"),
}
HINTS = ("the ControlNet hints are", "use a batch of {} images, by Get Image from Batch or Repeat Image Batch")


def follow_windows(patcher) -> None:
    """Add the two wrappers that this module needs to a model patcher; clones keep them."""
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, _of_whole_clip)
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, WRAPPER_KEY, _in_window)


def _of_whole_clip(executor, noise, *args, **kwargs):
    """Around a sampling: before anything is loaded for it."""
    check_frames(executor.class_obj.conds, len(noise), "the latent has {} frames")
    return executor(noise, *args, **kwargs)


def check_frames(conds: dict[str, list[dict]], frames: int, clip: str) -> None:
    """Raises ValueError unless all that may differ from frame to frame has one entry, or one per frame.

    Args:
        conds: of a guider, by name.
        clip: says of what the number of frames is, with {} in its place.
    """
    for cond in (cond for group in conds.values() for cond in group):
        found = [(*PER_FRAME[name], cond[name]) for name in PER_FRAME if isinstance(cond.get(name), torch.Tensor)]
        for control in _controls([[cond]]):
            found += [(*HINTS, hint) for hint in (control.cond_hint_original, *control.extra_concat_orig)]
        for what, advice, value in found:
            if isinstance(value, torch.Tensor) and value.ndim and len(value) not in (1, frames):
                raise ValueError(
                    f"{what} for {len(value)} frames, but {clip.format(frames)}; give one for the whole clip, or "
                    f"{frames}: {advice.format(frames)}"
                )


def _in_window(executor, model, conds, x_in, timestep, model_options):
    """Around every evaluation of the conditions: of the whole clip, or of one context window."""
    _check_guidance(model, model_options)
    options = model_options.get("transformer_options", {})
    window = options.get("context_window")
    if window is None:
        return executor(model, conds, x_in, timestep, model_options)
    _check_window(window, options.get("easycache"), model.model_config.lavie_config.stage)
    with contextlib.ExitStack() as stack:
        for control in _controls(conds):
            stack.enter_context(_hints_of(control, window.total_frames, window.get_tensor))
        return executor(model, conds, x_in, timestep, model_options)


def _check_guidance(model, model_options) -> None:
    sparse = model.model_config.lavie_config.architecture.sparse_causal
    patches = model_options.get("sampler_post_cfg_function", ())
    if sparse and any("SelfAttentionGuidance." in getattr(patch, "__qualname__", "") for patch in patches):
        raise ValueError(
            "Self-Attention Guidance reads where a frame attends to itself; LaVie's interpolation attends to two other "
            "frames instead. Take the node out, or use it with the base model"
        )


def _check_window(window, cache, stage: str) -> None:
    if window.dim != 0:
        raise ValueError(
            f"the Context Windows node divides dimension {window.dim}, but LaVie's frames lie on dimension 0; set dim "
            "to 0"
        )
    if stage == "interpolation" and window.index_list[0] % FRAMES_PER_INTERVAL:
        raise ValueError(
            f"interpolation's windows must begin at input frames, every {FRAMES_PER_INTERVAL}th, but one begins at "
            f"frame {window.index_list[0]}; use LaVie Context Windows, or a length and an overlap that are a multiple "
            f"of {FRAMES_PER_INTERVAL} and 1 more, such as 61 and 13"
        )
    if getattr(cache, "name", None) == "EasyCache":
        raise ValueError(
            "EasyCache keeps one cache for all context windows and would mix their frames; use LazyCache, which "
            "caches whole steps, or take one of the two nodes out"
        )


def _controls(conds) -> list:
    """Every ControlNet and T2I adapter of some conditions once, those chained behind others included."""
    found = {}
    for cond in (c for group in conds if group is not None for c in group):
        control = cond.get("control")
        while control is not None:
            found[id(control)] = control
            control = control.previous_controlnet
    return list(found.values())


@contextlib.contextmanager
def _hints_of(control, total: int, cut):
    """``control`` with ``cut`` applied to its hints and to all it derived from them, until the end of the block."""
    # `control_input` is a T2I adapter's; it is made anew whenever `cond_hint` is.
    names = ("cond_hint_original", "extra_concat_orig", "cond_hint")
    kept = {name: getattr(control, name) for name in names}
    control.cond_hint_original = _per_frame(kept["cond_hint_original"], total, cut)
    control.extra_concat_orig = [_per_frame(extra, total, cut) for extra in kept["extra_concat_orig"]]
    control.cond_hint = None
    try:
        yield
    finally:
        vars(control).update(kept)


def _per_frame(value, total: int, cut):
    """``cut`` of a tensor whose first axis is frames; one entry serves all frames."""
    holds_frames = isinstance(value, torch.Tensor) and value.ndim and len(value) == total > 1
    return cut(value) if holds_frames else value


def conds_of_frames(conds: list[dict], frames: slice, total: int) -> list[dict]:
    """A guider's conditions for some frames of a clip.

    Args:
        conds: entries as in ``CFGGuider.original_conds``.
        frames: which frames.
        total: length of the clip, which `check_frames` compared them with.
    """
    return [{name: _of_frames(name, value, frames, total) for name, value in cond.items()} for cond in conds]


def _of_frames(name: str, value, frames: slice, total: int):
    if name == "control":
        control = value
        copied = control.copy()
        copied.cond_hint_original = _per_frame(control.cond_hint_original, total, lambda hint: hint[frames])
        copied.extra_concat_orig = [_per_frame(c, total, lambda hint: hint[frames]) for c in control.extra_concat_orig]
        if control.previous_controlnet is not None:
            copied.set_previous_controlnet(_of_frames(name, control.previous_controlnet, frames, total))
        return copied
    return _per_frame(value, total, lambda entries: entries[frames])
