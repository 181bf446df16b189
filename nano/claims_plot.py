"""The plots of `claims`: what is forgotten over the steps of fine-tuning, and losses.

Contract: of finished, measured runs, the image model first, as `claims_page`; lines are of variants, their seeds
together.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from ..evaluation.statistics import Estimate, Rate, student_mean
from .claims_measure import Run, knowledge, measured, records
from .claims_page import QUESTIONS
from .plots import write_lines

UNKNOWN = Estimate(*[float("nan")] * 3)
LOSSES = 6  # of claim 1, means of as many parts of a training


def plot(runs: list[Run], sampling_steps: int, path: Path) -> None:
    """`path` about claim 2, and beside it one named `_losses` about claim 1."""
    watched = by_variant([run for run in runs if run.recipe.samples.prompts])
    steps = sorted(knowledge(next(iter(watched.values()))[0]))
    begun = {question.name: question.rate(measured(runs[0], sampling_steps)).estimate for question in QUESTIONS[2]}
    panels = {
        word: {name: [begun[f"never in videos: {word}"], *(shown(word, step, seeds) for step in steps)]
               for name, seeds in watched.items()}
        for word in ("colour", "thing", "background")
    }  # fmt: skip
    panels["loss"] = {name: [UNKNOWN, *losses(seeds, steps)] for name, seeds in watched.items()}
    write_lines(path, panels, "steps", [0, *steps])
    first = by_variant([run for run in runs if run.claim == 1])
    total = runs[-1].recipe.run.steps
    parts = sorted({total * i // LOSSES for i in range(1, LOSSES + 1)} - {0})
    lines = {name: [UNKNOWN, *losses(seeds, parts)] for name, seeds in first.items()}
    write_lines(path.with_stem(f"{path.stem}_losses"), {"loss": lines}, "steps", [0, *parts])


def by_variant(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by the name of their variant."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found


def shown(word: str, step: int, runs: list[Run]) -> Estimate:
    """How often a kind of word was shown at a step, the runs together."""
    prompts = sum((run.recipe.samples.prompts for run in runs), ())
    count = sum(word != "background" or word in prompt for prompt in prompts)
    rate = fmean(knowledge(run)[step][word] for run in runs)
    return Rate(word, round(rate * count), count).estimate


def losses(runs: list[Run], steps: list[int]) -> list[Estimate]:
    """The mean loss on clips up to each of the steps since the one before, over runs."""
    return [student_mean([fmean(_losses(run)[begin:end]) for run in runs])
            for begin, end in zip([0, *steps], steps, strict=False)]  # fmt: skip


def _losses(run: Run) -> list[float]:
    return [row["video"] for row in records(run) if "video" in row]
