"""Prompts that change along the clip: a text of `frame: prompt` lines as CONDITIONING with one text per frame."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
from comfy_api.latest import io

from ..lavie_models.comfyui.frame_texts import per_frame
from .inputs import MAX_FRAMES, checked, refusal

LINE = re.compile(r"\s*(-?\d+)\s*:(.*)", re.DOTALL)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)  # as the browser takes them out of texts with dynamicPrompts
DEFAULT = "0: a red fish moving right\n8: a blue fish moving right"


def parse_schedule(schedule: str, frames: int) -> list[tuple[int, str]]:
    """[(frame, prompt)] by rising frame, from lines `frame: prompt`; comments as in core's prompts are left out.

    Raises:
        ValueError: naming the line that is no such line, lies outside of 0 .. frames - 1 or repeats a frame.
    """
    found: dict[int, str] = {}
    schedule = COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), schedule)  # lines keep their numbers
    for number, line in enumerate(schedule.splitlines(), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"line {number} of the schedule must be 'frame: prompt', such as '8: a blue fish', got {line!r}"
            )
        frame = int(match[1])
        if not 0 <= frame < frames:
            raise ValueError(
                f"line {number} of the schedule names frame {frame}, but the clip has frames 0 to {frames - 1}; change "
                "the line or the number of frames"
            )
        if frame in found:
            raise ValueError(f"line {number} of the schedule names frame {frame} a second time; keep one of the two")
        found[frame] = match[2].strip()
    if not found:
        raise ValueError("the schedule has no line; write at least one, such as '0: a red fish moving right'")
    return sorted(found.items())


class Span(NamedTuple):
    """Frames ``first`` .. ``last`` of a clip that have one prompt; None: a blend of those before and after."""

    first: int
    last: int
    prompt: str | None


def spans(schedule: str, frames: int) -> list[Span]:
    """What `blend_weights` makes of a schedule, in words. Raises ValueError as `parse_schedule` does."""
    keyframes = parse_schedule(schedule, frames)
    found, prompts = [], [prompt for _, prompt in keyframes]
    for frame, shares in enumerate(blend_weights([frame for frame, _ in keyframes], frames).tolist()):
        used = {prompts[key] for key, share in enumerate(shares) if share}
        prompt = used.pop() if len(used) == 1 else None
        if found and found[-1].prompt == prompt:
            found[-1] = found[-1]._replace(last=frame)
        else:
            found.append(Span(frame, frame, prompt))
    return found


def blend_weights(keys: list[int], frames: int) -> torch.Tensor:
    """(frames, keys) shares of each keyframe: linear between two, held before the first and after the last."""
    weights = torch.zeros(frames, len(keys))
    for frame in range(frames):
        after = next((i for i, key in enumerate(keys) if key >= frame), len(keys) - 1)
        before = after if keys[after] <= frame else max(0, after - 1)
        share = (frame - keys[before]) / (keys[after] - keys[before]) if after != before else 0.0
        weights[frame, before] += 1 - share
        weights[frame, after] += share
    return weights


def blend(texts: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """(frames, ...) mixture of texts (1, tokens, width) or pooled vectors (1, width).

    Texts of different length are repeated to a common one, which cross-attention cannot tell from the single text.
    """
    if texts[0].ndim == 3:
        tokens = math.lcm(*(text.shape[1] for text in texts))
        texts = [text.repeat(1, tokens // text.shape[1], 1) for text in texts]
    return torch.tensordot(weights.to(texts[0]), torch.cat(texts), dims=1)


class LaVieFramePrompts(io.ComfyNode):
    """Prompt travel: another text at every frame."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieFramePrompts",
            display_name="LaVie Frame Prompts",
            category="LaVie",
            description="Prompts that change along the clip. One line per keyframe; frames between two keyframes get a "
            "blend of their prompts.",
            search_aliases=["lavie", "prompt travel", "prompt schedule", "batch prompt schedule", "keyframes"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder, with or without LoRAs."),
                io.String.Input(
                    "schedule",
                    multiline=True,
                    dynamic_prompts=True,
                    default=DEFAULT,
                    tooltip="One line per keyframe: its frame, counted from 0, a colon, its prompt. Prompts are "
                    "blended linearly in between and held before the first and after the last. For a sudden change "
                    "name two frames that follow each other. {a|b} chooses at random, // and /* */ are comments, as in "
                    "CLIP Text Encode.",
                ),
                io.Int.Input(
                    "frames", default=16, min=1, max=MAX_FRAMES,
                    tooltip="Frames of the clip: the same number as in the latent.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="CONDITIONING with one text per frame, for any sampler.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, schedule=None, frames=None) -> bool | str:
        return refusal(cls, parse_schedule, schedule=schedule, frames=frames)

    @classmethod
    @checked
    def execute(cls, clip, schedule, frames) -> io.NodeOutput:
        keyframes = parse_schedule(schedule, frames)
        weights = blend_weights([frame for frame, _ in keyframes], frames)
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for _, prompt in keyframes]
        # One entry per range of steps that hooks on the CLIP ask for; without hooks there is one.
        return io.NodeOutput([_join(entries, weights) for entries in zip(*encoded, strict=True)])


def _join(entries, weights: torch.Tensor) -> list:
    values = dict(entries[0][1])
    if values.get("pooled_output") is not None:
        values["pooled_output"] = blend([entry[1]["pooled_output"] for entry in entries], weights)
    return [per_frame(blend([entry[0] for entry in entries], weights)), values]
