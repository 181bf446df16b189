"""The base: does it make what held-out captions say, and how fast do its things go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..evaluate_shapes import Rate, evaluate, rates_table, server_generate, things_table, to_json
from ..measure_shapes import NONE
from ..shapes import LOW
from .graphs import sampling_of, workflow_path, workflow_weights
from .parts import Goal, Settings, rate_text
from .statistics import mean

NAME, TITLE, SAMPLES = "base", "Base", 300
WORKFLOW = "lavie_nano_text_to_video"
TRAINED = tuple(travel / 15 for travel in LOW.travel)  # speeds in training, evenly between these; pixels per frame
LEAST = {
    "colour": 0.95, "thing": 0.90, "direction, headed things": 0.95, "direction, symmetric things": 0.90,
}  # fmt: skip
TEXT = """\
{samples} clips of captions whose colour, thing and direction never came together in training, from
`{workflow}.json`. A rate counts clips in which what is seen, without knowing the caption, is what was asked for.
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
    generate = server_generate(server, workflow_path(WORKFLOW), **settings.inputs)
    seen = to_json(evaluate(generate, settings.samples, settings.seed))
    kept = {key: seen[key] for key in ("rates", "things_seen", "samples")}
    return {"sampling": sampling_of(server, WORKFLOW, **settings.inputs), **kept}


def tell(result: dict) -> str:
    """The rates, what things were taken for, and the speed."""
    intro = TEXT.format(samples=len(result["samples"]), workflow=WORKFLOW)
    found = rates_table([Rate(r["name"], r["successes"], r["count"]) for r in result["rates"]])
    return "\n".join([intro, found + "\n", things_table(result["things_seen"]) + "\n", speed(result["samples"])])


def goals(result: dict) -> list[Goal]:
    """Each rate that has one."""
    found = [Rate(r["name"], r["successes"], r["count"]) for r in result["rates"]]
    return [
        Goal(f"base: {r.name} at least {LEAST[r.name]:.2f}", rate_text(r), r.rate >= LEAST[r.name])
        for r in found if r.name in LEAST and r.count
    ]  # fmt: skip


def speed(samples: list[dict]) -> str:
    """The sentences about speed."""
    (low, high), middle = TRAINED, float(np.mean(TRAINED))
    seen = [s["measurement"]["speed"] for s in samples if s["measurement"]["direction"] != NONE]
    return SPEED.format(
        low=low, high=high, middle=middle, counted=len(seen), inside=sum(0.95 * low <= v <= 1.05 * high for v in seen),
        error=mean([abs(value / middle - 1) for value in seen]).text(3), perfect=(high - low) / 4 / middle,
    )  # fmt: skip
