"""What a run's folder tells about the data that it learned from, and what was decided about it since.

Contract: `data.jsonl` has a line per item, [key, digest of identity and caption]; `notes.jsonl` a line per decision. A
change of the data is told by the names of the items that differ.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..datasets.catalogue import Catalogue, digest
from ..files import write_atomically

DATA, NOTES = "data.jsonl", "notes.jsonl"
NAMED = 10


def save_data_record(folder: Path, catalogue: Catalogue) -> None:
    """Write what a run learns from."""
    write_atomically(folder / DATA, (json.dumps(line) + "\n" for line in _digests(catalogue).items()))


def describe_change(folder: Path, catalogue: Catalogue) -> str:
    """What differs between a run's record and a catalogue."""
    path = folder / DATA
    if not path.exists():
        return "the run has no record of its items"
    then = dict(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    now = _digests(catalogue)
    found = {
        "changed": [key for key in now if key in then and now[key] != then[key]],
        "new": [key for key in now if key not in then],
        "gone": [key for key in then if key not in now],
    }
    return "; ".join(_name(word, keys) for word, keys in found.items() if keys) or "only the order of its items differs"


def note(folder: Path, step: int, text: str, data: str) -> None:
    """Add a decision to the run's record; ``data``: fingerprint of what it accepts."""
    about = {"step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S"), "note": text, "data": data}
    with (folder / NOTES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(about) + "\n")


def was_accepted(folder: Path, data: str) -> bool:
    """Whether a note accepts data of this fingerprint."""
    path = folder / NOTES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    return any(json.loads(line)["data"] == data for line in lines)


def _digests(catalogue: Catalogue) -> dict[str, str]:
    return {item.key: digest([item.identity, item.caption])[:12] for item in catalogue.items}


def _name(word: str, keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"{len(keys)} {word}: {', '.join(keys[:NAMED])}{more}"
