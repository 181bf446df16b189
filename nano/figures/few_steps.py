"""Few steps: what the base reaches in four, with and without a distilled LoRA, beside as many as its workflow has."""

from __future__ import annotations

from pathlib import Path

from ...comfyui_api.graphs import load_workflow, set_inputs
from ...evaluation.statistics import Rate, mean
from ...place import ROOT
from ...tables import markdown_table
from ...training.errors import TrainingError
from ..build import FEW_STEPS
from ..evaluate import evaluate, to_json
from ..kept import graph_clips
from ..strict import MEASURES, Strictness, values_of
from .base import LEAST
from .graphs import add_lora_file, sampling_of, with_lora, workflow_path, workflow_weights
from .parts import Goal, Settings

NAME, TITLE, SAMPLES = "few_steps", "Four steps", 48
WORKFLOW = "lavie_nano_text_to_video"
LORA = ROOT / "weights" / "loras" / FEW_STEPS
LCM = {"steps": 4, "cfg": 1.0, "sampler_name": "lcm"}
WAYS = {  # what is changed of the workflow
    "many": {}, "few": {"steps": 4}, "lcm": LCM, "distilled": LCM,
}  # fmt: skip
HELD = {"few": "four steps", "distilled": "four steps, half the work, LoRA"}  # ways with goals
LEAST_PART = 0.95  # of what many steps reach
TEXT = """\
`{workflow}.json` as it is, {steps} Euler steps at guidance {cfg:g}; with four of these; and with four steps of the
sampler lcm at guidance 1, which is one evaluation of the network a step in the place of two, without a LoRA and with
`{lora}`, distilled by the recipe `nano_distill`. {samples} clips of held-out captions each, the
same captions and seeds.
"""


def weights() -> list[Path]:
    """The files that are measured."""
    if not LORA.exists():
        raise TrainingError(f"there is no {LORA} to measure; the recipe nano_distill makes it")
    return [*workflow_weights(WORKFLOW), LORA]


def measure(server, settings: Settings) -> dict:
    """Of each way, what `evaluate` gives."""
    found = {}
    add_lora_file(server, LORA)
    plain = load_workflow(workflow_path(WORKFLOW), server.object_info())
    for way, changed in WAYS.items():
        api = set_inputs(plain, **{**settings.inputs, **changed})
        api = with_lora(api, LORA.name) if way == "distilled" else api
        generate = graph_clips(server, f"{WORKFLOW}_{way}", api, settings.clips)
        seen = to_json(evaluate(generate, settings.samples, settings.seed))
        found[way] = {"rates": seen["rates"], "strict": [sample["strict"] for sample in seen["samples"]]}
    return {"sampling": sampling_of(server, WORKFLOW, **settings.inputs), "ways": found}


def tell(result: dict) -> str:
    """The rates and the strict measures of each way."""
    rows = [[many.name, *(rate.estimate.text(3) for rate in (many, *others))] for many, *others in _rates(result)]
    for field, words in _measured(result).items():
        rows.append([words, *(mean(_strict(result, way, field)).text(3) for way in WAYS)])
    steps, cfg = (result["sampling"][name] for name in ("steps", "cfg"))
    rows.append(["evaluations of the network", 2 * steps, 2 * WAYS["few"]["steps"], *[LCM["steps"]] * 2])
    heads = ["measured", f"{steps} steps", "four steps", "four steps, lcm", "with the LoRA"]
    samples = len(result["ways"]["many"]["strict"])
    intro = TEXT.format(workflow=WORKFLOW, steps=steps, cfg=cfg, lora=LORA.name, samples=samples)
    return f"{intro}\n{markdown_table(heads, rows)}\n"


def goals(result: dict) -> list[Goal]:
    """Each figure that the base is held to, in parts of what many steps reach."""
    values = [(rates[0].name, [rate.rate for rate in rates]) for rates in _rates(result) if rates[0].name in LEAST]
    for field, words in _measured(result).items():
        values.append((words, [mean(_strict(result, way, field)).value for way in WAYS]))
    found = [(what, name, dict(zip(WAYS, of_ways, strict=True)), way)
             for way, what in HELD.items() for name, of_ways in values]  # fmt: skip
    return [
        Goal(f"{what}: {name}, at least {LEAST_PART:g} of all steps' ({by_way['many']:.3f})", f"{by_way[way]:.3f}",
             by_way[way] >= LEAST_PART * by_way["many"])
        for what, name, by_way, way in found
    ]  # fmt: skip


def _rates(result: dict) -> list[tuple[Rate, ...]]:
    """Those of every way for every question that some clip answers."""
    ways = ([Rate(r["name"], r["successes"], r["count"]) for r in result["ways"][way]["rates"]] for way in WAYS)
    return [rates for rates in zip(*ways, strict=True) if rates[0].count]


def _measured(result: dict) -> dict[str, str]:
    """Those of MEASURES that some clip has: of few clips none may have a heading."""
    return {field: words for field, words in MEASURES.items() if all(_strict(result, way, field) for way in WAYS)}


def _strict(result: dict, way: str, field: str) -> list[float]:
    return values_of([Strictness(**clip) for clip in result["ways"][way]["strict"]], field)
