"""What there is to say about a dataset that was built: figures, words and examples, apart from how they are shown.

Contract: everything is read from what `build` and `select` wrote; only examples open videos, one frame each, and one
that cannot be read any more is left out of the pictures and counted.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .catalogue import Item
from .errors import DataError
from .parquet import columns_of, iterate_rows, read_chosen, read_numbers
from .select import COSTS, FILES, SELECTION, SHOTS
from .sources import read_frames

MEASURES = {  # column: what it is, as the title of its histogram
    "seconds": "length of a shot, seconds", "height": "height, pixels", "fps": "frames per second",
    "aesthetics": "aesthetics (LAION, 1 to 10)", "motion": "motion, pixels of 256 in half a second",
    "motion_camera": "motion of the camera", "motion_objects": "motion of objects", "sharpness": "sharpness",
    "brightness": "brightness, levels", "contrast": "contrast, levels", "blockiness": "blockiness (1: none)",
    "colorfulness": "colourfulness", "text_area": "text, share of the picture", "bars": "black bars, share",
    "frozen": "frozen frames, share", "learned_quality": "quality by a network of one's own",
    "agreement": "agreement of caption and picture (CLIP)",
    "nudity": "nudity, confidence", "caption_words": "caption, words", "caption_tokens": "caption, CLIP tokens",
}  # fmt: skip
CELL = (224, 126)  # pixels of an example
EXAMPLES = 12
SHOWN = ("key", "locator", "frames", "fps", "width", "height", "caption")  # columns that an example is made of
WORDS = 60
STOP_WORDS = set(
    "a an and are as at be by for from has have he her his in is it its of on or she that the their them there they "
    "this to two was were which while who with".split()
)


@dataclass(frozen=True)
class Example:
    """A shot that is shown: one picture of size CELL and a line below it."""

    picture: np.ndarray
    line: str


@dataclass(frozen=True)
class Datasheet:
    """Attributes:
    facts: what each figure is, and the figure. costs: of each rule, as `select.Cost`. skipped: files by reason.
    measures: {column: (of all shots, of the selected)}. categories, languages (of captions), words: counts among the
    selected.
    examples: {"random", "best", "worst", "rejected"}. unreadable: examples that could not be shown.
    """

    facts: dict[str, str]
    costs: list[dict[str, Any]]
    skipped: Counter
    measures: dict[str, tuple[np.ndarray, np.ndarray]]
    categories: Counter
    languages: Counter
    words: Counter
    examples: dict[str, list[Example]]
    ranked_by: str
    unreadable: int


def make_datasheet(folder: Path, seed: int = 0) -> Datasheet:
    """Read a folder that `build` and `select` made. Raises DataError if it is none."""
    if lacking := [name for name in (SHOTS, FILES, SELECTION, COSTS) if not (folder / name).exists()]:
        raise DataError(f"{folder} lacks {', '.join(lacking)}: run `build` (and `select`) first")
    shots = folder / SHOTS
    there = columns_of(shots)
    selected = read_numbers(folder / SELECTION, "selected") > 0
    numbers = {name: read_numbers(shots, name) for name in {*MEASURES, "width"} if name in there}
    measures = {
        name: tuple(some[~np.isnan(some)] for some in (numbers[name], numbers[name][selected]))
        for name in MEASURES if name in numbers
    }  # fmt: skip
    ranked_by = next((name for name in ("aesthetics", "sharpness", "seconds") if selected.any() and name in there), "")
    said = _said(shots, selected, [name for name in ("caption", "category", "caption_language") if name in there])
    reasons = [row["reason"] for row in iterate_rows(folder / FILES, ["reason"])]
    examples, unreadable = _examples(folder, selected, ranked_by, numbers.get(ranked_by), random.Random(seed))
    return Datasheet(
        _facts(numbers, selected, len(reasons), sum(map(bool, reasons))), json.loads((folder / COSTS).read_text()),
        Counter(re.split(r"[(:;,]", reason)[0].strip() for reason in reasons if reason),
        {name: pair for name, pair in measures.items() if len(pair[0])}, *said, examples, ranked_by, unreadable,
    )  # fmt: skip


def _facts(numbers: dict[str, np.ndarray], selected: np.ndarray, files: int, skipped: int) -> dict[str, str]:
    count, hours, kept_hours = int(selected.sum()), *(
        float(some.sum()) / 3600 for some in (numbers["seconds"], numbers["seconds"][selected])
    )  # fmt: skip
    captions = numbers.get("caption_words", np.zeros(len(selected)))[selected]
    captions = captions[captions > 0]
    fine = numbers.get("aesthetics", np.zeros(0))
    fine = fine[~np.isnan(fine)]
    sizes = Counter(zip(*(numbers[side][selected].astype(int).tolist() for side in ("width", "height")), strict=True))
    facts = {
        "files": f"{files}, {skipped} of them skipped",
        "shots": f"{len(selected)} ({hours:.3f} hours)",
        "selected": f"{count} ({kept_hours:.3f} hours, {count / max(1, len(selected)):.1%} of the shots)",
        "mean length": f"{3600 * kept_hours / count:.1f} s" if count else "-",
        "resolutions": ", ".join(f"{w}x{h} ({times})" for (w, h), times in sizes.most_common(6)) or "-",
        "mean caption": f"{captions.mean():.1f} words" if len(captions) else "-",
    }
    if len(fine):
        facts["aesthetics above 6"] = f"{(fine > 6).mean():.2%} of the shots (Vimeo25M: 16.89 %)"
    return facts


def _said(shots: Path, selected: np.ndarray, columns: list[str]) -> tuple[Counter, Counter, Counter]:
    """(categories, languages of the captions, their words) of the selected shots."""
    categories, languages, words = Counter(), Counter(), Counter()
    for row, chosen in zip(iterate_rows(shots, columns), selected.tolist(), strict=True) if columns else ():
        if chosen:
            words.update(re.findall(r"[^\W\d_]{2,}", (row.get("caption") or "").lower()))
            categories.update(filter(None, [row.get("category")]))
            languages.update(filter(None, [row.get("caption_language")]))
    return categories, languages, Counter({word: count for word, count in words.items() if word not in STOP_WORDS})


def _examples(
    folder: Path, selected: np.ndarray, ranked_by: str, scores: np.ndarray | None, chance: random.Random
) -> tuple[dict[str, list[Example]], int]:  # fmt: skip
    kept, turned_down = np.flatnonzero(selected), np.flatnonzero(~selected)
    ranked = kept[~np.isnan(scores[kept])] if ranked_by else kept[:0]
    ranked = ranked[np.argsort(scores[ranked], kind="stable")] if ranked_by else ranked
    chosen = {
        "random": chance.sample(kept.tolist(), min(EXAMPLES, len(kept))),
        "best": ranked[::-1][:EXAMPLES].tolist(), "worst": ranked[:EXAMPLES].tolist(),
        "rejected": chance.sample(turned_down.tolist(), min(EXAMPLES, len(turned_down))),
    }  # fmt: skip
    shown = [index for indices in chosen.values() for index in indices]
    columns = [name for name in columns_of(folder / SHOTS) if name in SHOWN]
    rows = read_chosen(folder / SHOTS, shown, columns)
    reasons = read_chosen(folder / SELECTION, chosen["rejected"], ["reasons"])
    pictures = {index: _picture(row) for index, row in rows.items()}

    def line(name: str, index: int) -> str:
        if name == "random":
            return rows[index].get("caption") or "no caption"
        return reasons[index]["reasons"][0] if name == "rejected" else f"{ranked_by} {scores[index]:.3g}"

    examples = {
        name: [Example(pictures[i], line(name, i)) for i in indices if pictures[i] is not None]
        for name, indices in chosen.items()
    }
    return examples, sum(pictures[index] is None for index in shown)


def _picture(row: dict[str, Any]) -> np.ndarray | None:
    """The middle frame of a shot in the middle of a black cell; None if it cannot be read any more."""
    locator = json.loads(row["locator"])
    item = Item(row["key"], "video", "", row["frames"], row["fps"], row["width"], row["height"], locator)
    try:
        image = Image.fromarray(read_frames(item, [row["frames"] // 2])[0])
    except DataError:
        return None
    image.thumbnail(CELL)
    cell = Image.new("RGB", CELL, "black")
    cell.paste(image, ((CELL[0] - image.width) // 2, (CELL[1] - image.height) // 2))
    return np.asarray(cell)
