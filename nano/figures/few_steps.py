"""Few steps: what the base reaches in four steps, beside itself in as many as its workflow has."""

from __future__ import annotations

from pathlib import Path

from ...evaluation.statistics import Rate, mean
from ...tables import markdown_table
from ..evaluate import evaluate, to_json
from ..kept import workflow_clips
from ..strict import MEASURES, Strictness, values_of
from .base import LEAST
from .graphs import sampling_of, workflow_path, workflow_weights
from .parts import Goal, Settings

NAME, TITLE, SAMPLES = "few_steps", "Four steps", 48
WORKFLOW = "lavie_nano_text_to_video"
WAYS = {"many": {}, "few": {"steps": 4}}  # what is changed of the workflow
LEAST_PART = 0.95  # of what many steps reach
TEXT = """\
`{workflow}.json` with 4 steps in the place of its own {steps}, and else as it is: {samples} clips of held-out captions
each, the same captions and seeds. No LoRA takes part: the small base does not need one (`nano/README.md`).
"""


def weights() -> list[Path]:
    """The files that are measured."""
    return workflow_weights(WORKFLOW)


def measure(server, settings: Settings) -> dict:
    """Of each way, what `evaluate` gives."""
    found = {}
    for way, changed in WAYS.items():
        generate = workflow_clips(server, workflow_path(WORKFLOW), settings.clips, **{**settings.inputs, **changed})
        seen = to_json(evaluate(generate, settings.samples, settings.seed))
        found[way] = {"rates": seen["rates"], "strict": [sample["strict"] for sample in seen["samples"]]}
    return {"sampling": sampling_of(server, WORKFLOW, **settings.inputs), "ways": found}


def tell(result: dict) -> str:
    """The rates and the strict measures of each way."""
    rows = [[many.name, many.estimate.text(3), few.estimate.text(3)] for many, few in _rates(result)]
    for field, words in _measured(result).items():
        rows.append([words, *(mean(_strict(result, way, field)).text(3) for way in WAYS)])
    steps = result["sampling"]["steps"]
    table = markdown_table(["measured", f"{steps} steps", f"{WAYS['few']['steps']} steps"], rows)
    intro = TEXT.format(workflow=WORKFLOW, steps=steps, samples=len(result["ways"]["many"]["strict"]))
    return f"{intro}\n{table}\n"


def goals(result: dict) -> list[Goal]:
    """Each figure that the base is held to, in parts of what many steps reach."""
    pairs = [(many.name, many.rate, few.rate) for many, few in _rates(result) if many.name in LEAST]
    for field, words in _measured(result).items():
        pairs.append((words, *(mean(_strict(result, way, field)).value for way in WAYS)))
    return [
        Goal(f"four steps: {name}, at least {LEAST_PART:g} of all steps' ({many:.3f})", f"{few:.3f}",
             few >= LEAST_PART * many)
        for name, many, few in pairs
    ]  # fmt: skip


def _rates(result: dict) -> list[tuple[Rate, Rate]]:
    """(of many steps, of few) for every question that some clip answers."""
    ways = ([Rate(r["name"], r["successes"], r["count"]) for r in result["ways"][way]["rates"]] for way in WAYS)
    return [(many, few) for many, few in zip(*ways, strict=True) if many.count]


def _measured(result: dict) -> dict[str, str]:
    """Those of MEASURES that some clip has: of few clips none may have a heading."""
    return {field: words for field, words in MEASURES.items() if all(_strict(result, way, field) for way in WAYS)}


def _strict(result: dict, way: str, field: str) -> list[float]:
    return values_of([Strictness(**clip) for clip in result["ways"][way]["strict"]], field)
