"""The catalogue: what `prepare` found usable and what it did not, in one folder.

Contract: `catalogue.jsonl` has one usable item a line, `skipped.jsonl` what was left out and why, and `catalogue.json`,
written last, version, counts and fingerprint. Reading recomputes the fingerprint, so a damaged catalogue is recognised.
The fingerprint changes with any item, caption, mark or content of a file, not with places and times of files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .errors import DataError

VERSION = 1
PREPARE = "python -P -m comfyui_lavie.datasets prepare"
KINDS = ("video", "image")
PLACE = ("path", "offset", "bytes")  # of a locator: where something lies; the rest says what it is
DUPLICATES = "duplicates"  # of a locator: the name of the near-duplicates that it belongs to
MIXED_RATES = 1.05  # 24 and 25 frames per second are alike, 24 and 30 are not


@dataclass(frozen=True)
class Item:
    """One usable video or image.

    Attributes:
        key: unique, stable name, shown to people. kind: "video" or "image".
        frames, fps, width, height: as probed, turned upright; images have one frame and 0 frames per second.
        locator: how its source reads it again; JSON. "path" is where it lies, the rest what it is.
        repeats: how often a round of a training has it.
    """

    key: str
    kind: str
    caption: str
    frames: int
    fps: float
    width: int
    height: int
    locator: dict[str, Any]
    repeats: int = 1

    @cached_property
    def identity(self) -> str:
        """12 hexadecimal digits that change when the file does, not when it is moved or captioned anew."""
        facts = {name: value for name, value in self.locator.items() if name not in (*PLACE, DUPLICATES)}
        return digest([facts, self.frames, self.fps, self.width, self.height])[:12]


@dataclass(frozen=True)
class Skipped:
    """Something that cannot be trained on, and why: the kind of reason, then its details after a ":" or in brackets."""

    key: str
    reason: str


@dataclass(frozen=True)
class Catalogue:
    """Usable items and skipped ones; keys of items are unique."""

    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of(cls, items: Iterable[Item], skipped: Iterable[Skipped] = ()) -> Catalogue:
        """Make keys unique: an item listed twice is skipped, another one of the same name gets "#2", "#3", ..."""
        kept: dict[str, Item] = {}
        copies: dict[str, list[Item]] = {}
        skipped = list(skipped)
        for item in items:
            same = copies.setdefault(item.key, [])
            if any(item == other for other in same):
                skipped.append(Skipped(item.key, "listed twice with the same caption"))
                continue
            same.append(item)
            key, number = item.key, len(same)
            while key in kept:
                key, number = f"{item.key}#{number}", number + 1
            kept[key] = item if key == item.key else replace(item, key=key)
        return cls(tuple(kept.values()), tuple(skipped))

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that name this set of items."""
        whole = hashlib.sha256()
        for item in self.items:
            mark = [item.locator[DUPLICATES]] if DUPLICATES in item.locator else []
            whole.update(digest([item.key, item.kind, item.caption, item.identity, *mark]).encode())
        return whole.hexdigest()

    @cached_property
    def mixed_rates(self) -> tuple[float, float] | None:
        """The lowest and highest frames per second of its videos, if they are so far apart that it shows."""
        rates = [item.fps for item in self.items if item.fps]
        mixed = bool(rates) and max(rates) > MIXED_RATES * min(rates)
        return (min(rates), max(rates)) if mixed else None

    def save(self, folder: str | Path) -> None:
        """Write the folder; the file that makes it valid comes last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "catalogue.json").unlink(missing_ok=True)
        for name, entries in (("catalogue.jsonl", self.items), ("skipped.jsonl", self.skipped)):
            lines = (json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries)
            write_atomically(folder / name, lines)
        about = {"version": VERSION, "items": len(self.items), "skipped": len(self.skipped)}
        write_atomically(folder / "catalogue.json", [json.dumps({**about, "fingerprint": self.fingerprint}, indent=1)])

    @classmethod
    def load(cls, folder: str | Path) -> Catalogue:
        """Read the folder. Raises DataError if it is missing, unfinished, damaged or of another version."""
        folder = Path(folder)
        again = f"make it with {PREPARE} --out {folder}"
        try:
            about = json.loads((folder / "catalogue.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{folder} holds no finished catalogue (catalogue.json is missing); {again}") from None
        except ValueError as error:
            raise DataError(f"{folder}/catalogue.json is damaged ({error}); {again}") from None
        if not isinstance(about, dict) or about.get("version") != VERSION:
            version = about.get("version") if isinstance(about, dict) else None
            raise DataError(f"{folder} is a catalogue of version {version}; expected version {VERSION}; {again}")
        try:
            items = tuple(Item(**entry) for entry in _lines(folder / "catalogue.jsonl"))
            skipped = tuple(Skipped(**entry) for entry in _lines(folder / "skipped.jsonl"))
            catalogue = cls(items, skipped)
            right = catalogue.fingerprint == about["fingerprint"] and len(skipped) == about["skipped"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"the catalogue {folder} is damaged ({error}); {again}") from None
        if any("path" in item.locator and "content" not in item.locator for item in items):
            raise DataError(f"the catalogue {folder} knows files by their times, as earlier versions did; {again}")
        if not right:
            raise DataError(f"the catalogue {folder} is damaged: its fingerprint is not that of its items; {again}")
        return catalogue

    @classmethod
    def load_all(cls, folders: Iterable[str | Path], repeats: Sequence[int] = ()) -> Catalogue:
        """Several catalogues as one; ``repeats``: of each catalogue's items."""
        parts = [cls.load(folder) for folder in folders]
        items = [
            replace(item, repeats=count) if repeats else item
            for part, count in zip(parts, repeats or [1] * len(parts), strict=True) for item in part.items
        ]  # fmt: skip
        return cls.of(items, [skip for part in parts for skip in part.skipped])

    def split(self, heldout: int) -> tuple[Catalogue, Catalogue]:
        """(train, held-out): `heldout` items of each kind that is there are kept back, chosen by a hash of their keys.

        What shows the same stays together (see `group_alike`), so a few more may be kept back. Raises DataError if that
        leaves nothing of a kind to train on.
        """
        names = group_alike(self.items)
        apart: set[str] = set()
        for kind in KINDS:
            groups: dict[str, list[str]] = {}
            for item in self.items:
                if item.kind == kind:
                    groups.setdefault(names[item.key], []).append(item.key)
            kept = 0
            for name in sorted(groups, key=digest):
                if kept >= heldout:
                    break
                apart.update(groups[name])
                kept += len(groups[name])
            if groups and kept >= sum(map(len, groups.values())) and heldout:
                raise DataError(f"heldout = {heldout} leaves no {kind} to train on: the catalogue has {kept}")
        return tuple(
            Catalogue(tuple(item for item in self.items if (item.key in apart) == keep), self.skipped)
            for keep in (False, True)
        )


def group_alike(items: Iterable[Item]) -> dict[str, str]:
    """{key: name of its group}. One group: parts and captions of one file, however it is named or linked to; files of
    equal content; and what the dataset builder marks as near-duplicates."""
    first: dict[tuple, str] = {}
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for item in items:
        name = item.key.split("#")[0]
        parent.setdefault(name, name)
        parent.setdefault(item.key, name)
        locator = item.locator
        marks = [("file", locator["path"])] if "path" in locator and locator["source"] == "file" else []
        marks += [(mark, locator[mark]) for mark in ("content", DUPLICATES) if locator.get(mark) is not None]
        for mark in marks:
            one, other = sorted((find(item.key), find(first.setdefault(mark, item.key))))
            parent[other] = one  # the first name in order, so that the order of items does not matter
    return {item.key: find(item.key) for item in items}


def _lines(path: Path) -> Iterable[dict]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def digest(value) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
