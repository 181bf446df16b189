"""VBench (Huang et al. 2024), whose own package needs an environment of its own: clips go out, scores come in.

Contract: clips are laid out under the names that VBench looks for; its result files are read as it writes them;
quality, semantic and total are its formulas. A total is made of all 16 dimensions or not at all: its own script counts
a missing one as 0.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..datasets.video import encode_video
from .clips import read_clip
from .errors import EvaluationError
from .manifest import ClipRecord

LONGEST_NAME = 255  # bytes, on all common file systems


@dataclass(frozen=True)
class Dimension:
    """How a score enters its group: normalised from low .. high to 0 .. 1, times weight."""

    group: str
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0


DIMENSIONS = {  # VBench, scripts/constant.py
    "subject_consistency": Dimension("quality", 0.1462),
    "background_consistency": Dimension("quality", 0.2615),
    "temporal_flickering": Dimension("quality", 0.6293),
    "motion_smoothness": Dimension("quality", 0.706, 0.9975),
    "dynamic_degree": Dimension("quality", weight=0.5),
    "aesthetic_quality": Dimension("quality"),
    "imaging_quality": Dimension("quality"),
    "object_class": Dimension("semantic"),
    "multiple_objects": Dimension("semantic"),
    "human_action": Dimension("semantic"),
    "color": Dimension("semantic"),
    "spatial_relationship": Dimension("semantic"),
    "scene": Dimension("semantic", 0.0, 0.8222),
    "appearance_style": Dimension("semantic", 0.0009, 0.2855),
    "temporal_style": Dimension("semantic", 0.0, 0.364),
    "overall_consistency": Dimension("semantic", 0.0, 0.364),
}
SHARES = {"quality": 4, "semantic": 1}


def summary(scores: dict[str, float]) -> dict[str, float]:
    """{"quality", "semantic", "total"} of scores 0 .. 1; each only if all the dimensions that it needs are there."""
    groups = {}
    for group in SHARES:
        members = {name: d for name, d in DIMENSIONS.items() if d.group == group}
        if members.keys() <= scores.keys():
            parts = [d.weight * (scores[name] - d.low) / (d.high - d.low) for name, d in members.items()]
            groups[group] = sum(parts) / sum(d.weight for d in members.values())
    if groups.keys() == SHARES.keys():
        groups["total"] = sum(share * groups[group] for group, share in SHARES.items()) / sum(SHARES.values())
    return groups


def import_scores(files: list[Path]) -> dict[str, float]:
    """{dimension: score 0 .. 1} of VBench's `*_eval_results.json`. Raises EvaluationError naming file and fault."""
    scores: dict[str, float] = {}
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            read = {name.replace(" ", "_"): float(result[0]) for name, result in found.items()}
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise EvaluationError(f"{file} is no *_eval_results.json of VBench ({error})") from None
        for name, score in read.items():
            if name not in DIMENSIONS or not 0 <= score <= 1:
                raise EvaluationError(f"{file}: expected scores 0 to 1 of {', '.join(DIMENSIONS)}, got {name} {score}")
            if name in scores:
                raise EvaluationError(f"{file}: {name} is in another file, too; give it once")
        scores.update(read)
    return scores


def vbench_name(record: ClipRecord) -> str:
    """`{prompt}-{index}.mp4`. Raises EvaluationError if no file can have that name."""
    if record.prompt is None:
        raise EvaluationError(f"{record.file}: VBench finds clips by their prompts, and this one's is not known")
    name = f"{record.prompt}-{record.index}.mp4"
    if "/" in name or "\0" in name or len(name.encode()) > LONGEST_NAME:
        raise EvaluationError(f"{record.file}: no file can be named {name!r}")
    return name


def export_clips(folder: Path, records: list[ClipRecord], out: Path) -> None:
    """Lay clips out for VBench: `.mp4` is copied, other formats are encoded. Raises EvaluationError before any is."""
    names: dict[str, str] = {}
    for record in records:
        name = vbench_name(record)
        if name in names:
            raise EvaluationError(f"{record.file} and {names[name]} would both be {name!r}; VBench knows one of them")
        names[name] = record.file
    out.mkdir(parents=True, exist_ok=True)
    clashes = len(names) - len({name.casefold() for name in names})
    if clashes and _ignores_case(out):
        raise EvaluationError(f"{out}: {clashes} names differ in case alone, and this file system ignores case")
    for name, record in zip(names, records, strict=True):
        if record.file.endswith(".mp4"):
            shutil.copyfile(folder / record.file, out / name)
        else:
            encode_video(read_clip(folder / record.file), out / name, round(record.fps))


def _ignores_case(folder: Path) -> bool:
    probe = folder / ".lavie-Case"
    probe.touch()
    try:
        return (folder / ".lavie-case").exists()
    finally:
        probe.unlink()
