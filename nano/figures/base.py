"""The base: does it make what held-out captions say, and how fast do its things go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...evaluation.statistics import Rate, mean
from ..evaluate import CEILING_CLIPS, VAE, ceiling, evaluate, rates_table, things_table, to_json
from ..kept import workflow_clips
from ..measure import NONE
from ..shapes import LOW
from ..strict import MEASURES, Strictness, values_of
from ..strict import table as strict_table
from .graphs import sampling_of, workflow_path, workflow_weights
from .parts import Goal, Settings

NAME, TITLE, SAMPLES = "base", "Base", 150
WORKFLOW = "lavie_nano_text_to_video"
TRAINED = tuple(travel / 15 for travel in LOW.travel)  # speeds in training, evenly between these; pixels per frame
LEAST = {
    "colour": 0.95, "thing": 0.90, "direction, headed things": 0.95, "direction, symmetric things": 0.90,
}  # fmt: skip
TEXT = """\
{samples} clips of captions whose colour, thing and direction never came together in training, from
`{workflow}.json`. A rate counts clips in which what is seen, without knowing the caption, is what was asked for.
"""
LEAST_STRICT = {
    "outline": (0.90, True), "steadiness": (0.95, True), "thing": (0.95, False), "facing": (0.97, False),
}  # (least mean, whether in parts of what true clips through the VAE reach)
STRICT = """\
**Frame by frame**, each judged alone, beside true clips that only went through the VAE (the ceiling). *Outline*:
intersection over union (IoU) of the thing's mask and the asked thing's, drawn at the length and place that fit best.
*Steadiness*: IoU of neighbouring frames' masks, laid centroid on centroid. Means over clips.
"""
SPEED = """\
**Speed error**: captions do not say how fast. Training had {low:.2f} to {high:.2f} pixels per frame, evenly, and
{middle:.2f} on average. Of {counted} clips with straight motion {inside} are in that range (within 5 %). The speed is
off that average by {error} of it (mean of the absolute values); training's own clips are off by {perfect:.3f}.
"""


def weights() -> list[Path]:
    """The files that are measured."""
    return workflow_weights(WORKFLOW)


def measure(server, settings: Settings) -> dict:
    """What `evaluate` gives: rates, confusions, and each clip's measurement."""
    generate = workflow_clips(server, workflow_path(WORKFLOW), settings.clips, **settings.inputs)
    true_clips = ceiling(VAE, min(settings.samples, CEILING_CLIPS))
    seen = to_json(evaluate(generate, settings.samples, settings.seed), true_clips)
    kept = {key: seen[key] for key in ("rates", "things_seen", "samples", "ceiling")}
    return {"sampling": sampling_of(server, WORKFLOW, **settings.inputs), **kept}


def tell(result: dict) -> str:
    """The rates, what things were taken for, and the speed."""
    intro = TEXT.format(samples=len(result["samples"]), workflow=WORKFLOW)
    found = rates_table([Rate(r["name"], r["successes"], r["count"]) for r in result["rates"]])
    parts = [intro, found + "\n", things_table(result["things_seen"]) + "\n", speed(result["samples"])]
    return "\n".join([*parts, STRICT, strict_table(*strict_of(result)) + "\n"])


def goals(result: dict) -> list[Goal]:
    """Each rate that has one."""
    found = [Rate(r["name"], r["successes"], r["count"]) for r in result["rates"]]
    clips, true_clips = strict_of(result)
    return [
        *(Goal(f"base: {r.name} at least {LEAST[r.name]:.2f}", r.estimate.text(3), r.rate >= LEAST[r.name])
          for r in found if r.name in LEAST and r.count),
        *(strict_goal(field, values, values_of(true_clips, field))
          for field in LEAST_STRICT if (values := values_of(clips, field))),
    ]  # fmt: skip


def strict_of(result: dict) -> tuple[list[Strictness], list[Strictness]]:
    """(generated clips, true clips through the VAE), by the strict measures."""
    generated = [sample["strict"] for sample in result["samples"]]
    return tuple([Strictness(**clip) for clip in clips] for clips in (generated, result["ceiling"]))


def strict_goal(field: str, values: list[float], true_values: list[float]) -> Goal:
    """A mean over clips that is to reach a part of what true clips reach, or a value of its own."""
    least, of_ceiling = LEAST_STRICT[field]
    seen, bound = mean(values), least * (mean(true_values).value if of_ceiling else 1.0)
    aim = f"base: {MEASURES[field]}, at least {least:.2f}" + (f" of the ceiling ({bound:.3f})" if of_ceiling else "")
    return Goal(aim, seen.text(3), seen.value >= bound)


def speed(samples: list[dict]) -> str:
    """The sentences about speed."""
    (low, high), middle = TRAINED, float(np.mean(TRAINED))
    seen = [s["measurement"]["speed"] for s in samples if s["measurement"]["direction"] != NONE]
    return SPEED.format(
        low=low, high=high, middle=middle, counted=len(seen), inside=sum(0.95 * low <= v <= 1.05 * high for v in seen),
        error=mean([abs(value / middle - 1) for value in seen]).text(3), perfect=(high - low) / 4 / middle,
    )  # fmt: skip
