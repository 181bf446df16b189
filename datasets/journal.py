"""What `prepare` has looked into so far, line by line, so that it need not look twice."""

from __future__ import annotations

import json
from pathlib import Path

from .catalogue import PLACE, Item, digest
from .sources import Entry

VERSION = 2


class Journal:
    """Facts about files by their content, wherever they lie, and the thoroughness of the look.

    Only what was readable is noted. A line cut short by a kill is ignored.
    """

    def __init__(self, path: Path, decode: bool):
        self._path, self._decode = path, decode
        self._facts: dict[str, dict] = {}

    def __enter__(self) -> Journal:
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                self._facts.update([json.loads(line)])
            except (ValueError, TypeError):
                continue
        self._file = self._path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def known(self, entry: Entry) -> Item | None:
        """The item that the entry turned out to be, if it was looked into before and has not changed since."""
        facts = self._facts.get(self._name(entry))
        if not facts:
            return None
        facts = dict(facts)
        locator = entry.locator | facts.pop("found")
        return Item(entry.key, entry.kind, entry.caption, **facts, locator=locator)

    def add(self, entry: Entry, item: Item) -> None:
        """Note what was found; once per entry."""
        name = self._name(entry)
        if name not in self._facts:
            self._facts[name] = {
                "frames": item.frames, "fps": item.fps, "width": item.width, "height": item.height,
                "found": {name: item.locator[name] for name in item.locator.keys() - entry.locator.keys()},
            }  # fmt: skip
            self._file.write(json.dumps([name, self._facts[name]]) + "\n")
            self._file.flush()

    def _name(self, entry: Entry) -> str:
        facts = {name: value for name, value in entry.locator.items() if name not in PLACE}
        return digest([VERSION, entry.kind, facts, self._decode])[:32]
