"""The example LoRA: the new colour appears and moves, and everything else is as it was."""

from __future__ import annotations

import colorsys
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...comfyui_api.clips import Generate
from ...comfyui_api.graphs import load_workflow, set_inputs
from ...evaluation.statistics import Rate, mean
from ...place import ROOT
from ...tables import markdown_table
from ...training.errors import TrainingError
from ..evaluate import evaluate, rates_table, to_json
from ..example_lora import COLOR, FILE_NAME
from ..kept import graph_clips
from ..measure import measure_clip
from ..shapes import DIRECTIONS, NEW_COLORS, THINGS, Scene, caption
from ..strict import MEASURES, Strictness, measure_frames, values_of
from .graphs import add_lora_file, sampling_of, with_lora, workflow_path, workflow_weights
from .parts import Goal, Settings

NAME, TITLE, SAMPLES = "lora", "Example LoRA", 48
WORKFLOW = "lavie_nano_text_to_video"
FILE = ROOT / "weights" / "loras" / FILE_NAME
HUE = 360 * colorsys.rgb_to_hsv(*NEW_COLORS[COLOR])[0]
TOLERANCE = 11  # degrees; half the way to yellow, the next colour
_MIN_CHROMA, _MIN_PIXELS = 100, 50  # of 255; per frame
TEXT = """\
`{file}`, loaded by ComfyUI's own Load LoRA at strength 1 into `{workflow}.json`:
{new} clips of `a {color} THING moving DIRECTION`, then {old} clips of the base's own held-out captions. The hue is that
of the median colourful pixel and counts as {color} within {tolerance} degrees, half the way to the next colour.

With the LoRA, new colour; the last line is the same prompts and seeds without it:
"""


def weights() -> list[Path]:
    """The files that are measured."""
    if not FILE.exists():
        raise TrainingError(f"there is no {FILE} to measure; nano lora makes it")
    return [*workflow_weights(WORKFLOW), FILE]


def measure(server, settings: Settings) -> dict:
    """Rates of the new colour with and without the LoRA, and of the old captions with it."""
    add_lora_file(server, FILE)
    api = set_inputs(load_workflow(workflow_path(WORKFLOW), server.object_info()), **settings.inputs)
    plain = graph_clips(server, WORKFLOW, api, settings.clips)
    taught = graph_clips(server, f"{WORKFLOW}_lora", with_lora(api, FILE.name), settings.clips)
    clips = new_color_clips(taught, plain, settings)
    old = to_json(evaluate(taught, settings.samples, settings.seed))
    kept = {key: old[key] for key in ("rates", "samples")}
    return {"sampling": sampling_of(server, WORKFLOW, **settings.inputs), "file": FILE.name, "clips": clips, **kept}


def new_color_clips(taught: Generate, plain: Generate, settings: Settings) -> list[dict]:
    """Each clip of the new colour: what was asked for and what was seen, and the hue without the LoRA."""
    asked = list(product(THINGS, DIRECTIONS))
    clips = []
    for number in tqdm(range(settings.samples), desc=NAME, unit="clip"):
        thing, direction = asked[number % len(asked)]
        scene = Scene(COLOR, thing, direction, "gray", False, (32, 32), travel=28, length=24, moment=0.5)
        prompt, seed = caption(scene), settings.seed + number
        frames = taught(prompt, seed)
        seen = measure_clip(frames)
        clips.append({
            "prompt": prompt, "seed": seed, "thing": thing, "direction": direction, "hue": hue(frames),
            "seen_thing": seen.thing, "seen_direction": seen.direction, "hue_without": hue(plain(prompt, seed)),
            "strict": asdict(measure_frames(frames, scene)),
        })  # fmt: skip
    return clips


def hue(frames: np.ndarray) -> float | None:
    """Degrees, of the median colourful pixel of uint8 (F, H, W, 3); None where there are hardly any."""
    pixels = frames.reshape(-1, 3)
    chosen = pixels[np.ptp(pixels, axis=1) > _MIN_CHROMA]
    if len(chosen) < _MIN_PIXELS * len(frames):
        return None
    return float(np.median(np.asarray(Image.fromarray(chosen[None]).convert("HSV"))[..., 0]) * 360 / 256)


def is_new_color(angle: float | None) -> bool:
    """Whether a hue is the new colour's."""
    return angle is not None and abs(angle - HUE) < TOLERANCE


def tell(result: dict) -> str:
    """The new colour's rates, then the old captions'."""
    old = [Rate(r["name"], r["successes"], r["count"]) for r in result["rates"]]
    intro = TEXT.format(
        file=result["file"], workflow=WORKFLOW, color=COLOR, new=len(result["clips"]),
        old=len(result["samples"]), tolerance=TOLERANCE,
    )  # fmt: skip
    kinds = [[Strictness(**clip["strict"]) for clip in result[kind]] for kind in ("clips", "samples")]
    found = {name: [values_of(clips, field) for clips in kinds] for field, name in MEASURES.items()}
    rows = [[name, *(mean(values).text(3) if values else "-" for values in both)] for name, both in found.items()]
    strict = markdown_table(["frame by frame, as of the base", "new colour", "old captions"], rows)
    return f"{intro}\n{rates_table(_new(result))}\n\nOld captions, with the LoRA:\n\n{rates_table(old)}\n\n{strict}\n"


def goals(result: dict) -> list[Goal]:
    """The new colour seen and moving; no number was asked for, half of the clips is the least that can be called so."""
    return [Goal(f"LoRA: {r.name}, in most clips", r.estimate.text(3), r.rate > 0.5) for r in _new(result)[:3:2]]


def _new(result: dict) -> list[Rate]:
    clips = result["clips"]
    return [
        Rate("new colour", sum(is_new_color(clip["hue"]) for clip in clips), len(clips)),
        Rate("new colour, thing", sum(clip["seen_thing"] == clip["thing"] for clip in clips), len(clips)),
        Rate("new colour, direction", sum(clip["seen_direction"] == clip["direction"] for clip in clips), len(clips)),
        Rate("without the LoRA", sum(is_new_color(clip["hue_without"]) for clip in clips), len(clips)),
    ]
