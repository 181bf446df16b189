"""Step for long clips: core's context windows with what suits each stage."""

from __future__ import annotations

from typing import NamedTuple

import comfy.context_windows
from comfy_api.latest import io
from comfy_extras.nodes_context_windows import ContextWindowsManualNode

from ..lavie_models.conditioning import FRAMES_PER_INTERVAL
from ..lavie_models.published import PUBLISHED
from .inputs import checked

STAGE_DEFAULT = 0
MAX_LENGTH = 256


class Windows(NamedTuple):
    """Frames that a network sees at a time, and how many of them it shares with the window before."""

    length: int
    overlap: int


def windows(stage: str, length: int, overlap: int) -> Windows:
    """The stage's own where the artist gave STAGE_DEFAULT. Raises ValueError saying which numbers fit."""
    trained = PUBLISHED[stage]
    chosen = Windows(length or trained.window, overlap or trained.overlap)
    if stage == "interpolation":
        _check_input_frames(chosen)
    elif chosen.overlap >= chosen.length:
        raise ValueError(
            f"windows of {chosen.length} frames cannot share {chosen.overlap}; use an overlap below the length"
        )
    return chosen


def _check_input_frames(chosen: Windows) -> None:
    """Windows of interpolation begin at input frames, every fourth; so does the last one, which ends with the clip.

    Clips have 4 (n - 1) + 1 frames. Raises ValueError unless both numbers are a multiple of 4 and 1 more.
    """
    step = FRAMES_PER_INTERVAL
    for name, frames, fitting in (
        ("length", chosen.length, range(step + 1, MAX_LENGTH + 1, step)),
        ("overlap", chosen.overlap, range(1, chosen.length, step)),
    ):
        if frames not in fitting:
            nearest = sorted(sorted(fitting, key=lambda number: abs(number - frames))[:2])  # noqa: B023
            raise ValueError(
                f"interpolation's windows must begin at input frames, every {step}th, so {name} must be a multiple of "
                f"{step} and 1 more{', below the length' * (name == 'overlap')}, got {frames}; use "
                f"{' or '.join(map(str, nearest))}"
            )


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
                    "length", default=STAGE_DEFAULT, min=0, max=MAX_LENGTH,
                    tooltip="Frames in a window. 0: as trained, which is 16 for base, 61 for interpolation, 8 for "
                    "super-resolution.",
                ),
                io.Int.Input(
                    "overlap", default=STAGE_DEFAULT, min=0, max=MAX_LENGTH - 1,
                    tooltip="Frames that neighbouring windows share. A larger overlap blends better and takes longer. "
                    "0: 8 for base, 13 for interpolation, 4 for super-resolution.",
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
                io.Boolean.Input(
                    "loop", default=False, optional=True,
                    tooltip="Close the clip to a ring: windows go on from the last frame to the first, so the video "
                    "can be played over and over. For base and super-resolution, clips longer than a window.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with windows; clips that fit into one are sampled as before.")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, model, length, overlap, fuse_method, freenoise, loop=False) -> io.NodeOutput:
        config = getattr(model.model.model_config, "lavie_config", None)
        if config is None:
            raise ValueError(
                "LaVie Context Windows needs a LaVie MODEL; for other models use core's Context Windows (Manual)"
            )
        chosen = windows(config.stage, length, overlap)
        if loop and config.stage == "interpolation":
            raise ValueError(
                "interpolation makes frames between those it is given, none from the last to the first; switch loop off"
            )
        straight = comfy.context_windows.ContextSchedules.STATIC_STANDARD
        ring = comfy.context_windows.ContextSchedules.UNIFORM_LOOPED  # begins elsewhere at every step
        return ContextWindowsManualNode.execute(
            model, context_length=chosen.length, context_overlap=chosen.overlap,
            context_schedule=ring if loop else straight, context_stride=1, closed_loop=loop,
            fuse_method=fuse_method, dim=0, freenoise=freenoise, causal_window_fix=False,
        )  # fmt: skip
