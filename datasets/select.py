"""The command `select`: which shots are trained on, by the scores that `build` wrote.

Contract: no picture is looked at, so new limits cost seconds. Every shot that is left out has all its reasons in
`selection.parquet`, and the catalogue's `skipped.jsonl` names it with the first. A shot without the score that a limit
asks for is left out. The folder becomes a catalogue that recipes name: parts of source files, nothing is copied.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically
from ..tables import markdown_table
from .blueprint import DERIVED, Selection, load_blueprint
from .catalogue import DUPLICATES, Catalogue, Item, Skipped, digest
from .errors import DataError
from .locks import locked_folder
from .parquet import columns_of, iterate_rows, read_vectors, write_rows
from .stages.duplicates import NEAR_BITS, NEAR_COSINE, close_embeddings, close_hashes, group_pairs

SHOTS, FILES, SELECTION, COSTS = "shots.parquet", "files.parquet", "selection.parquet", "costs.json"
ALWAYS_READ = ("key", "unusable", "caption", "hashes", "width", "height", "frames", "seconds")
OF_ITEMS = (
    "key", "locator", "caption", "other_captions", "frames", "fps", "width", "height", "crop_left", "crop_top",
    "crop_width", "crop_height",
)  # fmt: skip
ASPECTS = ((0.95, "portrait"), (1.05, "square"), (2.0, "landscape"), (float("inf"), "wide"))
DURATIONS = ((5.0, "under 5 s"), (10.0, "5 to 10 s"), (float("inf"), "over 10 s"))

DESCRIPTION = """\
Apply the limits, the removal of near-duplicates and the quotas of a blueprint's [select] to a folder that `build` made,
say what each of them costs, and write the catalogue.
"""


@dataclass(frozen=True)
class Cost:
    """What a rule costs: shots that it turns down, those that only it turns down, and what all rules so far leave."""

    rule: str
    fails: int
    alone: int
    left: int


class Verdicts:
    """Reasons against each of `count` shots, rule by rule."""

    def __init__(self, count: int):
        self.reasons: list[list[str]] = [[] for _ in range(count)]
        self._failing: list[tuple[str, list[int]]] = []

    def add(self, rule: str, reasons: dict[int, str]) -> None:
        """What a rule has against shots, by their index."""
        self._failing.append((rule, list(reasons)))
        for index, reason in reasons.items():
            self.reasons[index].append(reason)

    @property
    def left(self) -> list[int]:
        """Shots that nothing speaks against."""
        return [index for index, reasons in enumerate(self.reasons) if not reasons]

    def costs(self) -> list[Cost]:
        """Of every rule, in order."""
        gone: set[int] = set()
        found = [Cost("all shots", 0, 0, len(self.reasons))]
        for rule, failing in self._failing:
            gone.update(failing)
            alone = sum(len(self.reasons[index]) == 1 for index in failing)
            found.append(Cost(rule, len(failing), alone, len(self.reasons) - len(gone)))
        return found


def select(folder: Path, selection: Selection) -> list[Cost]:
    """Write the catalogue and what was decided; returns the cost of every rule.

    Raises DataError: the folder holds no table, or the table lacks a column that is asked for.
    """
    if not (folder / SHOTS).exists():
        raise DataError(f"{folder} holds no {SHOTS}: make it with python -P -m comfyui_lavie.datasets build")
    _check_columns(folder, selection)
    there = columns_of(folder / SHOTS)
    wanted = {*ALWAYS_READ, *selection.columns} - {"embedding"}
    rows = list(iterate_rows(folder / SHOTS, [name for name in there if name in wanted]))

    def vectors(chosen: list[int]) -> np.ndarray:
        return read_vectors(folder / SHOTS, "embedding", chosen)

    verdicts = judge(rows, selection, vectors)
    marks = mark_alike(rows, verdicts.left, selection, vectors if "embedding" in there else None)
    keys = [row["key"] for row in rows]
    del rows  # of a large table, most of the memory
    files = [Skipped(row["key"], row["reason"]) for row in iterate_rows(folder / FILES) if row["reason"]]
    columns = [name for name in there if name in OF_ITEMS]
    whole = zip(iterate_rows(folder / SHOTS, columns), verdicts.reasons, strict=True)
    items = [
        item
        for index, (row, reasons) in enumerate(whole) if not reasons
        for item in _items(row, selection.crop, marks.get(index))
    ]  # fmt: skip
    skipped = [Skipped(key, reasons[0]) for key, reasons in zip(keys, verdicts.reasons, strict=True) if reasons]
    costs = verdicts.costs()
    decided = (
        {"key": key, "selected": not reasons, "reasons": reasons}
        for key, reasons in zip(keys, verdicts.reasons, strict=True)
    )
    with locked_folder(folder, "a selection"):
        Catalogue.of(items, files + skipped).save(folder)
        write_rows(folder / SELECTION, decided, {"key": "string", "selected": "bool", "reasons": "list<string>"})
        write_atomically(folder / COSTS, [json.dumps([vars(cost) for cost in costs], indent=1)])
    return costs


Vectors = Callable[[list[int]], np.ndarray]  # of shots by their index: (shots, features), of length 1


def judge(rows: Sequence[dict[str, Any]], selection: Selection, vectors: Vectors | None = None) -> Verdicts:
    """What speaks against each shot: unusable, limits, caption, then near-duplicates and quotas among the rest."""
    verdicts = Verdicts(len(rows))
    unusable = {index for index, row in enumerate(rows) if row["unusable"]}
    verdicts.add("usable", {index: rows[index]["unusable"] for index in sorted(unusable)})
    measured = [index for index in range(len(rows)) if index not in unusable]  # the others have no scores
    for column, limit in selection.limits.items():
        found = ((index, _against(column, rows[index].get(column), limit)) for index in measured)
        verdicts.add(_limit_text(column, limit), {index: reason for index, reason in found if reason})
    verdicts.add("caption", {index: "no caption" for index in measured if not rows[index].get("caption")})
    if selection.duplicates is not None:
        found = _groups(verdicts.left, _by_hashes(rows, verdicts.left, selection.duplicates))
        verdicts.add(f"duplicates within {selection.duplicates} bits", _copies(rows, found, selection.prefer))
    if selection.similarity is not None:
        found = _groups(verdicts.left, close_embeddings(vectors(verdicts.left), selection.similarity))
        verdicts.add(f"duplicates by cosine {selection.similarity:g}", _copies(rows, found, selection.prefer))
    for column, most in selection.quotas.items():
        verdicts.add(f"at most {most} of one {column}", _surplus(rows, verdicts.left, column, most, selection.prefer))
    return verdicts


def _against(column: str, value: Any, limit: tuple) -> str | None:
    if value is None:
        return f"{column}: no score"
    if isinstance(value, (str, bool)):
        return None if str(value) in map(str, limit) else f"{column} not wanted: {value}"
    least, most = limit
    if least is not None and value < least:
        return f"{column} too low: {value:.4g}, expected at least {least:g}"
    if most is not None and value > most:
        return f"{column} too high: {value:.4g}, expected at most {most:g}"
    return None


def _limit_text(column: str, limit: tuple) -> str:
    if any(isinstance(value, str) for value in limit):
        return f"{column} in {', '.join(limit)}"
    least, most = ("" if value is None else f"{value:g}" for value in limit)
    return f"{least} <= {column} <= {most}".removeprefix(" <= ").removesuffix(" <= ")


def _rank(row: dict[str, Any], prefer: str) -> tuple:
    """The best shot has the smallest rank; ties are broken by a hash of the key, which is chance that stays."""
    value = row.get(prefer) if prefer else None
    return (-value if isinstance(value, (int, float)) else float("inf"), digest(row["key"]))


def _copies(rows: Sequence[dict], groups: list[list[int]], prefer: str) -> dict[int, str]:
    """Near-duplicates of a shot that is kept: the preferred one, else the one with most pixels."""
    found = {}
    for members in groups:
        best = min(members, key=lambda i: (*_rank(rows[i], prefer)[:1], -_pixels(rows[i]), i))
        found |= {index: f"near-duplicate: of {rows[best]['key']}" for index in members if index != best}
    return found


def mark_alike(
    rows: Sequence[dict], left: list[int], selection: Selection, vectors: Vectors | None = None
) -> dict[int, str]:
    """{index: name of its group} of near-duplicates that were kept, which training holds out together or not at all.

    By hashes and by embeddings, each where it is there and nothing as near was taken out by it.
    """
    hashed = bool(left and rows[left[0]].get("hashes"))
    pairs: list[Iterator[np.ndarray]] = []
    if hashed and (selection.duplicates is None or selection.duplicates < NEAR_BITS):
        pairs.append(_by_hashes(rows, left, NEAR_BITS))
    if vectors and (selection.similarity is None or selection.similarity > NEAR_COSINE):
        pairs.append(close_embeddings(vectors(left), NEAR_COSINE))
    groups = _groups(left, chain.from_iterable(pairs)) if pairs else []
    names = ("-".join(rows[members[0]].get("hashes") or [rows[members[0]]["key"]]) for members in groups)
    return {index: name for members, name in zip(groups, names, strict=True) for index in members}


def _by_hashes(rows: Sequence[dict], chosen: list[int], bits: int) -> Iterator[np.ndarray]:
    return close_hashes([rows[index]["hashes"] for index in chosen], bits)


def _groups(chosen: list[int], pairs: Iterator[np.ndarray]) -> list[list[int]]:
    """Those of the chosen shots that have near-duplicates, group by group; pairs: places in `chosen`."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, first in zip(chosen, group_pairs(len(chosen), pairs), strict=True):
        groups[first].append(index)
    return [members for members in groups.values() if len(members) > 1]


def _pixels(row: dict[str, Any]) -> int:
    return row["width"] * row["height"] * row["frames"]


def _surplus(rows: Sequence[dict], left: list[int], column: str, most: int, prefer: str) -> dict[int, str]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for index in left:
        groups[_value(rows[index], column)].append(index)
    return {
        index: f"quota of {column} is full: {value}, {most} are better or luckier"
        for value, members in groups.items() if len(members) > most
        for index in sorted(members, key=lambda i: _rank(rows[i], prefer))[most:]
    }  # fmt: skip


def _value(row: dict[str, Any], column: str) -> Any:
    if column == "aspect":
        return next(name for most, name in ASPECTS if row["width"] / row["height"] < most)
    if column == "duration":
        return next(name for most, name in DURATIONS if row["seconds"] < most)
    return row.get(column)


def _items(row: dict[str, Any], crop: bool, mark: str | None) -> list[Item]:
    """What the catalogue says of a shot: one item per caption. mark: the name of its group of near-duplicates."""
    locator, width, height = json.loads(row["locator"]), row["width"], row["height"]
    if crop and row.get("crop_width") and (row["crop_width"], row["crop_height"]) != (width, height):
        width, height = row["crop_width"], row["crop_height"]
        locator["crop"] = [row["crop_left"], row["crop_top"], width, height]
    if mark:
        locator[DUPLICATES] = mark
    captions = [row["caption"], *(row.get("other_captions") or [])]
    return [Item(row["key"], "video", text, row["frames"], row["fps"], width, height, locator) for text in captions]


def _check_columns(folder: Path, selection: Selection) -> None:
    there = {*columns_of(folder / SHOTS), *DERIVED}
    if lacking := sorted({*selection.columns} - there):
        raise DataError(f"{folder / SHOTS} lacks {', '.join(lacking)}: add the stages that write them and build again")


def print_costs(costs: Sequence[Cost]) -> None:
    """A table of what every rule costs."""
    rows = [(cost.rule, cost.fails, cost.alone, cost.left) for cost in costs]
    print(markdown_table(["rule", "turned down", "by it alone", "left"], rows))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = DESCRIPTION
    parser.add_argument("folder", type=Path, help="what `build --out` made")
    parser.add_argument("--blueprint", type=Path, help="another one than that of the build (default: FOLDER's own)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status: 1 if nothing is selected."""
    blueprint = load_blueprint(args.blueprint or args.folder / "blueprint.toml")
    costs = select(args.folder, blueprint.selection)
    print_costs(costs)
    return 0 if costs[-1].left else 1
