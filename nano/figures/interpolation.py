"""Interpolation: what it makes between the frames it is given, against the true path and against blending."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...evaluation.statistics import mean, ratio
from ...lavie_models.conditioning import FRAMES_PER_INTERVAL, interpolated_frames, interpolation_sources
from ...tables import markdown_table
from ..shapes import Scene, caption, render
from . import measures
from .graphs import remake, sampling_of, through_vae, workflow_weights
from .parts import Goal, Settings, column, heldout_scene

NAME, TITLE, SAMPLES = "interpolation", "Interpolation", 12
WORKFLOW = "lavie_nano_interpolate_video"
INPUTS = (16, 8, 5)  # frames that the same way is given in: the fewer, the further things go from one to the next
RATIOS = (("model", "blend"), ("model", "vae_blend"), ("model", "vae_repeat"), ("vae", "blend"))
NO_BETTER = 0.9  # of repeating's motion error: the model repeats too
MOST = 0.5  # of blending's motion error
MEASURES = {"motion": "motion, px", "cover": "cover, px", "rmse": "RMSE"}
METHODS = {
    "model": "the model", "blend": "blending", "vae_blend": "blending after the VAE",
    "vae_repeat": "repeating after the VAE", "vae": "the VAE alone",
}  # fmt: skip
TEXT = """\
Held-out scenes are drawn with all their frames, 64 x 64; every fourth goes, without loss, into
`{workflow}.json`, and the frames between these are compared with the drawn ones. {samples} clips at
each speed, which is how far things go from one input frame to the next: the same way in 16, 8 and 5 input frames. The
base's things go 1.6 to 2.1 pixels.

- **motion**: how far the thing's leading and trailing outline, where its cover crosses one half (median over the lines
  along the motion), are from the true ones; mean of the absolute values, pixels.
- **cover**: wrong cover, ghosts and blur included, in pixels: what a whole copy that is off by so much would have.
- **RMSE**: root mean square error of the colours, of 255.
- *blending*: linear, of the input frames. *blending after the VAE*: of the input frames as the VAE gives them back, the
  same loss that the model's frames have. *repeating*: of the input frame that conditions each frame, the nearest or the
  one before. *the VAE alone*: the true frames, encoded and decoded: the model's floor.
"""


def weights() -> list[Path]:
    """The files that are measured."""
    return workflow_weights(WORKFLOW)


def measure(server, settings: Settings) -> dict:
    """Per speed and clip, each measure of each method: mean over the frames between the input frames."""
    interpolate, vae = remake(server, WORKFLOW, **settings.inputs), through_vae(server, WORKFLOW)
    clips = []
    for number in tqdm(range(settings.samples), desc=NAME, unit="clip"):
        seed = settings.seed + number
        scene = heldout_scene(seed)
        for inputs in INPUTS:
            truth = render(scene, interpolated_frames(inputs))
            coded = vae(truth)
            seen = {
                "model": interpolate(truth[::FRAMES_PER_INTERVAL], caption(scene), seed),
                "blend": blend(truth[::FRAMES_PER_INTERVAL]),
                "vae_blend": blend(coded[::FRAMES_PER_INTERVAL]),
                "vae_repeat": coded[::FRAMES_PER_INTERVAL][interpolation_sources(inputs)],
                "vae": coded,
            }
            errors = {method: between_errors(frames, truth, scene) for method, frames in seen.items()}
            speed = scene.travel / (inputs - 1)
            clips.append({"prompt": caption(scene), "seed": seed, "inputs": inputs, "speed": speed, **errors})
    return {"sampling": sampling_of(server, WORKFLOW, **settings.inputs), "clips": clips}


def blend(frames: np.ndarray) -> np.ndarray:
    """Frames (n, H, W, 3) with three blends of neighbours between each two, uint8 (4 (n - 1) + 1, H, W, 3)."""
    time = np.arange(interpolated_frames(len(frames))) / FRAMES_PER_INTERVAL
    before = np.minimum(time.astype(int), len(frames) - 2)
    weight = (time - before)[:, None, None, None]
    return np.rint(frames[before] * (1 - weight) + frames[before + 1] * weight).astype(np.uint8)


def between_errors(seen: np.ndarray, truth: np.ndarray, scene: Scene) -> dict[str, float]:
    """Each of MEASURES, averaged over the frames that were not given."""
    between = np.arange(len(truth)) % FRAMES_PER_INTERVAL != 0
    covers = measures.cover(seen, scene), measures.cover(truth, scene)
    shift = np.abs(measures.outline_shift(*covers)[between])
    return {
        "motion": float(np.nanmean(shift)) if not np.isnan(shift).all() else float("nan"),
        "cover": float(measures.cover_error(*covers)[between].mean()),
        "rmse": float(measures.rmse(seen, truth)[between].mean()),
    }


def tell(result: dict) -> str:
    """Per speed: each method's errors, and the model's in parts of blending's."""
    samples = len({clip["seed"] for clip in result["clips"]})
    lines = [TEXT.format(workflow=WORKFLOW, samples=samples)]
    for inputs, clips in _by_inputs(result).items():
        rows = [[name, *(mean(column(clips, key, m)).text() for m in MEASURES)] for key, name in METHODS.items()]
        for one, other in RATIOS:
            parts = (ratio(column(clips, one, key), column(clips, other, key)).text() for key in MEASURES)
            rows.append([f"{METHODS[one]} / {METHODS[other]}", *parts])
        lines.append(f"{inputs} input frames, {_speed(clips):.1f} pixels from one to the next:\n")
        lines.append(markdown_table(["", *MEASURES.values()], rows) + "\n")
    moves = ratio(column(result["clips"], "model", "motion"), column(result["clips"], "vae_repeat", "motion"))
    if moves.high > NO_BETTER:
        lines.append(f"The model's motion error is {moves.text()} of repeating's: it hardly moves things at all.\n")
    return "\n".join(lines)


def goals(result: dict) -> list[Goal]:
    """At each speed, the motion error in parts of blending's."""
    found = []
    for clips in _by_inputs(result).values():
        part = ratio(column(clips, "model", "motion"), column(clips, "blend", "motion"))
        aim = f"interpolation: motion error at most {MOST:g} of blending's, {_speed(clips):.1f} px between inputs"
        found.append(Goal(aim, part.text(), part.value <= MOST))
    return found


def _by_inputs(result: dict) -> dict[int, list[dict]]:
    return {inputs: [clip for clip in result["clips"] if clip["inputs"] == inputs] for inputs in INPUTS}


def _speed(clips: list[dict]) -> float:
    return float(np.mean([clip["speed"] for clip in clips]))
