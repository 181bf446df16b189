"""The manifest: what each clip of a folder is, and how it was made. It parts generating from measuring.

Contract: `manifest.jsonl` lies beside the clips and has one JSON object a line, a `ClipRecord`. One process appends;
any number may read. A line is whole or, if its writer was killed, the last and without a newline: readers leave such a
line out and say so, the next append cuts it off, and its clip is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import types
from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, get_origin, get_type_hints

from ..files import sha256_of, write_atomically
from .clips import CLIP_SUFFIXES, is_clip, probe_clip
from .errors import EvaluationError

log = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class ClipRecord:
    """One clip. None, an empty text or an empty mapping stands for "not known", as in clips that others made.

    Attributes:
        id: content key, unique in a manifest: changes with anything that changes the clip.
        file: path relative to the manifest's folder, with "/": a video file, or a folder of PNG pictures.
        prompt, seed: what the sampler was given.
        set, index: name of the prompt set, and which sample of this prompt it is, from 0.
        tags: what the prompt set says of the prompt, such as VBench's dimensions or a UCF-101 class.
        workflow, workflow_digest: file name, and SHA-256 of the graph as it was queued, prompt and seed left out.
        weights: {file name: SHA-256} of every model file that the graph loads.
        versions: {"comfyui", "pack", "torch"}.
        sampling: sampler settings found in the graph, such as steps, cfg, sampler_name, scheduler.
        fps: frames per second at which the clip is meant to play.
        seconds: time that making it took. made: when, ISO 8601, UTC.
    """

    id: str
    file: str
    prompt: str | None
    seed: int | None
    frames: int
    width: int
    height: int
    fps: float
    set: str = ""
    index: int = 0
    tags: tuple[str, ...] = ()
    workflow: str = ""
    workflow_digest: str = ""
    weights: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    made: str = ""


def append(folder: Path, record: ClipRecord) -> None:
    """Add one line and make it durable. What a killed writer left of a line is cut off first."""
    with (folder / MANIFEST).open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(_line(record).encode())
        file.flush()
        os.fsync(file.fileno())


def rewrite(folder: Path, records: Iterable[ClipRecord]) -> None:
    """Put these records in place of those that are there; whole or not at all."""
    write_atomically(folder / MANIFEST, map(_line, records))


def read(folder: Path) -> list[ClipRecord]:
    """The records of a folder, in the order they were written; raises EvaluationError naming line and fault."""
    path = folder / MANIFEST
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}") from None
    if lines.pop():
        log.warning("%s: the last line was cut short and is left out; its clip counts as not made", path)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(parse(json.loads(line)))
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number}: {error}. Mend or delete the line") from None
    for name in ("id", "file"):
        value, count = Counter(getattr(record, name) for record in records).most_common(1)[0] if records else ("", 1)
        if count > 1:
            raise EvaluationError(f"{path}: {count} lines have the {name} {value}. Keep one of them")
    return records


def parse(values: Any) -> ClipRecord:
    """A record from what JSON holds. Raises EvaluationError for missing, unknown and wrong fields."""
    if not isinstance(values, dict):
        raise EvaluationError(f"expected an object, got {type(values).__name__}")
    hints = get_type_hints(ClipRecord)
    if unknown := sorted(values.keys() - hints.keys()):
        raise EvaluationError(f"unknown fields {', '.join(unknown)}")
    if isinstance(values.get("tags"), list):
        values = {**values, "tags": tuple(values["tags"])}
    try:
        record = ClipRecord(**values)
    except TypeError:
        needed = [f.name for f in fields(ClipRecord) if f.default is f.default_factory is MISSING]
        needed = [name for name in needed if name not in values]
        raise EvaluationError(f"missing fields {', '.join(needed)}") from None
    for name, value in vars(record).items():
        kind = hints[name] if isinstance(hints[name], types.UnionType) else get_origin(hints[name]) or hints[name]
        number = isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, kind) or (number and name in ("fps", "seconds"))) or isinstance(value, bool):
            raise EvaluationError(f"{name}: expected {kind}, got {value!r}")
    place = PurePosixPath(record.file)
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise EvaluationError(f"file: expected a path inside the manifest's folder, got {record.file!r}")
    return record


def of_clip(path: Path) -> ClipRecord:
    """The record of a clip of which nothing is known. Raises EvaluationError if it cannot be read."""
    return ClipRecord(content_digest(path), path.name, None, None, *probe_clip(path))


def clips_in(folder: Path) -> list[Path]:
    """The clips that lie in a folder, by name. Raises EvaluationError if there are none."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no folder; expected one of clips, with or without {MANIFEST}")
    places = [path for path in sorted(folder.iterdir()) if is_clip(path)]
    if not places:
        raise EvaluationError(f"{folder} holds no clips: no folders of PNG pictures, no {', '.join(CLIP_SUFFIXES)}")
    return places


def content_digest(path: Path) -> str:
    """64 hexadecimal digits of a file's content, or of the names and contents of all files of a folder."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(record: ClipRecord) -> str:
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"
