"""What the models of `claims` can do: captions to ask for, clips through a real ComfyUI, and what their pixels show.

Contract: a run is measured once; what was seen lies in its folder (`measured.json`) and is used again as long as the
run's newest checkpoint and the settings are the same. Clip i of a run is sampled with the seed i, in every run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from tqdm import tqdm

from ..comfyui_api.clips import Generate
from ..place import find_comfyui
from ..training.checkpoints import Checkpoints
from ..training.export import export_model
from ..training.recipe import Recipe
from .evaluate import TEXT_TO_VIDEO
from .kept import measurement_clips, workflow_clips
from .measure import NONE, Measurement, measure_clip
from .shapes import BACKGROUNDS, COLORS, DIRECTIONS, THINGS, Scene, caption

VIDEO_WORDS = ("red", "green", "blue", "fish", "car", "circle", "black", "gray")  # of claim 2's videos; images know all
MEASURED = "measured.json"
GUIDANCE = 4.0


@dataclass(frozen=True)
class SeenClip:
    """One generated clip: what was asked for, what is seen, and whether each single frame shows the same thing."""

    prompt: str
    seed: int
    color: str
    thing: str
    direction: str
    seen: Measurement
    steady: bool


@dataclass(frozen=True, eq=False)
class Run:
    """One training: its claim, its variant in words, its recipe, and what its result is asked for.

    ``weights``: a file that is measured as it is, without a training.
    """

    claim: int
    variant: str
    recipe: Recipe
    scenes: list[Scene]
    weights: Path | None = None

    @property
    def folder(self) -> Path:
        return Path(self.recipe.run.out)

    @property
    def prompts(self) -> list[str]:
        return [caption(scene, "video" if self.recipe.data.video else "image") for scene in self.scenes]


@dataclass(frozen=True)
class Cost:
    """What a training took: CPU seconds of its process, seconds of its steps, weights that learned, clips, images."""

    cpu: float
    wall: float
    weights: int
    clips: int
    images: int


def records(run: Run) -> list[dict]:
    """What a run noted of itself, in its order: steps, held-out losses, looks."""
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def cost(run: Run) -> Cost:
    """Of a finished run, as it noted itself; CPU time includes what reads the data, but not the start."""
    rows = [row for row in records(run) if "cpu_seconds" in row]
    weights = sum(value.numel() for value in Checkpoints(run.folder).load()["model"].values())
    data, steps = run.recipe.data, run.recipe.run.steps
    clips = steps * data.buckets[0].rows if data.video else 0
    images = clips * data.images if data.video else steps * data.buckets[0].rows
    return Cost(sum(row["cpu_seconds"] for row in rows), sum(row["seconds"] for row in rows), weights, clips, images)


def scenes_of_words(count: int, in_videos: bool) -> list[Scene]:
    """Scenes of a colour, a thing and a background all among VIDEO_WORDS, or all not, in a fixed order of 36.

    Every 12 in a row have each colour and each thing 4 times and each direction 3 times; every second four name the
    background.
    """
    colors, things, backgrounds = (
        [word for word in words if (word in VIDEO_WORDS) == in_videos] for words in (COLORS, THINGS, BACKGROUNDS)
    )
    directions = tuple(DIRECTIONS)
    return [
        Scene(
            colors[i % 3], things[(i + i // 12) % 3], directions[i % 4], backgrounds[i % len(backgrounds)],
            i // 4 % 2 == 0, (32, 32), travel=28, length=24, moment=0.5,
        )
        for i in range(count)
    ]  # fmt: skip


def mixed_scenes(count: int) -> list[Scene]:
    """Two thirds of words that no video had, then one third of those of the videos."""
    unseen = -(-2 * count // 3)
    return scenes_of_words(unseen, False) + scenes_of_words(count - unseen, True)


def known(videos: Sequence[tuple[str, np.ndarray]]) -> dict[str, float]:
    """What part of the captions' words videos show, for the recipe's `samples.evaluate`: what a training forgets."""
    seen = [(set(text.split()), measure_clip(frames)) for text, frames in videos]
    return {
        "colour": fmean(clip.color in words for words, clip in seen),
        "thing": fmean(clip.thing in words for words, clip in seen),
        "background": fmean(clip.background in words for words, clip in seen if "background" in words),
    }


def knowledge(run: Run) -> dict[int, dict[str, float]]:
    """{step: what `known` said then} of a finished run whose recipe asks for it."""
    return {row["step"]: row["samples"] for row in records(run) if "samples" in row}


def steady(frames: np.ndarray) -> bool:
    """Whether every frame by itself shows the same colour, thing and facing; uint8 (F, H, W, 3)."""
    seen = {(m.color, m.thing, m.facing) for m in (measure_clip(frame[None]) for frame in frames)}
    return len(seen) == 1 and NONE not in next(iter(seen))[:2]


def look(generate: Generate, run: Run) -> list[SeenClip]:
    """Generate a clip, or a picture, of every scene and measure it."""
    clips = []
    for seed, (scene, prompt) in enumerate(zip(tqdm(run.scenes, desc=run.folder.name), run.prompts, strict=True)):
        frames = generate(prompt, seed)
        clips.append(
            SeenClip(prompt, seed, scene.color, scene.thing, scene.direction, measure_clip(frames), steady(frames))
        )
    return clips


def measure_runs(runs: list[Run], steps: int, folder: Path) -> None:
    """Measure the runs that are not measured yet, each at the size of its own training, in `steps` sampling steps.

    ComfyUI's own files go into the empty `folder`. Raises ServerError, WorkflowError and SetupError as the server does.
    """
    from ..comfyui_api.server import ComfyUIServer

    waiting = [run for run in runs if _known(run, steps) is None]
    if not waiting:
        return
    for run in waiting:
        model = folder / "models" / "diffusion_models" / _model(run)
        model.parent.mkdir(parents=True, exist_ok=True)
        if run.weights:
            shutil.copy(run.weights, model)
        else:
            export_model(run.folder, model, "comfyui", torch.float16)
    with ComfyUIServer(find_comfyui(), folder) as server:
        for run in waiting:
            settings = _settings(run, steps)
            with measurement_clips(run.folder / "clips") as clips:
                generate = workflow_clips(server, TEXT_TO_VIDEO, clips, model_name=_model(run), **settings["inputs"])
                found = {"settings": settings, "clips": [asdict(clip) for clip in look(generate, run)]}
            (run.folder / MEASURED).write_text(json.dumps(found) + "\n", encoding="utf-8")


def measured(run: Run, steps: int) -> list[SeenClip]:
    """The clips of a run that is measured."""
    return [SeenClip(**{**clip, "seen": Measurement(**clip["seen"])}) for clip in _known(run, steps)["clips"]]


def _model(run: Run) -> str:
    return f"claims_{run.folder.name}.safetensors"


def _settings(run: Run, steps: int) -> dict:
    """What decides the measured figures."""
    bucket = run.recipe.data.buckets[0]
    inputs = {"steps": steps, "cfg": GUIDANCE, "frames": bucket.frames, "width": bucket.width, "height": bucket.height}
    result = run.weights or Checkpoints(run.folder).files()[-1]
    return {"checkpoint": result.name, "prompts": run.prompts, "inputs": inputs}


def _known(run: Run, steps: int) -> dict | None:
    path = run.folder / MEASURED
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if found.get("settings") == _settings(run, steps) else None
