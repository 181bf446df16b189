"""How long a generation will take, told before it is begun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from .errors import EvaluationError
from .manifest import ClipRecord

GPUS = (1, 2, 4, 8, 16, 32, 64)


def seconds_per_clip(records: Sequence[ClipRecord], given: float | None) -> tuple[float, str]:
    """(seconds, where they are from): as given, else the median of the clips that are there. Raises EvaluationError."""
    measured = [record.seconds for record in records if record.seconds is not None]
    if given is not None:
        return given, "as given by --seconds"
    if not measured:
        raise EvaluationError(
            "a plan needs the seconds that a clip takes: make a few first (--limit 2 --samples 2, without --plan, into "
            "the same --out), or say how many with --seconds"
        )
    return median(measured), f"median of the {len(measured)} clips in --out"


def plan(prompts: int, clips: int, done: int, seconds: float, source: str) -> str:
    """The prediction as text: GPU hours, and hours for each number of GPUs in GPUS. Starting servers is not in it."""
    left = clips - done
    lines = [
        f"{prompts} prompts, {clips} clips, {done} of them made, {left} left",
        f"{seconds:.2f} s per clip on one GPU, {source}",
        f"{left * seconds / 3600:.1f} GPU hours",
        "",
        "| GPUs | hours |",
        "|---:|---:|",
    ]
    lines += [f"| {gpus} | {math.ceil(left / gpus) * seconds / 3600:.2f} |" for gpus in GPUS]
    return "\n".join(lines)
