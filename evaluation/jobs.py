"""What is to be generated: every prompt with its seeds, and the names that the clips bear.

Contract: the seed of sample `index` of prompt `number` is first + SEED_STRIDE * number + index, so that more samples,
or prompts added at the end, leave earlier clips as they are. Names are unique for what a clip is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import EvaluationError
from .prompts import Prompt, PromptSet

SEED_STRIDE = 1000
FORMATS = {"mkv": ".mkv", "png": "", "mp4": ".mp4"}  # endings; without one, a clip is a folder
LONGEST_WORDS = 60  # characters of the prompt in a name
LONGEST_NAME = 255  # bytes; of common file systems

Namer = Callable[["Job", str], str]  # (job, content id) -> file name


@dataclass(frozen=True)
class Job:
    """One clip to be made: sample `index` of a prompt."""

    prompt: Prompt
    index: int
    seed: int


def jobs_of(
    prompts: PromptSet, samples: int, first_seed: int = 0, samples_of: Mapping[str, int] | None = None
) -> list[Job]:
    """`samples` jobs of every distinct prompt, or as many as `samples_of` wants for one of its tags.

    First samples of all prompts come first, so that what is made of a stopped run covers them. Raises EvaluationError.
    """
    chosen = prompts.distinct().prompts
    samples_of = samples_of or {}
    if unknown := sorted(samples_of.keys() - {tag for prompt in chosen for tag in prompt.tags}):
        raise EvaluationError(f"no prompt of {prompts.name} has the tag {', '.join(unknown)}")
    jobs = []
    for number, prompt in enumerate(chosen):
        count = max([samples_of[tag] for tag in prompt.tags if tag in samples_of], default=samples)
        if not 1 <= count <= SEED_STRIDE:
            raise EvaluationError(f"expected 1 to {SEED_STRIDE} samples of a prompt, got {count}")
        jobs += [Job(prompt, index, first_seed + SEED_STRIDE * number + index) for index in range(count)]
    return sorted(jobs, key=lambda job: job.index)


def content_id(job: Job, workflow_digest: str, weights: dict[str, str]) -> str:
    """32 hexadecimal digits that change with anything that changes the clip."""
    parts = [job.prompt.text, job.seed, workflow_digest, weights]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def name_by_content(kind: str) -> Namer:
    """Names of the prompt's first words and the content id, for a format of FORMATS."""

    def name(job: Job, content: str) -> str:
        words = re.sub(r"[^a-z0-9]+", "_", job.prompt.text.lower())[:LONGEST_WORDS].strip("_")
        return f"{words or 'clip'}-{content[:12]}{FORMATS[kind]}"

    return name


def name_for_vbench(job: Job, content: str) -> str:
    """The name by which VBench finds the clips of a prompt."""
    return f"{job.prompt.text}-{job.index}.mp4"


def check_vbench_names(jobs: Sequence[Job], folder: Path) -> None:
    """Raise EvaluationError where names that VBench wants cannot all be files of an existing folder."""
    names = [name_for_vbench(job, "") for job in jobs]
    if bad := [name for name in names if re.search(r'[/\0]' if os.name != "nt" else r'[/\\:*?"<>|\0]', name)]:
        raise EvaluationError(f"VBench names a clip after its prompt, which cannot be a file name: {bad[0]}")
    if long := [name for name in names if len(name.encode()) >= LONGEST_NAME]:
        raise EvaluationError(f"the name is longer than {LONGEST_NAME - 1} bytes: {long[0]}")
    counts = Counter(name.lower() for name in names)
    alike = sorted(name for name in names if counts[name.lower()] > 1)
    if alike and ignores_case(folder):
        raise EvaluationError(
            f"{folder} does not tell upper from lower case, but VBench's prompts do: {alike[0]!r} and {alike[-1]!r} "
            "would be one file. Choose a folder on another file system with --out"
        )


def ignores_case(folder: Path) -> bool:
    """Whether the file system of an existing folder takes names that differ in case for one file."""
    probe = folder / f".lavie-case-{os.getpid()}"
    probe.touch()
    try:
        return probe.with_name(probe.name.upper()).exists()
    finally:
        probe.unlink()
