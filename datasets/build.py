"""The command `build`: from raw footage to a table of shots with scores, and the catalogue of those selected.

Contract: each file that the sources name ends up in `files.parquet`, with its number of shots or the reason why it has
none, and each shot in `shots.parquet`, with all scores. Both are written last, whole, in the order of the sources,
whatever order the work was done in. A stopped run goes on; one run at a time in a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..files import write_atomically
from .background import ordered_map
from .blueprint import Blueprint, load_blueprint
from .builder import Builder, Footage, Outcome
from .catalogue import Skipped
from .cluster import pool_map
from .errors import DataError
from .locks import locked_folder
from .parquet import write_rows
from .prepare import positive
from .select import FILES, SHOTS, print_costs, select
from .sources import Entry, check_source, scan
from .stages import Stage

RATES, FRAGMENTS = "rates.json", "fragments"
FILE_COLUMNS = {"key": "string", "path": "string", "shots": "int64", "usable": "int64", "reason": "string"}
BLUEPRINT = "blueprint.toml"

DESCRIPTION = """\
Build a dataset from raw footage as a blueprint (TOML) says: find scenes, score every shot, select, write a catalogue
that recipes name in [data] catalogues. docs/datasets.md shows it in five minutes.

A stopped run goes on with the same command. A changed setting repeats only the stages that it concerns; changed limits
cost seconds (see `select`). Missing packages and weights are named before any work.
"""


@dataclass(frozen=True)
class Work:
    """How footage is worked on. workers: threads here; cluster: actors of a Ray cluster instead."""

    workers: int = 1
    cluster: bool = False
    device: str = "cpu"
    progress: bool = False


def build(blueprint: Blueprint, out: Path, work: Work) -> Counter:
    """Build; returns how many files, shots, usable shots and skipped files there are.

    Raises DataError: the sources cannot be read, stages lack what they need, another run is at work, the disk is full.
    """
    blueprint.check_needs()
    for source in blueprint.sources:
        check_source(source)
        if out.resolve().is_relative_to(source.resolve()):
            raise DataError(f"--out {out} lies inside the source {source}; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked_folder(out, "a build"):
            return _build(blueprint, out, work)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write to {out} ({reason}); make room and repeat, it goes on") from None


def _build(blueprint: Blueprint, out: Path, work: Work) -> Counter:
    """Work goes on as rows are asked for: those of a row group and a few files are in memory at once."""
    footage = list(find_footage(blueprint))
    todo = [thing for thing in footage if isinstance(thing, Footage)]
    done = iter(_outcomes(blueprint, out / FRAGMENTS, todo, work))
    files, rates = [], Rates(out / RATES, blueprint)

    def rows() -> Iterator[dict[str, Any]]:
        with tqdm(total=len(todo), desc="build", unit="file", disable=not work.progress) as bar:
            for thing in footage:
                if isinstance(thing, Skipped):
                    files.append(_file_row(thing.key, None, Outcome(skipped=thing.reason)))
                    continue
                outcome = next(done)
                files.append(_file_row(thing.entry.key, thing.entry.locator.get("path"), outcome))
                rates.add(outcome)
                bar.update()
                bar.set_postfix(shots=sum(file["shots"] for file in files[-1000:]), refresh=False)
                yield from outcome.rows

    shots = write_rows(out / SHOTS, rows(), blueprint.columns)
    write_rows(out / FILES, files, FILE_COLUMNS)
    rates.save()
    return Counter(
        files=len(files), skipped=sum(file["reason"] is not None for file in files), shots=shots,
        usable=sum(file["usable"] for file in files),
    )  # fmt: skip


def _file_row(key: str, path: str | None, outcome: Outcome) -> dict[str, Any]:
    usable = sum(not row["unusable"] for row in outcome.rows)
    return {"key": key, "path": path, "shots": len(outcome.rows), "usable": usable, "reason": outcome.skipped or None}


def find_footage(blueprint: Blueprint) -> Iterator[Footage | Skipped]:
    """Video files of the sources in order; a file with several captions comes once."""
    seen: set[str] = set()
    for source in blueprint.sources:
        for _, alike in groupby(scan(source), lambda thing: json.dumps(getattr(thing, "locator", thing.key))):
            things = list(alike)
            first = things[0]
            if isinstance(first, Skipped):
                yield from things
            elif first.kind != "video":
                yield Skipped(first.key, "an image: `prepare` makes catalogues of images")
            elif "start" in first.locator or "end" in first.locator:
                yield Skipped(first.key, "a part of a video: name the whole file, or use `prepare`")
            elif (place := json.dumps(first.locator, sort_keys=True)) in seen:
                yield Skipped(first.key, "the same file is named twice")
            else:
                seen.add(place)
                captions = tuple(dict.fromkeys(thing.caption for thing in things if thing.caption))
                yield Footage(Entry(first.key, first.kind, "", first.locator), captions)


def _outcomes(blueprint: Blueprint, folder: Path, footage: list[Footage], work: Work) -> Iterator[Outcome]:
    if not work.cluster:
        builder = Builder(blueprint, folder, work.device)
        return ordered_map(builder.build, footage, work.workers, ahead=2 * work.workers)
    by_device = {wanted: [s for s in blueprint.stages if s.needs_device == wanted] for wanted in (False, True)}
    place = (blueprint, folder.resolve())
    makers = [(_make_worker, (*place, work.device, ()), True)] if blueprint.scenes.needs_device else []
    makers.append((_make_worker, (*place, "cpu", by_device[False]), False))
    if by_device[True]:
        makers.append((_make_worker, (*place, work.device, by_device[True]), True))
    return pool_map(makers, footage)


def _make_worker(blueprint: Blueprint, folder: Path, device: str, chosen: Sequence[Stage]):
    return Builder(blueprint, folder, device, chosen).build


class Rates:
    """Seconds of work and shots by stage, summed over all runs in a folder: {stage: {"seconds", "shots", "device"}}.

    device: whether the stage, as the blueprint sets it, is one that a GPU makes faster.
    """

    def __init__(self, path: Path, blueprint: Blueprint):
        self._path = path
        self._sums = json.loads(path.read_text()) if path.exists() else {}
        self._on_device = {stage.name for stage in (blueprint.scenes, *blueprint.stages) if stage.needs_device}

    def add(self, outcome: Outcome) -> None:
        """Count what was worked on a file."""
        for stage, seconds in outcome.seconds.items():
            sums = self._sums.setdefault(stage, {"seconds": 0.0, "shots": 0})
            sums["seconds"] += seconds
            sums["shots"] += outcome.shots[stage]
            sums["device"] = stage in self._on_device

    def save(self) -> None:
        """Write the file."""
        write_atomically(self._path, [json.dumps(self._sums, indent=1)])


def rates_text(folder: Path) -> str:
    """Seconds of one worker per shot, by stage."""
    rates = json.loads((folder / RATES).read_text())
    lines = [
        f"  {stage:11} {sums['seconds'] / sums['shots']:8.3f} s a shot ({sums['shots']} shots)"
        for stage, sums in rates.items()
        if sums["shots"]
    ]
    return "\n".join(["one worker takes:", *lines])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = DESCRIPTION
    parser.add_argument("blueprint", type=Path, help="TOML file, see docs/datasets.md")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="files worked on side by side")
    parser.add_argument("--device", default="cpu", help="where models run: cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument("--cluster", action="store_true", help="work on a Ray cluster (RAY_ADDRESS; else here)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status: 1 if nothing is selected."""
    blueprint = load_blueprint(args.blueprint)
    counts = build(blueprint, args.out, Work(args.workers, args.cluster, args.device, sys.stderr.isatty()))
    write_atomically(args.out / BLUEPRINT, [args.blueprint.read_text(encoding="utf-8")])
    print(f"{args.out}: {counts['files']} files, {counts['skipped']} of them skipped (reasons: {FILES}); "
          f"{counts['shots']} shots, {counts['usable']} of them usable")  # fmt: skip
    print(rates_text(args.out))
    costs = select(args.out, blueprint.selection)
    print_costs(costs)
    return 0 if costs[-1].left else 1
