"""What was measured, on disk: numbers of clips line by line, and what they are, at the end.

Contract: `measured.jsonl` has a line for each clip and metric, written as soon as it is known, so that a stopped
command goes on where it was; a line holds under its protocol's id alone. `measurements.json` is written last and says
what the numbers are: protocols in words, digests of weights, counts, numbers of whole sets, and what was not measured
and why.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically
from .errors import EvaluationError
from .manifest import ClipRecord, parse
from .metrics.base import SetValue
from .statistics import Estimate

LINES, SUMMARY, TABLE = "measured.jsonl", "measurements.json", "measured.parquet"


@dataclass(frozen=True)
class Measured:
    """One metric of a run.

    Attributes:
        protocol: in words. protocol_id: 12 digits that change with words, weights, and what clips were compared with.
        weights: {file name: SHA-256}. reason: why it was not measured; "" if it was.
        values: of the clips, in their order, None where there was nothing to measure. of_set: of all of them.
    """

    name: str
    title: str
    better: str
    protocol: str
    protocol_id: str
    digits: int = 3
    rate: bool = False
    weights: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    values: tuple[float | None, ...] = ()
    of_set: SetValue | None = None


@dataclass(frozen=True)
class Measurements:
    """All of a run: clips, metrics, what was set, versions of what measured, and clips that were left out and why."""

    clips: tuple[ClipRecord, ...]
    metrics: tuple[Measured, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    left_out: dict[str, str]
    made: str
    imported: dict[str, float] = field(default_factory=dict)  # VBench's scores of its dimensions

    def save(self, folder: Path) -> None:
        """Write the summary, and the numbers of clips as a Parquet table."""
        write_atomically(folder / SUMMARY, [json.dumps(asdict(self), ensure_ascii=False, indent=1), "\n"])
        _write_table(self, folder / TABLE)

    @classmethod
    def load(cls, folder: Path) -> Measurements:
        """Read the summary. Raises EvaluationError if it is not there, damaged or of another version."""
        path = folder / SUMMARY
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found["clips"] = tuple(parse(clip) for clip in found["clips"])
            found["metrics"] = tuple(_metric(metric) for metric in found["metrics"])
            return cls(**found)
        except FileNotFoundError:
            raise EvaluationError(f"{folder} has not been measured: there is no {SUMMARY}; run measure first") from None
        except (ValueError, TypeError, KeyError) as error:
            raise EvaluationError(f"{path} is damaged or of another version ({error}); measure again") from None


def protocol_id(*parts: Any) -> str:
    """12 hexadecimal digits of anything that JSON holds."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


class Log:
    """`measured.jsonl` while it is written. Values are numbers, NaN included, or features, float32 (D,)."""

    def __init__(self, folder: Path):
        self._path = folder / LINES
        self._known: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> Log:
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            try:
                found = json.loads(line)
                self._known[found["clip"], found["protocol"]] = _value(found)
            except (ValueError, KeyError, TypeError):
                raise EvaluationError(f"{self._path} is damaged; delete it and measure again") from None
        self._file = self._path.open("ab")
        self._file.truncate(whole)  # a line cut short by a kill
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def get(self, clip: str, protocol: str) -> Any:
        """What is known of a clip under a protocol, or None."""
        return self._known.get((clip, protocol))

    def add(self, clip: str, metric: str, protocol: str, value: float | np.ndarray) -> None:
        """Keep it."""
        self._known[clip, protocol] = value
        line = {"clip": clip, "metric": metric, "protocol": protocol}
        if isinstance(value, np.ndarray):
            line["features"] = base64.b64encode(value.astype("<f4").tobytes()).decode()
        else:
            line["value"] = None if math.isnan(value) else value
        self._file.write((json.dumps(line) + "\n").encode())
        self._file.flush()


def _value(line: dict) -> float | np.ndarray:
    if "features" in line:
        return np.frombuffer(base64.b64decode(line["features"]), "<f4")
    return math.nan if line["value"] is None else line["value"]


def _metric(found: dict) -> Measured:
    of_set = found.pop("of_set")
    if of_set:
        of_set = SetValue(Estimate(**of_set["value"]), of_set["notes"], tuple(of_set["draws"]))
    return Measured(**{**found, "values": tuple(found["values"])}, of_set=of_set)


def _write_table(run: Measurements, path: Path) -> None:
    """A row a clip; a column a metric."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {name: [getattr(clip, name) for clip in run.clips] for name in ("id", "file", "prompt", "seed", "index")}
    values = {metric.name: list(metric.values) for metric in run.metrics if metric.values}
    pq.write_table(pa.table({**about, **values}), path)
