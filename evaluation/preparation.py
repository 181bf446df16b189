"""Before anything is measured: which metrics can be, which clips are usable, which reference belongs to which clip.

Contract: everything that is wrong is found here and told at once, so that no hours are lost to the last of many clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .clips import probe_clip
from .errors import EvaluationError
from .manifest import MANIFEST, ClipRecord, clips_in, content_digest, of_clip, read
from .measurements import Measured
from .metrics import METRICS
from .metrics.base import Setup

SHOWN = 20  # faults in one message


@dataclass(frozen=True)
class Choice:
    """Metrics to measure, and those that cannot be: {name: why}. weights: {metric: {file: SHA-256}}."""

    names: tuple[str, ...]
    missing: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, str]] = field(default_factory=dict)

    def about(self, name: str, setup: Setup, key: str = "") -> dict[str, Any]:
        """What `Measured` says of a metric besides numbers."""
        metric = METRICS[name]
        return {
            "name": name, "title": metric.title, "better": metric.better, "digits": metric.digits, "rate": metric.rate,
            "protocol": protocol_of(name, setup), "protocol_id": key, "weights": self.weights.get(name, {}),
        }  # fmt: skip

    def not_measured(self, name: str, setup: Setup) -> Measured:
        """The entry of a metric that is missing."""
        return Measured(**self.about(name, setup), reason=self.missing[name])


def protocol_of(name: str, setup: Setup) -> str:
    """A metric's protocol in words, with what was set."""
    borders = ", ".join(map(str, setup.borders)) or "none given"
    return METRICS[name].protocol.format(frames=setup.frames, borders=borders)


def choose(asked: Sequence[str] | None, setup: Setup, given: Sequence[str]) -> Choice:
    """The metrics that are asked for, or all that can be measured.

    given: which of "prompt", "reference", "real" there are. Raises EvaluationError if what is asked for is unknown or
    cannot be measured, naming all that is missing and where to get it.
    """
    if unknown := [name for name in asked or () if name not in METRICS]:
        raise EvaluationError(f"unknown metrics {', '.join(unknown)}; there are {', '.join(METRICS)}")
    missing = {name: why for name in asked or METRICS if (why := _obstacle(name, setup, given))}
    if asked and missing:
        lines = [f"{name}: {why}" for name, why in missing.items()]
        raise EvaluationError("what is asked for cannot be measured\n" + "\n".join(lines))
    names = tuple(name for name in asked or METRICS if name not in missing)
    digests: dict[Path, str] = {}
    for file in {file for name in names for file in METRICS[name].needs}:
        digests[setup.path(file)] = content_digest(setup.path(file))
    weights = {name: {file.name: digests[setup.path(file)] for file in METRICS[name].needs} for name in names}
    return Choice(names, missing, weights)


def _obstacle(name: str, setup: Setup, given: Sequence[str]) -> str:
    """Why a metric cannot be measured; "" if it can."""
    metric = METRICS[name]
    found = [
        f"file missing: {file.name}, {file.source}; put it into the folder of --weights"
        for file in metric.needs if setup.weights is None or not (setup.weights / file.name).exists()
    ]  # fmt: skip
    for kind, words in (
        ("prompt", "no prompts: the clips have no manifest"),
        ("reference", "no --references given"),
        ("real", "no --real given"),
    ):
        if getattr(metric, kind) and kind not in given:
            found.append(words)
    if metric.borders and not setup.borders:
        found.append("no --borders given")
    return "; ".join(found)


def usable(
    folder: Path, count: int | None = None, lenient: bool = False, least: int = 1
) -> tuple[list[ClipRecord], dict[str, str]]:
    """(the clips of a folder that can be measured, {file: why} of those that cannot).

    Args:
        count: how many there must be. lenient: leave unusable clips out, and take clips of several sizes and lengths.
        least: frames that a clip must have.

    Raises EvaluationError for another count, and unless `lenient`, for anything unusable or uneven; for no clip at all.
    """
    listed = (folder / MANIFEST).exists()
    records, faults = [], {}
    for entry in read(folder) if listed else clips_in(folder):
        try:
            records.append(_checked(folder, entry, least) if listed else _long_enough(of_clip(entry), least))
        except EvaluationError as error:
            faults[entry.file if listed else entry.name] = str(error)
    found = len(records) + len(faults)
    if count is not None and found != count:
        raise EvaluationError(f"{folder}: expected {count} clips (--count), got {found}; generate the rest")
    if faults and not lenient:
        raise EvaluationError(_listed(f"{folder}: {len(faults)} of {found} clips cannot be measured", faults))
    if not records:
        raise EvaluationError(_listed(f"{folder}: no clip can be measured", faults))
    kinds = Counter(f"{r.frames} frames of {r.width} x {r.height}" for r in records)
    if len(kinds) > 1 and not lenient:
        several = {kind: f"{number} clips" for kind, number in kinds.most_common()}
        raise EvaluationError(_listed(f"{folder}: clips of several lengths or sizes; --lenient takes them", several))
    return records, faults


def pairs_of(records: list[ClipRecord], folder: Path) -> dict[str, Path]:
    """{file of a clip: its reference}, of the same name without what follows the last point.

    Raises EvaluationError listing clips whose reference is not there, or has another length or size.
    """
    places = {path.stem if path.is_file() else path.name: path for path in clips_in(folder)}
    pairs, faults = {}, {}
    for record in records:
        name = Path(record.file).name
        place = places.get(Path(name).stem) or places.get(name)
        if place is None:
            faults[record.file] = "no reference of this name"
            continue
        shape = probe_clip(place)[:3]
        if shape != (record.frames, record.width, record.height):
            own = record.frames, record.width, record.height
            faults[record.file] = f"it has frames, width, height {own}, its reference {shape}"
        pairs[record.file] = place
    if faults:
        raise EvaluationError(_listed(f"{folder}: {len(faults)} of {len(records)} references do not fit", faults))
    return pairs


def _checked(folder: Path, record: ClipRecord, least: int) -> ClipRecord:
    """A manifest's record whose file is what it says."""
    path = folder / record.file
    if not path.exists():
        raise EvaluationError("there is no such file")
    frames, width, height, _ = probe_clip(path)
    if (frames, width, height) != (record.frames, record.width, record.height):
        told = f"{record.frames} frames of {record.width} x {record.height}"
        raise EvaluationError(f"the manifest says {told}, the file has {frames} of {width} x {height}")
    return _long_enough(replace(record), least)


def _long_enough(record: ClipRecord, least: int) -> ClipRecord:
    if record.frames < least:
        raise EvaluationError(f"{record.frames} frames; expected {least} at least")
    return record


def _listed(head: str, lines: dict[str, str]) -> str:
    shown = [f"  {name}: {why}" for name, why in list(lines.items())[:SHOWN]]
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([head, *shown, *more])
