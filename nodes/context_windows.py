"""Step for long clips: core's context windows with what suits each stage."""

from __future__ import annotations

from typing import NamedTuple

import comfy.context_windows
from comfy_api.latest import io
from comfy_extras.nodes_context_windows import ContextWindowsManualNode

from ..lavie_models.conditioning import FRAMES_PER_INTERVAL


class Windows(NamedTuple):
    """Frames that a network sees at a time, and how many of them it shares with the window before."""

    length: int
    overlap: int


# As trained; interpolation's windows begin at input frames, every fourth, as the clips that it was trained on do.
DEFAULTS = {"base": Windows(16, 8), "interpolation": Windows(61, 13), "super_resolution": Windows(8, 4)}
STAGE_DEFAULT = 0


def windows(stage: str, length: int, overlap: int) -> Windows:
    """The stage's own where the artist gave STAGE_DEFAULT. Raises ValueError saying which numbers fit."""
    chosen = Windows(length or DEFAULTS[stage].length, overlap or DEFAULTS[stage].overlap)
    if chosen.overlap >= chosen.length:
        raise ValueError(
            f"windows of {chosen.length} frames cannot share {chosen.overlap}; use an overlap below the length"
        )
    if stage == "interpolation" and (chosen.length - chosen.overlap) % FRAMES_PER_INTERVAL:
        below = chosen.overlap - FRAMES_PER_INTERVAL + (chosen.length - chosen.overlap) % FRAMES_PER_INTERVAL
        raise ValueError(
            f"interpolation's windows must begin at input frames: length - overlap must be a multiple of "
            f"{FRAMES_PER_INTERVAL}, got {chosen.length} - {chosen.overlap}; use an overlap of {max(below, 1)} or "
            f"{below + FRAMES_PER_INTERVAL}"
        )
    return chosen


class LaVieContextWindows(io.ComfyNode):
    """A LaVie MODEL that samples long clips in overlapping windows."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieContextWindows",
            display_name="LaVie Context Windows",
            category="LaVie",
            description="Lets a LaVie model sample clips longer than it was trained on: it sees overlapping windows of "
            "frames, whose results are blended. Memory depends on the window, not on the clip. Core's Context Windows "
            "(Manual) with dim 0 and causal_window_fix off, preset for each stage.",
            search_aliases=["lavie", "long video", "sliding window", "context options"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of any LaVie loader."),
                io.Int.Input(
                    "length", default=STAGE_DEFAULT, min=0, max=256,
                    tooltip="Frames in a window. 0: as trained, which is 16 for base, 61 for interpolation, 8 for "
                    "super-resolution.",
                ),
                io.Int.Input(
                    "overlap", default=STAGE_DEFAULT, min=0, max=255,
                    tooltip="Frames that neighbouring windows share. More blends better and takes longer. 0: 8 for "
                    "base, 13 for interpolation, 4 for super-resolution.",
                ),
                io.Combo.Input(
                    "fuse_method", options=comfy.context_windows.ContextFuseMethods.LIST_STATIC,
                    default=comfy.context_windows.ContextFuseMethods.PYRAMID, advanced=True,
                    tooltip="How shared frames are blended: pyramid weighs the middle of a window most.",
                ),
                io.Boolean.Input(
                    "freenoise", default=False,
                    tooltip="Repeat the noise of the first window, shuffled, along the clip (FreeNoise): the windows "
                    "of a long base clip then agree more. Changes nothing for clips that fit into one window.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with windows; clips that fit into one are sampled as before.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, length, overlap, fuse_method, freenoise) -> io.NodeOutput:
        config = getattr(model.model.model_config, "lavie_config", None)
        if config is None:
            raise ValueError(
                "LaVie Context Windows needs a LaVie MODEL; for other models use core's Context Windows (Manual)"
            )
        chosen = windows(config.stage, length, overlap)
        return ContextWindowsManualNode.execute(
            model, context_length=chosen.length, context_overlap=chosen.overlap,
            context_schedule=comfy.context_windows.ContextSchedules.STATIC_STANDARD, context_stride=1,
            closed_loop=False, fuse_method=fuse_method, dim=0, freenoise=freenoise, causal_window_fix=False,
        )  # fmt: skip
