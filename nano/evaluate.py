"""How well a text-to-video model follows captions it was not trained on.

Contract: captions come from `shapes.HELDOUT` in a fixed balanced order, half of them naming a background; every clip is
measured as a whole by `measure` and frame by frame by `strict`, which see pixels only. `evaluate` takes any function
from (prompt, seed) to frames, so a training loop can call it in process. As a command it goes through a real ComfyUI
server and the shipped workflow, and sends true clips through the VAE for comparison:

    python -P -m comfyui_lavie.nano evaluate --samples 300 --steps 25 --seed 0 --out results.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from ..comfyui_api.clips import Generate
from ..evaluation.statistics import Rate
from ..place import NANO_WORKFLOWS, ROOT, SetupError, find_comfyui
from ..tables import markdown_table
from ..training.pack_encoders import load_vae
from .kept import measurement_clips, workflow_clips
from .measure import Measurement, measure_clip
from .shapes import BACKGROUNDS, HEADED, HELDOUT, TRIPLES, Scene, caption, render, sample_scene
from .strict import Strictness, measure_frames
from .strict import table as strict_table

BASE = ROOT / "weights" / "diffusion_models" / "lavie_nano_base.safetensors"
VAE = ROOT / "weights" / "vae" / "lavie_nano_vae.safetensors"
TEXT_TO_VIDEO = NANO_WORKFLOWS / "lavie_nano_text_to_video.json"
CEILING_CLIPS = 96  # true clips are drawn in no time, but measured as slowly as others
DESCRIPTION = """\
Measure, from pixels, how well a nano model follows captions it was not trained on: colour, thing, motion, background,
each with its 95 % interval. A real ComfyUI server is started and the workflow runs in it, once per clip.
"""
EPILOG = """\
examples:
  evaluate
  evaluate --model runs/nano_refine/base.safetensors --samples 48
"""


@dataclass(frozen=True)
class Sample:
    """One generated clip: what was asked for and what was seen."""

    prompt: str
    seed: int
    scene: Scene
    measurement: Measurement
    strictness: Strictness


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
        frames = generate(prompt, seed + i)
        results.append(Sample(prompt, seed + i, scene, measure_clip(frames), measure_frames(frames, scene)))
    return results


def ceiling(vae: Path, samples: int) -> list[Strictness]:
    """What true clips of held-out captions reach that only went through the VAE: no base can be expected to do better.

    Raises ValueError if the file is none of our VAEs.
    """
    codec = load_vae(vae)
    scenes = (sample_scene(seed, "heldout") for seed in range(samples))
    return [measure_frames(codec.decode(codec.encode(render(scene))).numpy(), scene) for scene in scenes]


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


def markdown(samples: list[Sample], true_clips: list[Strictness] = ()) -> str:
    """The rates as a Markdown table, what each thing was taken for, and, beside true clips, the strict measures."""
    tables = [rates_table(rates(samples)), things_table(confusion(samples))]
    if true_clips:
        tables.append(strict_table([s.strictness for s in samples], true_clips))
    return "\n\n".join(tables)


def rates_table(found: list[Rate]) -> str:
    """Rates with their intervals, in Markdown."""
    rows = [(r.name, r.successes, r.count, f"{r.rate:.3f}", "{:.3f} .. {:.3f}".format(*r.interval)) for r in found]
    return markdown_table(["measured", "right", "of", "rate", "95 % interval"], rows, align="lrrrl")


def things_table(things_seen: dict[str, dict[str, int]]) -> str:
    """What `confusion` counts, in Markdown."""
    rows = [(thing, ", ".join(f"{name} {n}" for name, n in seen.items())) for thing, seen in things_seen.items()]
    return markdown_table(["thing asked for", "seen as"], rows, align="ll")


def confusion(samples: list[Sample]) -> dict[str, dict[str, int]]:
    """For each thing asked for, how often each thing was seen, most frequent first."""
    counts: dict[str, Counter] = {}
    for s in samples:
        counts.setdefault(s.scene.thing, Counter())[s.measurement.thing] += 1
    return {thing: dict(seen.most_common()) for thing, seen in sorted(counts.items())}


def to_json(samples: list[Sample], true_clips: list[Strictness] = (), **settings) -> dict:
    """Everything needed to recompute the tables: settings, rates, and each sample's caption, seed and measurements."""
    return {
        "settings": settings,
        "rates": [{**asdict(r), "rate": r.rate, "interval": r.interval} for r in rates(samples)],
        "things_seen": confusion(samples),
        "samples": [
            {"prompt": s.prompt, "seed": s.seed, "measurement": asdict(s.measurement), "strict": asdict(s.strictness)}
            for s in samples
        ],
        "ceiling": [asdict(clip) for clip in true_clips],
    }


def _axis(scene: Scene) -> str:
    return "horizontal" if scene.direction in ("left", "right") else "vertical"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--workflow", type=Path, default=TEXT_TO_VIDEO, help="text-to-video workflow to run")
    parser.add_argument("--model", type=Path, help="exported nano base to measure instead of the workflow's model")
    parser.add_argument("--vae", type=Path, default=VAE, help="VAE through which the true clips go")
    parser.add_argument("--samples", type=_positive, default=300, help="clips to generate (default: 300)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="noise seed of the first clip; each further one adds 1")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evaluate_shapes.json", help="JSON file to write")


def run(args: argparse.Namespace) -> int:
    """Start a server, evaluate, print the table and write the JSON; returns the exit status."""
    from ..comfyui_api.graphs import WorkflowError  # not needed in a training loop
    from ..comfyui_api.server import ComfyUIServer, ServerError  # not needed in a training loop

    inputs = {"steps": args.steps}
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.model:
                models = Path(folder) / "models" / "diffusion_models"
                models.mkdir(parents=True)
                inputs["model_name"] = shutil.copy(args.model, models / f"measured_{args.model.name}").name
            with ComfyUIServer(find_comfyui(), folder) as server:
                start = time.monotonic()
                with measurement_clips(args.out.with_suffix(".clips")) as clips:
                    generate = workflow_clips(server, args.workflow, clips, **inputs)
                    samples = evaluate(generate, args.samples, args.seed)
                seconds = time.monotonic() - start
        true_clips = ceiling(args.vae, min(args.samples, CEILING_CLIPS))
        settings = {"workflow": args.workflow.name, "steps": args.steps, "seed": args.seed, "seconds": round(seconds)}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(to_json(samples, true_clips, **settings), indent=1) + "\n")
    except (SetupError, ServerError, WorkflowError, ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print(f"{markdown(samples, true_clips)}\n\n{seconds / len(samples):.2f} s per clip; details in {args.out}")
    return 0


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)
