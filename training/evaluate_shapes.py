"""How well a text-to-video model follows captions it was not trained on.

Contract: captions come from `shapes.HELDOUT` in a fixed balanced order, half of them naming a background; every clip is
measured by `measure_shapes`, which sees pixels only. `evaluate` takes any function from (prompt, seed) to frames, so a
training loop can call it in process. As a command it goes through a real ComfyUI server and the shipped workflow:

    python -m comfyui_lavie.training evaluate --samples 300 --steps 25 --seed 0 --out results.json
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..dev import ROOT, WORKFLOWS, SetupError, find_comfyui
from .measure_shapes import Measurement, measure_clip, wilson_interval
from .shapes import BACKGROUNDS, HEADED, HELDOUT, TRIPLES, Scene, caption

TEXT_TO_VIDEO = WORKFLOWS / "lavie_nano_text_to_video.json"
_FRAMES_NODE, _DECODE_NODE = "evaluate_shapes_frames", "evaluate_shapes_decode"
DESCRIPTION = """\
Measure, from pixels, how well a nano model follows captions it was not trained on: colour, thing, motion, background,
each with its 95 % interval. A real ComfyUI server is started and the workflow runs in it, once per clip.
"""
EPILOG = """\
examples:
  evaluate
  evaluate --model runs/nano_refine/base.safetensors --samples 48
"""

Generate = Callable[[str, int], np.ndarray]  # (prompt, seed) -> uint8 (F, H, W, 3)


@dataclass(frozen=True)
class Sample:
    """One generated clip: what was asked for and what was seen."""

    prompt: str
    seed: int
    scene: Scene
    measurement: Measurement


@dataclass(frozen=True)
class Rate:
    """A success rate and its 95 % Wilson interval."""

    name: str
    successes: int
    count: int

    @property
    def rate(self) -> float:
        return self.successes / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.successes, self.count)


def heldout_scenes(samples: int) -> list[Scene]:
    """The first `samples` scenes of the fixed order: all held-out triples in turn, every second naming a background."""
    triples = [t for t in TRIPLES if t in HELDOUT]
    names = tuple(BACKGROUNDS)
    scenes = []
    for i in range(samples):
        turn, index = divmod(i, len(triples))
        color, thing, direction = triples[index]
        background = names[(index // 2 + turn) % len(names)]
        named = (index + turn) % 2 == 0
        scenes.append(Scene(color, thing, direction, background, named, (32, 32), travel=28, length=24, moment=0.5))
    return scenes


def evaluate(generate: Generate, samples: int = 300, seed: int = 0, progress: bool = True) -> list[Sample]:
    """Generate and measure `samples` clips of held-out captions, with the seeds `seed`, `seed` + 1, ..."""
    results = []
    for i, scene in enumerate(tqdm(heldout_scenes(samples), desc="evaluate", unit="clip", disable=not progress)):
        prompt = caption(scene)
        results.append(Sample(prompt, seed + i, scene, measure_clip(generate(prompt, seed + i))))
    return results


def rates(samples: list[Sample]) -> list[Rate]:
    """The rates that are reported, each over the samples for which the question makes sense."""
    headed = [s for s in samples if s.scene.thing in HEADED]
    symmetric = [s for s in samples if s.scene.thing not in HEADED]
    named = [s for s in samples if s.scene.background_named]

    def rate(name: str, among: list[Sample], right: Callable[[Scene, Measurement], bool]) -> Rate:
        return Rate(name, sum(right(s.scene, s.measurement) for s in among), len(among))

    return [
        rate("colour", samples, lambda scene, seen: seen.color == scene.color),
        rate("thing", samples, lambda scene, seen: seen.thing == scene.thing),
        rate("motion axis", samples, lambda scene, seen: seen.axis == _axis(scene)),
        rate("direction, headed things", headed, lambda scene, seen: seen.direction == scene.direction),
        rate("direction, symmetric things", symmetric, lambda scene, seen: seen.direction == scene.direction),
        rate("facing, headed things", headed, lambda scene, seen: seen.facing == scene.direction),
        rate("background, when named", named, lambda scene, seen: seen.background == scene.background),
    ]


def markdown(samples: list[Sample]) -> str:
    """The rates as a Markdown table, followed by what each thing was taken for."""
    return f"{rates_table(rates(samples))}\n\n{things_table(confusion(samples))}"


def rates_table(found: list[Rate]) -> str:
    """Rates with their intervals, in Markdown."""
    lines = ["| measured | right | of | rate | 95 % interval |", "|---|---:|---:|---:|---|"]
    for r in found:
        low, high = r.interval
        lines.append(f"| {r.name} | {r.successes} | {r.count} | {r.rate:.3f} | {low:.3f} .. {high:.3f} |")
    return "\n".join(lines)


def things_table(things_seen: dict[str, dict[str, int]]) -> str:
    """What `confusion` counts, in Markdown."""
    lines = ["| thing asked for | seen as |", "|---|---|"]
    for thing, seen in things_seen.items():
        lines.append(f"| {thing} | {', '.join(f'{name} {n}' for name, n in seen.items())} |")
    return "\n".join(lines)


def confusion(samples: list[Sample]) -> dict[str, dict[str, int]]:
    """For each thing asked for, how often each thing was seen, most frequent first."""
    counts: dict[str, Counter] = {}
    for s in samples:
        counts.setdefault(s.scene.thing, Counter())[s.measurement.thing] += 1
    return {thing: dict(seen.most_common()) for thing, seen in sorted(counts.items())}


def to_json(samples: list[Sample], **settings) -> dict:
    """Everything needed to recompute the table: settings, rates, and each sample's caption, seed and measurement."""
    return {
        "settings": settings,
        "rates": [{**asdict(r), "rate": r.rate, "interval": r.interval} for r in rates(samples)],
        "things_seen": confusion(samples),
        "samples": [{"prompt": s.prompt, "seed": s.seed, "measurement": asdict(s.measurement)} for s in samples],
    }


def _axis(scene: Scene) -> str:
    return "horizontal" if scene.direction in ("left", "right") else "vertical"


def server_generate(server, workflow: Path, **inputs) -> Generate:
    """Generate through a running ComfyUIServer: the frames that the workflow would turn into a video, lossless.

    `inputs`, such as steps=25, are set wherever the workflow has a value of that name. Raises WorkflowError.
    """
    from ..tools.workflow import load_workflow, set_inputs

    return api_generate(server, set_inputs(frames_only(load_workflow(workflow, server.object_info())), **inputs))


def api_generate(server, api: dict) -> Generate:
    """Generate by an API workflow that writes its frames as PNG. Raises WorkflowError."""
    from ..tools.workflow import set_inputs

    def generate(prompt: str, seed: int) -> np.ndarray:
        return fetch_frames(server, server.run(set_inputs(api, prompt=prompt, seed=seed)))

    return generate


def fetch_frames(server, outputs: dict) -> np.ndarray:
    """The pictures that a run wrote as PNG, in order: uint8 (F, H, W, 3)."""
    from ..tools.workflow import saved_files

    pictures = (io.BytesIO(server.fetch(file)) for file in saved_files(outputs, ".png"))
    return np.stack([np.asarray(Image.open(picture).convert("RGB")) for picture in pictures])


def frames_only(api: dict) -> dict:
    """The part of an API workflow that makes the frames of its video, ending in Preview Image, which writes PNG."""
    videos = [node for node in api.values() if node["class_type"] in ("CreateVideo", "LaVieDecodeToVideo")]
    if len(videos) != 1:
        raise ValueError(
            "Expected a workflow with one Create Video node or one LaVie Decode to Video, whose frames are measured, "
            f"got {len(videos)}. Choose such a workflow with --workflow."
        )
    inputs = videos[0]["inputs"]
    if "images" in inputs:
        return preview_of(api, inputs["images"])
    decode = {"class_type": "VAEDecode", "inputs": {"samples": inputs["samples"], "vae": inputs["vae"]}}
    return preview_of({**api, _DECODE_NODE: decode}, [_DECODE_NODE, 0])


def preview_of(api: dict, images: list) -> dict:
    """The part of an API workflow that leads to the link `images`, and Preview Image at its end."""
    kept: dict = {}
    waiting = [images[0]]
    while waiting:
        node_id = waiting.pop()
        if node_id not in kept:
            kept[node_id] = api[node_id]
            values = api[node_id]["inputs"].values()
            waiting += [value[0] for value in values if isinstance(value, list) and value[0] in api]
    return {**kept, _FRAMES_NODE: {"class_type": "PreviewImage", "inputs": {"images": images}}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--workflow", type=Path, default=TEXT_TO_VIDEO, help="text-to-video workflow to run")
    parser.add_argument("--model", type=Path, help="exported nano base to measure instead of the workflow's model")
    parser.add_argument("--samples", type=_positive, default=300, help="clips to generate (default: 300)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="noise seed of the first clip; each further one adds 1")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evaluate_shapes.json", help="JSON file to write")


def run(args: argparse.Namespace) -> int:
    """Start a server, evaluate, print the table and write the JSON; returns the exit status."""
    from ..tools.comfyui_server import ComfyUIServer, ServerError, WorkflowError  # not needed in a training loop

    inputs = {"steps": args.steps}
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.model:
                models = Path(folder) / "models" / "diffusion_models"
                models.mkdir(parents=True)
                inputs["model_name"] = shutil.copy(args.model, models / f"measured_{args.model.name}").name
            with ComfyUIServer(find_comfyui(), folder) as server:
                generate = server_generate(server, args.workflow, **inputs)
                start = time.monotonic()
                samples = evaluate(generate, args.samples, args.seed)
                seconds = time.monotonic() - start
        settings = {"workflow": args.workflow.name, "steps": args.steps, "seed": args.seed, "seconds": round(seconds)}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(to_json(samples, **settings), indent=1) + "\n")
    except (SetupError, ServerError, WorkflowError, ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print(f"{markdown(samples)}\n\n{seconds / len(samples):.2f} s per clip; details in {args.out}")
    return 0


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)
