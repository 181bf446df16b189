"""How the ways to a long video compare, on the nano model: seams, drift, and whether the last frames still follow.

Contract: videos of FRAMES frames through the shipped workflows in a real ComfyUI server, measured by pixels alone:

    python -P -m comfyui_lavie.training.evaluate_long_video --videos 8 --out docs/long_video.md

A seam is the mean difference of neighbouring frames where a clip or window ends, in parts of the same elsewhere. Drift
is how far the mean colour of the last CLIP frames is from that of the first, of 255. Kept: the measured colour of the
thing is the prompt's, in the first and in the last frames that show it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from ..dev import ROOT, SetupError, find_comfyui
from .evaluate_shapes import Generate, heldout_scenes, server_generate
from .measure_shapes import measure_clip
from .shapes import caption

CLIP, FRAMES = 16, 40
WORKFLOWS = ROOT / "workflows"
HEAD = """\
# Long videos

LaVie was trained on clips of {clip} frames. Three ways lead beyond:

- **Context windows** (`lavie_long_video.json`): all frames are sampled together, in windows of {clip} that share 8 with
  their neighbours and are blended at every step. FreeNoise repeats the first window's noise along the video.
- **LaVie Extend Video** (`lavie_long_video_extended.json`): clip after clip; each begins with the last 4 frames of what
  there is, held by a mask. Works with the published base.
- **The first-frame-conditioned base, recursively**, as in the paper: LaVie Extend Video with such a model, overlap 1
  (`lavie_extend_video.json`). No trained weights of it are published, so no figures are given; that the frame
  reaches the network is tested with random weights.

Measured on the nano model, {videos} videos of {frames} frames each, {steps} Euler steps, guidance 4, seeds 0 to {last};
captions held out from training. Written by `python -P -m comfyui_lavie.training.evaluate_long_video`; {seconds:.0f} s
here.

- seam: mean difference of neighbouring frames at the borders of clips (windows: where a window begins), in parts of
  that elsewhere; 1 is no seam;
- drift: distance of the mean colour of the last {clip} frames from that of the first {clip}, of 255;
- colour first, last: share of videos whose thing has the prompt's colour in the first and in the last {clip} frames;
- thing seen: share of frames in which there is exactly one thing.

At full noise the held frames say nothing yet about the new ones. Where the prompt leaves something open, such as the
background in half of these captions, a new clip may decide otherwise, and so may windows without FreeNoise: name it in
the prompt.

| way | seam | drift | colour first | colour last | thing seen |
|---|---:|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Way:
    """A workflow with its settings, and the frames at which its clips or windows begin."""

    name: str
    workflow: str
    settings: dict
    borders: tuple[int, ...]


WAYS = (
    Way("context windows, FreeNoise", "lavie_nano_long_video.json", {}, (8, 16, 24)),
    Way("context windows", "lavie_nano_long_video.json", {"freenoise": False}, (8, 16, 24)),
    Way("LaVie Extend Video", "lavie_nano_long_video_extended.json", {}, (16, 28)),
)
APART = Way("for comparison: clips apart, joined", "lavie_nano_text_to_video.json", {}, (16, 32))


def apart(generate: Generate) -> Generate:
    """Clips with seeds of their own, one behind the other."""

    def joined(prompt: str, seed: int) -> np.ndarray:
        return np.concatenate([generate(prompt, 1000 * seed + i) for i in range(-(-FRAMES // CLIP))])[:FRAMES]

    return joined


def seam(frames: np.ndarray, borders: tuple[int, ...]) -> float:
    """Difference of neighbouring frames (F, H, W, 3) at ``borders``, the later one's number, over that elsewhere."""
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    at = np.isin(np.arange(1, len(frames)), borders)
    return float(steps[at].mean() / steps[~at].mean())


def drift(frames: np.ndarray) -> float:
    """Distance of the mean colours of the first and the last CLIP frames, mean of the three channels."""
    first, last = (part.astype(np.float32).mean(axis=(0, 1, 2)) for part in (frames[:CLIP], frames[-CLIP:]))
    return float(np.abs(last - first).mean())


def row(way: Way, generate: Callable, videos: int) -> str:
    """One line of the table."""
    seams, drifts, first, last, seen = [], [], [], [], []
    for seed, scene in enumerate(heldout_scenes(videos)):
        frames = generate(caption(scene), seed)
        if len(frames) != FRAMES:
            raise ValueError(f"{way.workflow} makes {len(frames)} frames, but {FRAMES} are measured")
        seams.append(seam(frames, way.borders))
        drifts.append(drift(frames))
        start, end = measure_clip(frames[:CLIP]), measure_clip(frames[-CLIP:])
        first.append(start.color == scene.color)
        last.append(end.color == scene.color)
        seen += measure_clip(frames).presence
    return (
        f"| {way.name} | {fmean(seams):.2f} | {fmean(drifts):.1f} | {fmean(first):.2f} | {fmean(last):.2f} | "
        f"{fmean(seen):.2f} |"
    )


def main() -> int:
    """Measure all ways and write the page; returns the exit status."""
    from ..tools.comfyui_server import ComfyUIServer, ServerError, WorkflowError

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=int, default=8, help="videos of each way (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "long_video.md", help="page to write")
    args = parser.parse_args()
    if args.videos < 1:
        parser.error(f"--videos must be 1 or more, got {args.videos}")
    start, rows = time.monotonic(), []
    try:
        with tempfile.TemporaryDirectory() as folder, ComfyUIServer(find_comfyui(), folder) as server:
            for way in (*WAYS, APART):
                generate = server_generate(server, WORKFLOWS / way.workflow, steps=args.steps, **way.settings)
                rows.append(row(way, apart(generate) if way is APART else generate, args.videos))
                print(rows[-1], flush=True)
        head = HEAD.format(
            clip=CLIP, frames=FRAMES, videos=args.videos, steps=args.steps, last=args.videos - 1,
            seconds=time.monotonic() - start,
        )  # fmt: skip
        args.out.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    except (SetupError, ServerError, WorkflowError, ValueError, OSError) as error:
        print(f"evaluate_long_video: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
