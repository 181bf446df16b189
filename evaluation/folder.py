"""A folder of clips while it is generated into: what is there, and one clip more.

Contract: a clip's line is added to the manifest after its file is whole. A folder holds the clips of one workflow with
one set of weights in one format.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..comfyui_api.clips import MadeClip
from ..datasets.video import encode_video
from . import manifest
from .clips import probe_clip, write_clip
from .errors import EvaluationError
from .jobs import FORMATS, Job
from .manifest import ClipRecord
from .workflow import Workflow

log = logging.getLogger(__name__)


def keep(clip: MadeClip, path: Path, content: str, job: Job, workflow: Workflow, set_name: str) -> ClipRecord:
    """Write a clip, then its line in the manifest of its folder."""
    if path.suffix == FORMATS["mp4"]:
        write_mp4(clip.frames, path, workflow.fps)
    else:
        write_clip(clip.frames, path, workflow.fps)
    frames, width, height, _ = probe_clip(path)
    record = ClipRecord(
        id=content, file=path.name, prompt=job.prompt.text, seed=job.seed, frames=frames, width=width, height=height,
        fps=workflow.fps, set=set_name, index=job.index, tags=job.prompt.tags, workflow=workflow.name,
        workflow_digest=workflow.digest, weights=workflow.weights, versions=workflow.versions,
        sampling=workflow.sampling, seconds=round(clip.seconds, 3),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip
    manifest.append(path.parent, record)
    return record


def write_mp4(frames: np.ndarray, path: Path, fps: float) -> None:
    """H.264, for what reads nothing else; whole or not there at all."""
    partial_path = path.with_name(f".{path.name}")
    try:
        encode_video(frames, partial_path, Fraction(fps).limit_denominator(1001))
        os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)


def records_in(folder: Path, workflow: Workflow, suffix: str) -> dict[str, ClipRecord]:
    """{content id: record} of the clips that are there; entries whose files are gone are taken out of the manifest.

    Raises EvaluationError if the folder's clips are of another workflow, other weights or another format.
    """
    records = manifest.read(folder) if (folder / manifest.MANIFEST).exists() else []
    for record in records:
        ours = (workflow.digest, workflow.weights, suffix)
        theirs = (record.workflow_digest, record.weights, Path(record.file).suffix)
        if ours != theirs:
            what = next(w for w, a, b in zip(("workflow", "weights", "format"), ours, theirs, strict=True) if a != b)
            raise EvaluationError(
                f"{folder} holds clips of another {what} ({record.file}, by {record.workflow}). Choose another --out; "
                "a folder is measured as one"
            )
    there = [record for record in records if (folder / record.file).exists()]
    if lost := len(records) - len(there):
        log.warning("%s: the files of %d clips are gone; those that are asked for are made anew", folder, lost)
        manifest.rewrite(folder, there)
    return {record.id: record for record in there}


def check_names(folder: Path, done: Mapping[str, ClipRecord], files: Mapping[str, str]) -> None:
    """Raise EvaluationError if clips bear other names than `files`, {content id: name}, or one that is wanted."""
    holders = {record.file: content for content, record in done.items()}
    for content, file in files.items():
        if content in done and done[content].file != file:
            raise EvaluationError(
                f"{folder} has the clip {file} under the name {done[content].file}. Choose another --out, or --names "
                "as before"
            )
        if holders.get(file, content) != content:
            raise EvaluationError(
                f"{folder} has another clip under the name {file}, with seed {done[holders[file]].seed}. Choose "
                "another --out, or --seed as before"
            )
