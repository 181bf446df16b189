"""First and last frame: how much of them is kept, and how the frames between lead from one to the other."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...comfyui_api.clips import fetch_frames, frames_only
from ...comfyui_api.graphs import load_workflow, set_inputs, settings_of
from ...evaluation.metrics.seams import seams
from ...evaluation.statistics import Rate, mean
from ...tables import markdown_table
from ..measure import measure_clip
from ..shapes import caption, render
from . import measures
from .graphs import sampling_of, workflow_path, workflow_weights
from .parts import Goal, Settings, heldout_scene

NAME, TITLE, SAMPLES = "held_frames", "First and last frame", 12
WORKFLOW = "lavie_nano_first_last_frame"
FRAMES = 16
DENOISE = (0.5, 0.6, 0.7, 0.9)
MEASURES = {"held": "held frames, RMSE", "motion": "motion, px", "seam": "seam"}
TEXT = """\
The first and last frame of held-out scenes, drawn at 64 x 64, go into `{workflow}.json` with their caption; {samples}
clips of each *denoise*, of which the workflow has {own:g}.

- **held frames**: root mean square error of the first and last frame against the given pictures, of 255: the VAE's.
- **motion**: how far the thing's outlines are from the straight way between the two pictures, as of interpolation; a
  clip that stands still and jumps in the middle has {jump:.1f}.
- **seam**: mean difference of the held frames and their neighbours, in parts of that elsewhere; 1 is no seam.
- **direction**: clips that move as the two pictures and the caption say.
"""


def weights() -> list[Path]:
    """The files that are measured."""
    return workflow_weights(WORKFLOW)


def measure(server, settings: Settings) -> dict:
    """Per clip and denoise, each of MEASURES and whether the direction is right; `jump`: motion of standing still."""
    graph = frames_only(load_workflow(workflow_path(WORKFLOW), server.object_info()))
    clips, jumps = [], []
    for number in tqdm(range(settings.samples), desc=NAME, unit="clip"):
        seed = settings.seed + number
        scene = heldout_scene(seed)
        truth = render(scene, FRAMES)
        jumps.append(_motion(truth[[0] * (FRAMES // 2) + [-1] * (FRAMES // 2)], truth, scene))
        api = with_pictures(server, graph, truth[[0, -1]])
        for denoise in DENOISE:
            values = {**settings.inputs, "denoise": denoise}
            seen = fetch_frames(server, server.run(set_inputs(copy.deepcopy(api), caption(scene), seed, **values)))
            clips.append({
                "prompt": caption(scene), "seed": seed, "denoise": denoise,
                "held": float(measures.rmse(seen[[0, -1]], truth[[0, -1]]).mean()),
                "motion": _motion(seen, truth, scene), "seam": float(seams(seen, (1, FRAMES - 1)).mean()),
                "direction": measure_clip(seen).direction == scene.direction,
            })  # fmt: skip
    sampling = sampling_of(server, WORKFLOW, **settings.inputs)
    own = settings_of(graph, ("denoise",))["denoise"]
    return {"sampling": sampling, "own": own, "jump": float(np.nanmean(jumps)), "clips": clips}


def with_pictures(server, api: dict, pictures: np.ndarray) -> dict:
    """An API workflow whose Load Image nodes, in order, load `pictures`, uint8 (N, H, W, 3)."""
    nodes = sorted((name for name, node in api.items() if node["class_type"] == "LoadImage"), key=int)
    changed = copy.deepcopy(api)
    for number, (name, picture) in enumerate(zip(nodes, pictures, strict=True)):
        file, content = f"held_{number}.png", io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        server.add_input(file, content.getvalue())
        changed[name]["inputs"]["image"] = file
    return changed


def _motion(seen: np.ndarray, truth: np.ndarray, scene) -> float:
    shift = measures.outline_shift(measures.cover(seen, scene), measures.cover(truth, scene))[1:-1]
    return float("nan") if np.isnan(shift).all() else float(np.nanmean(np.abs(shift)))


def tell(result: dict) -> str:
    """A line for each denoise."""
    intro = TEXT.format(
        workflow=WORKFLOW, samples=len({clip["seed"] for clip in result["clips"]}), own=result["own"],
        jump=result["jump"],
    )  # fmt: skip
    rows = []
    for denoise in DENOISE:
        clips = [clip for clip in result["clips"] if clip["denoise"] == denoise]
        right = Rate("direction", sum(clip["direction"] for clip in clips), len(clips))
        means = (mean([clip[key] for clip in clips]).text() for key in MEASURES)
        rows.append([f"{denoise:g}", *means, right.estimate.text()])
    return f"{intro}\n{markdown_table(['denoise', *MEASURES.values(), 'direction'], rows)}\n"


def goals(result: dict) -> list[Goal]:
    """No number was asked for."""
    return []
