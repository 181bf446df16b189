"""How well a text-to-video model follows captions it was not trained on.

Contract: captions come from `shapes.HELDOUT` in a fixed balanced order, half of them naming a background; every clip is
measured by `measure_shapes`, which sees pixels only. `evaluate` takes any function from (prompt, seed) to frames, so a
training loop can call it in process. As a command it goes through a real ComfyUI server and the shipped workflow:

    python -m comfyui_lavie.training.evaluate_shapes --samples 300 --steps 25 --seed 0 --out results.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .measure_shapes import Measurement, measure_clip, wilson_interval
from .shapes import BACKGROUNDS, HEADED, HELDOUT, TRIPLES, Scene, caption

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "workflows" / "lavie_nano_text_to_video.json"
_FRAMES_NODE = "evaluate_shapes_frames"

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
    """The first `samples` scenes of the fixed order: all held-out triples in turn, every second one with a background named."""
    triples = [t for t in TRIPLES if t in HELDOUT]
    names = tuple(BACKGROUNDS)
    scenes = []
    for i in range(samples):
        turn, index = divmod(i, len(triples))
        color, thing, direction = triples[index]
        background = names[(index // 2 + turn) % len(names)]
        named = (index + turn) % 2 == 0
        scenes.append(Scene(color, thing, direction, background, named, center=(32, 32), travel=28, length=24, moment=0.5))
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
    lines = ["| measured | right | of | rate | 95 % interval |", "|---|---:|---:|---:|---|"]
    for r in rates(samples):
        low, high = r.interval
        lines.append(f"| {r.name} | {r.successes} | {r.count} | {r.rate:.3f} | {low:.3f} .. {high:.3f} |")
    lines += ["", "| thing asked for | seen as |", "|---|---|"]
    for thing, seen in confusion(samples).items():
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
        "samples": [
            {"prompt": s.prompt, "seed": s.seed, "measurement": asdict(s.measurement)} for s in samples
        ],
    }


def _axis(scene: Scene) -> str:
    return "horizontal" if scene.direction in ("left", "right") else "vertical"
