"""How the ways to a long video compare, on the nano model: seams, drift, and what still follows the prompt.

Contract: videos of a first clip and RECURSIONS extensions, through the shipped workflows in a real ComfyUI server,
measured by pixels alone:

    python -P -m comfyui_lavie.training.evaluate_long_video --videos 8 --out docs/long_video.md

A part is the first clip or what one extension adds (windows: as many frames). A seam is the mean difference of
neighbouring frames where a clip or window begins, in parts of the same elsewhere. Drift is how far a part's mean colour
is from the first one's, of 255. Colour, thing and direction are right if they are the prompt's.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from scipy.stats import t as student

from ..dev import ROOT, WORKFLOWS, SetupError, find_comfyui
from .evaluate_shapes import Generate, Rate, api_generate, frames_only, heldout_scenes
from .measure_shapes import measure_clip
from .shapes import Scene, caption

CLIP, RECURSIONS = 16, 5
WINDOWS, EXTENDED, ONE_CLIP = (
    f"lavie_nano_{use}.json" for use in ("long_video", "long_video_extended", "text_to_video")
)
FIRST_FRAME = ROOT / "weights" / "diffusion_models" / "lavie_nano_first_frame.safetensors"
HEAD = """\
# Long videos

LaVie was trained on clips of {clip} frames. Three ways lead beyond:

- **Context windows** (`lavie_long_video.json`): all frames are sampled together, in windows of {clip} that share 8 with
  their neighbours and are blended at every step. FreeNoise repeats the first window's noise along the video.
- **LaVie Extend Video** (`lavie_long_video_extended.json`): clip after clip; each begins with the last 4 frames of what
  there is, held by a mask. Works with the published base.
- **The first-frame-conditioned base, recursively**, as in the paper: LaVie Extend Video with such a model, overlap 1
  (`lavie_extend_video.json`). {first_frame}

Measured on the nano model, {videos} videos of each, every second caption naming a background, held out from training;
{recursions} extensions of a first clip of {clip} frames; {steps} Euler steps, guidance of the workflows, seeds 0 to
{last}. Written by `python -P -m comfyui_lavie.training.evaluate_long_video`; {seconds:.0f} s here. Intervals are 95 %:
Student's of means, Wilson's of rates.

- seam: mean difference of neighbouring frames where a clip or window begins, in parts of that elsewhere; 1 is no seam;
- drift: distance of the mean colour of the last part from that of the first clip, of 255;
- named, open: captions that name a background, and captions that leave it open.

Context windows keep the look without seams, but look at direction: what is blended from windows that each want the
thing in the middle hardly moves the way the prompt says. Extended clips move; their seams are the price.

Frames held under the highest noise say nothing: there the network decides anew what the prompt leaves open, which is
what *denoise* 1 shows. With *denoise* 0.8 new frames start from the last one, below that noise. What is left of the
seams is motion: the nano model has only seen things that cross the middle in {clip} frames, so a thing that has reached
the edge begins again.

"""


@dataclass(frozen=True)
class Way:
    """A workflow with its settings.

    Attributes:
        new: frames that an extension adds.
        borders: the frames with which clips or windows begin, the first one's left out.
        first_frame: extensions are made by the first-frame-conditioned base.
    """

    name: str
    workflow: str
    settings: dict
    new: int
    borders: tuple[int, ...]
    first_frame: bool = False

    @property
    def frames(self) -> int:
        return CLIP + RECURSIONS * self.new

    @property
    def parts(self) -> list[slice]:
        starts = range(CLIP, self.frames, self.new)
        return [slice(0, CLIP), *(slice(start, start + self.new) for start in starts)]

CLIP_BORDERS = tuple(range(CLIP, 76, 12))
WAYS = (
    Way("context windows, FreeNoise", WINDOWS, {"frames": 76}, 12, (*range(8, 60, 8), 60)),
    Way("LaVie Extend Video", EXTENDED, {"total_frames": 76}, 12, CLIP_BORDERS),
    Way("LaVie Extend Video, denoise 1", EXTENDED, {"total_frames": 76, "denoise": 1.0}, 12, CLIP_BORDERS),
    Way(
        "first-frame-conditioned base", EXTENDED, {"total_frames": 91, "overlap": 1}, 15, tuple(range(CLIP, 91, 15)),
        first_frame=True,
    ),
)  # fmt: skip
APART = Way("for comparison: clips apart, joined", ONE_CLIP, {}, CLIP, tuple(range(CLIP, 96, CLIP)))
Measured = list[tuple[Way, list["Video"]]]


@dataclass(frozen=True)
class Part:
    """One part of one video; ``seam`` is that of the borders in it, NaN for none."""

    color: bool
    thing: bool
    direction: bool
    seam: float
    drift: float


@dataclass(frozen=True)
class Video:
    """What was measured of one video: its parts, the first clip at the head."""

    scene: Scene
    parts: list[Part]

    @property
    def seam(self) -> float:
        return fmean(part.seam for part in self.parts if not math.isnan(part.seam))


def apart(generate: Generate) -> Generate:
    """Clips with seeds of their own, one behind the other."""

    def joined(prompt: str, seed: int) -> np.ndarray:
        return np.concatenate([generate(prompt, 1000 * seed + i) for i in range(1 + RECURSIONS)])

    return joined


def seams(frames: np.ndarray, way: Way) -> list[float]:
    """Of each part of frames (F, H, W, 3): difference of neighbouring frames at its borders over that elsewhere."""
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))  # steps[i] leads to frame i + 1
    elsewhere = np.delete(steps, np.array(way.borders) - 1).mean()
    of_parts = [[steps[b - 1] for b in way.borders if part.start <= b < part.stop] for part in way.parts]
    return [float(np.mean(found) / elsewhere) if found else math.nan for found in of_parts]


def measure(frames: np.ndarray, way: Way, scene: Scene) -> Video:
    """Raises ValueError if a way's workflow makes another number of frames than it should."""
    if len(frames) != way.frames:
        raise ValueError(f"{way.workflow} makes {len(frames)} frames, but {way.frames} are measured")
    means = [frames[part].astype(np.float32).mean(axis=(0, 1, 2)) for part in way.parts]
    parts = []
    for part, mean, seam in zip(way.parts, means, seams(frames, way), strict=True):
        seen = measure_clip(frames[part])
        right = (seen.color == scene.color, seen.thing == scene.thing, seen.direction == scene.direction)
        parts.append(Part(*right, seam, float(np.abs(mean - means[0]).mean())))
    return Video(scene, parts)


def videos_of(way: Way, generate: Generate, count: int) -> list[Video]:
    scenes = enumerate(heldout_scenes(count))
    return [measure(generate(caption(scene), seed), way, scene) for seed, scene in scenes]


def mean(values: list[float]) -> str:
    """With Student's interval where there is more than one value."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.1f} ± {half:.1f}"


def row(way: Way, videos: list[Video]) -> str:
    """A way's line in the first table."""
    cells = []
    for named in (True, False):
        chosen = [video for video in videos if video.scene.background_named == named]
        cells += [mean([video.seam for video in chosen]), mean([video.parts[-1].drift for video in chosen])]
    return f"| {' | '.join((way.name, *cells))} |"


def rows_by_part(way: Way, videos: list[Video]) -> list[str]:
    """A way's lines in the second table, one for each part."""
    lines = []
    for number in range(1 + RECURSIONS):
        parts = [video.parts[number] for video in videos]
        found = [part.seam for part in parts if not math.isnan(part.seam)]
        cells = [way.name if number == 0 else "", str(number), mean(found), mean([part.drift for part in parts])]
        for name in ("color", "thing", "direction"):
            rate = Rate(name, sum(getattr(part, name) for part in parts), len(parts))
            low, high = rate.interval
            cells.append(f"{rate.rate:.2f} ({low:.2f} .. {high:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(measured: Measured, steps: int, seconds: float) -> str:
    """The whole document."""
    count = len(measured[0][1])
    missing = "No trained weights of it are published, and none were measured here."
    told = (
        "The nano base of that kind is measured; none is published.\n  Its clips are slow, 5 to 6 pixels each (see its "
        "recipe); a direction is told from 8 pixels on."
    )
    first_frame = told if any(way.first_frame for way, _ in measured) else missing
    head = HEAD.format(
        clip=CLIP, recursions=RECURSIONS, videos=count, last=count - 1, steps=steps, seconds=seconds,
        first_frame=first_frame,
    )  # fmt: skip
    first = ["| way | seam, named | drift, named | seam, open | drift, open |", "|---|---:|---:|---:|---:|"]
    first += [row(way, videos) for way, videos in measured]
    second = ["By part: 0 is the first clip, 1 what the first extension adds, and so on.", ""]
    second += ["| way | part | seam | drift | colour | thing | direction |", "|---|---:|---:|---:|---:|---:|---:|"]
    second += [line for way, videos in measured for line in rows_by_part(way, videos)]
    return head + "\n".join((*first, "", *second)) + "\n"


def extended_by(api: dict, model_name: str) -> dict:
    """An API workflow whose extensions are made by another base model than its first clip."""
    api = copy.deepcopy(api)
    (extend,) = (node for node in api.values() if node["class_type"] == "LaVieExtendVideo")
    (loader,) = (node for node in api.values() if node["class_type"] == "LaVieBaseModelLoader")
    guider = copy.deepcopy(api[extend["inputs"]["guider"][0]])
    api["extending_model"] = {**loader, "inputs": {**loader["inputs"], "model_name": model_name}}
    guider["inputs"]["model"] = ["extending_model", 0]
    api["extending_guider"] = guider
    extend["inputs"]["guider"] = ["extending_guider", 0]
    return api


def generator(server, way: Way, steps: int, first_frame: Path | None) -> Generate:
    """A function from (prompt, seed) to a whole video of a way. Raises WorkflowError."""
    from ..tools.workflow import load_workflow, set_inputs

    api = load_workflow(WORKFLOWS / way.workflow, server.object_info())
    if way.first_frame:
        models = server.base_directory / "models" / "diffusion_models"
        models.mkdir(parents=True, exist_ok=True)
        api = extended_by(api, shutil.copy(first_frame, models / f"measured_{first_frame.name}").name)
    generate = api_generate(server, set_inputs(frames_only(api), steps=steps, **way.settings))
    return apart(generate) if way is APART else generate


def main() -> int:
    """Measure all ways and write the page; returns the exit status."""
    from ..tools.comfyui_server import ComfyUIServer, ServerError, WorkflowError

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=int, default=8, help="videos of each way (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (default: %(default)s)")
    parser.add_argument("--first-frame", type=Path, default=FIRST_FRAME if FIRST_FRAME.exists() else None,
                        help="first-frame-conditioned nano base to measure, too (default: the pack's)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "long_video.md", help="page to write")
    args = parser.parse_args()
    if args.videos < 1:
        parser.error(f"--videos must be 1 or more, got {args.videos}")
    start, measured = time.monotonic(), []
    try:
        with tempfile.TemporaryDirectory() as folder, ComfyUIServer(find_comfyui(), folder) as server:
            for way in (*WAYS, APART):
                if not way.first_frame or args.first_frame:
                    generate = generator(server, way, args.steps, args.first_frame)
                    measured.append((way, videos_of(way, generate, args.videos)))
                    print(row(*measured[-1]), flush=True)
        args.out.write_text(page(measured, args.steps, time.monotonic() - start), encoding="utf-8")
    except (SetupError, ServerError, WorkflowError, ValueError, OSError) as error:
        print(f"evaluate_long_video: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
