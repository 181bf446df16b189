"""One file of footage through all stages.

Contract: the results of a stage for a file lie in a fragment, a small Parquet file named by the fingerprint of all that
decides them. What lies there is not computed again, so a stopped run goes on, and a changed setting repeats only the
stages that it concerns. Shots pass in small batches: memory does not grow with the length of a file.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .blueprint import Blueprint
from .catalogue import digest
from .errors import DataError
from .parquet import read_rows, write_rows
from .shots import Shot, read_pixels
from .sources import Entry
from .sources.base import check_unchanged
from .stages import Stage, fingerprint

BATCH = 4  # shots whose pictures are in memory at once, per worker
SKIPPED = "skipped"  # note in a fragment: why its file is not used


@dataclass(frozen=True)
class Footage:
    """A video file that a source names, with all captions that it was given."""

    entry: Entry
    captions: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What became of a file: its rows, or the reason why there are none. seconds, shots: worked, by stage."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: str = ""
    seconds: Counter = field(default_factory=Counter)
    shots: Counter = field(default_factory=Counter)


class Builder:
    """Works on files one at a time in each of its threads; models are shared and set up when first needed."""

    def __init__(
        self, blueprint: Blueprint, folder: Path, device: str = "cpu", chosen: Sequence[Stage] | None = None
    ):  # fmt: skip
        """folder: of the fragments. chosen: stages that run beside the scenes; None: all."""
        self.blueprint, self.folder, self.device = blueprint, folder, device
        self.chosen = blueprint.stages if chosen is None else chosen
        stages = (blueprint.scenes, *blueprint.stages)
        self._settings = {stage.name: fingerprint(stage, blueprint.weights) for stage in stages}
        self._models: dict[str, Any] = {}
        self._locks = {stage.name: threading.Lock() for stage in stages}

    def build(self, footage: Footage) -> Outcome:
        """All shots of a file. Raises OSError if fragments cannot be written, DataError if a stage cannot work."""
        outcome = Outcome()
        prints = self.fingerprints(footage)
        try:
            shots = self._shots(footage, prints["scenes"], outcome)
            if outcome.skipped:
                return outcome
            usable = [shot for shot in shots if not shot.row["unusable"]]
            self._run_stages(usable, prints, outcome)
            check_unchanged(footage.entry.locator)
        except DataError as error:
            return replace(outcome, rows=[], skipped=str(error))
        outcome.rows = [_table_row(shot) for shot in shots]
        return outcome

    def fingerprints(self, footage: Footage) -> dict[str, str]:
        """Of every stage's results for a file."""
        facts = {name: value for name, value in footage.entry.locator.items() if name != "path"}
        scenes = digest([self._settings["scenes"], footage.entry.key, facts])[:40]
        found = {"scenes": scenes, "sidecar": digest(list(footage.captions))}
        for stage in self.blueprint.stages:
            earlier = [scenes, *(found[name] for name in stage.reads)]
            found[stage.name] = digest([self._settings[stage.name], earlier])[:40]
        return found

    def _fragment(self, stage: str, name: str) -> Path:
        return self.folder / stage / name[:2] / f"{name}.parquet"

    def _shots(self, footage: Footage, name: str, outcome: Outcome) -> list[Shot]:
        """All shots of a file, found or remembered; why it is not used is remembered too."""
        path, columns = self._fragment("scenes", name), {"shot": "string"}
        if path.exists():
            rows, notes = read_rows(path)
            outcome.skipped = notes.get(SKIPPED, "")
            return [_shot(footage, json.loads(row["shot"])) for row in rows]
        network = self._set_up(self.blueprint.scenes)
        begun = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shots = self.blueprint.scenes.find_shots(footage.entry, footage.captions, network)
        except DataError as error:
            check_unchanged(footage.entry.locator)  # what is gone or being written may be well next time
            outcome.skipped = str(error)
            write_rows(path, [], columns, {SKIPPED: str(error)}, durable=False)
            return []
        facts = ({"key": s.key, "frames": s.frames, "fps": s.fps, "width": s.width, "height": s.height,
                  "start": s.locator["start"], "end": s.locator["end"], "row": s.row} for s in shots)  # fmt: skip
        write_rows(path, ({"shot": json.dumps(fact)} for fact in facts), columns, durable=False)
        outcome.seconds["scenes"] += time.perf_counter() - begun
        outcome.shots["scenes"] += len(shots)
        return shots

    def _run_stages(self, shots: Sequence[Shot], prints: dict[str, str], outcome: Outcome) -> None:
        """Fill the rows of usable shots: from fragments, and by the stages that have none yet."""
        todo: list[Stage] = []
        for stage in self.blueprint.stages:
            path = self._fragment(stage.name, prints[stage.name])
            if path.exists():
                for shot, row in zip(shots, read_rows(path)[0], strict=True):
                    shot.row.update(row)
            elif stage in self.chosen:
                todo.append(stage)
        for begin in range(0, len(shots), BATCH) if todo else ():
            self._run_batch(shots[begin : begin + BATCH], todo, outcome)
        for stage in todo:
            path = self._fragment(stage.name, prints[stage.name])
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = ({name: shot.row.get(name) for name in stage.columns} for shot in shots)
            write_rows(path, rows, stage.columns, durable=False)

    def _run_batch(self, shots: Sequence[Shot], todo: Sequence[Stage], outcome: Outcome) -> None:
        begun = time.perf_counter()
        seen = [replace(shot, pixels=read_pixels(shot)) for shot in shots]
        outcome.seconds["reading"] += time.perf_counter() - begun
        outcome.shots["reading"] += len(shots)
        for stage in todo:
            models = self._set_up(stage)
            begun = time.perf_counter()
            if models is None:
                rows = stage.process(seen, None)
            else:
                with self._locks[stage.name]:  # models are not made for several threads at once
                    begun = time.perf_counter()
                    rows = stage.process(seen, models)
            outcome.seconds[stage.name] += time.perf_counter() - begun
            outcome.shots[stage.name] += len(shots)
            for shot, row in zip(shots, rows, strict=True):
                shot.row.update(row)

    def _set_up(self, stage: Stage) -> Any:
        with self._locks[stage.name]:
            if stage.name not in self._models:
                self._models[stage.name] = stage.setup(self.device, self.blueprint.weights)
            return self._models[stage.name]


def _shot(footage: Footage, fact: dict[str, Any]) -> Shot:
    part = {"start": fact.pop("start"), "end": fact.pop("end"), "origin": fact["row"]["origin"]}
    return Shot(locator={**footage.entry.locator, **part}, captions=footage.captions, **fact)


def _table_row(shot: Shot) -> dict[str, Any]:
    place = {"key": shot.key, "path": shot.locator.get("path"), "locator": json.dumps(shot.locator)}
    return {**place, "start": shot.locator["start"], "end": shot.locator["end"], **shot.row}
