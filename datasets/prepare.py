"""The command `prepare`: look at all data once, before a training relies on it.

Contract: every video and image that the sources name ends up either in the catalogue or among the skipped, with a
reason. What was looked into is noted in `probed.jsonl` as it is done, so a stopped run goes on where it was and a
repeated one looks only at what is new or changed. Nothing is copied: a catalogue says where things lie.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .background import ordered_map
from .catalogue import Catalogue, Item, Skipped
from .cluster import cluster_map
from .errors import DataError
from .journal import Journal
from .locks import locked_folder
from .media.container import time_limit
from .sources import Entry, check_source, probe, scan
from .tokens import long_captions

SECONDS = 600
NAMED = 10  # how many skipped things the summary names

DESCRIPTION = """\
Look at videos and images once and write a catalogue that recipes name in [data] catalogues.

Sources, as many as you like:
  a folder           videos and images in it and in all folders inside; shards (.tar) too. A caption lies beside its
                     file (clip.mp4: clip.txt, or clip.json with "caption", "text" or "prompt"), or in captions.csv at
                     the top of the folder (columns path, caption); several captions are as many items
  a list             .csv, .tsv or .parquet with columns path (relative to the list) and caption; with start and end, in
                     seconds, a row is that part of the video
  a shard            .tar as WebDataset writes them: 000.mp4 and 000.txt (or .json) are one sample; read in place

Which formats are read, and how: docs/files.md.
Videos are decoded once from end to end (--check decode). Whatever cannot be trained on is left out, counted and named,
with the reason: no caption, no video stream, no frames, damaged or cut short, too small, too short. All of it is in
skipped.jsonl. Run the command again after a stop or a change: only what is new or changed is looked into.
"""

EPILOG = """\
examples:
  prepare --out data/cats photos/cats --caption "a photo of a sks cat"
  prepare --out data/web  web/list.parquet web/shards --min-size 512x320 --min-frames 46 --min-words 3
"""


@dataclass(frozen=True)
class Limits:
    """What is usable: least frames of a video, least (width, height), least words of a caption."""

    frames: int = 2
    size: tuple[int, int] = (1, 1)
    words: int = 1

    def reject(self, item: Item) -> str | None:
        """Why an item is not usable, or None."""
        if item.kind == "video" and item.frames < self.frames:
            return f"too short: {item.frames} of at least {self.frames} frames"
        if item.width < self.size[0] or item.height < self.size[1]:
            return f"too small: {item.width}x{item.height}, expected at least {self.size[0]}x{self.size[1]}"
        if (words := len(item.caption.split())) < self.words:
            return f"caption too short: {words} of at least {self.words} words"
        return None


def prepare(
    sources: list[Path], out: Path, limits: Limits, caption: str = "", decode: bool = True,
    workers: int | None = 1, progress: bool = True, seconds: float = SECONDS, full_hash: bool = False,
) -> Catalogue:  # fmt: skip
    """Make the catalogue of `sources` and write it to `out`.

    `caption` is given to what has none of its own. workers: threads; None: a Ray cluster. seconds: that a look into one
    file may take. full_hash: whether files are known by all of their content. Raises DataError naming every source that
    cannot be read at all.
    """
    problems = []
    for source in sources:
        try:
            check_source(source)
        except DataError as error:
            problems.append(str(error))
        if out.resolve().is_relative_to(source.resolve()):
            problems.append(f"--out {out} lies inside the source {source}; choose another folder")
    if problems:
        raise DataError("\n".join(problems))
    out.mkdir(parents=True, exist_ok=True)
    items: list[Item] = []
    skipped: list[Skipped] = []
    with locked_folder(out, "prepare"), Journal(out / "probed.jsonl", decode) as journal:
        entries = (entry for source in sources for entry in _captioned(scan(source), caption))
        things = ((entry, entry if isinstance(entry, Skipped) else journal.known(entry)) for entry in entries)
        look = partial(_look, decode=decode, seconds=seconds, full_hash=full_hash)
        found = ordered_map(look, things, workers, ahead=8 * workers) if workers else cluster_map(look, things)
        for entry, result in tqdm(found, desc="prepare", unit="file", disable=not progress):
            if isinstance(result, Item):
                journal.add(entry, result)
                reason = limits.reject(result)
                result = Skipped(result.key, reason) if reason else result
            (items if isinstance(result, Item) else skipped).append(result)
        catalogue = Catalogue.of(items, skipped)
        catalogue.save(out)
    return catalogue


def _look(
    thing: tuple[Entry | Skipped, Item | Skipped | None], decode: bool, seconds: float, full_hash: bool
) -> tuple[Entry, Item | Skipped]:
    """An entry and what it is, if that is not known yet."""
    entry, known = thing
    if known:
        return entry, known
    with time_limit(seconds):
        return entry, probe(entry, decode, full_hash)


def _captioned(entries: Iterator[Entry | Skipped], caption: str) -> Iterator[Entry | Skipped]:
    for entry in entries:
        if isinstance(entry, Entry) and not entry.caption:
            if not caption:
                yield Skipped(entry.key, "no caption: write one beside it, or give one for all with --caption")
                continue
            entry = Entry(entry.key, entry.kind, caption, entry.locator)
        yield entry


def summary(catalogue: Catalogue, out: Path) -> str:
    """What is in the catalogue, and what is not and why."""
    videos = [item for item in catalogue.items if item.kind == "video"]
    images = len(catalogue.items) - len(videos)
    hours = sum(item.frames / item.fps for item in videos if item.fps) / 3600
    lines = [f"{out}: {len(videos)} videos ({hours:.2f} hours), {images} images; {catalogue.fingerprint[:12]}"]
    if catalogue.items:
        sizes = Counter(f"{item.width}x{item.height}" for item in catalogue.items)
        lines.append(f"  sizes: {_counted(sizes)}")
    if videos:
        rates = Counter(f"{item.fps:g}" for item in videos)
        lines.append(f"  frames per second: {_counted(rates)}")
        if catalogue.mixed_rates:
            lines.append("  rates are mixed: set fps in [data], and every clip plays at about that rate")
    if catalogue.skipped:
        lines.append(f"skipped {len(catalogue.skipped)}, all named in {out / 'skipped.jsonl'}")
        reasons = Counter(_kind_of_reason(skip.reason) for skip in catalogue.skipped)
        lines += [f"  {count} x {reason}" for reason, count in reasons.most_common()]
        lines += [f"  {skip.key}: {skip.reason}" for skip in catalogue.skipped[:NAMED]]
        if len(catalogue.skipped) > NAMED:
            lines.append(f"  and {len(catalogue.skipped) - NAMED} more")
    return "\n".join(lines)


def _counted(counter: Counter, most: int = 6) -> str:
    text = ", ".join(f"{name} ({count})" for name, count in counter.most_common(most))
    return text + (f" and {len(counter) - most} others" if len(counter) > most else "")


def _kind_of_reason(reason: str) -> str:
    """What stands before its details, which begin with one of these signs."""
    return re.split(r"[(:;,]", reason)[0].strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="folder, list or shard, see above")
    parser.add_argument("--out", type=Path, required=True, help="folder of the catalogue")
    parser.add_argument("--caption", default="", help="caption of what has none (default: leave it out)")
    parser.add_argument(
        "--tokenizer", type=Path,
        help="folder with vocab.json and merges.txt of CLIP, to count captions of over 77 tokens (default: ComfyUI's)",
    )  # fmt: skip
    parser.add_argument("--min-frames", type=positive, default=2, help="least frames of a video (default: 2)")
    parser.add_argument("--min-size", type=size, default=(1, 1), metavar="WxH", help="least width and height, pixels")
    parser.add_argument(
        "--min-words", type=positive, default=1,
        help="least words of a caption (default: 1; Vimeo25M: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--check", choices=("decode", "packets"), default="decode",
        help="decode: every frame, finds all damage; packets: reads every file but decodes one frame, finds missing "
        "ends, many times faster",
    )  # fmt: skip
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="files looked into side by side")
    parser.add_argument(
        "--time-limit", type=positive, default=SECONDS, metavar="SECONDS",
        help=f"longest look into one file, which is then left out (default: {SECONDS})",
    )  # fmt: skip
    parser.add_argument(
        "--full-hash", action="store_true", help="know files by all of their content, not by samples of it; slower"
    )
    parser.add_argument(
        "--ray", action="store_true",
        help="look on a Ray cluster instead (RAY_ADDRESS; else on this machine): pip install -e '.[ray]'",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status: 1 if there is nothing to train on."""
    limits = Limits(args.min_frames, args.min_size, args.min_words)
    try:
        catalogue = prepare(
            args.sources, args.out, limits, " ".join(args.caption.split()), args.check == "decode",
            None if args.ray else args.workers, sys.stderr.isatty(), args.time_limit, args.full_hash,
        )  # fmt: skip
    except BrokenPipeError:
        raise
    except (DataError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(summary(catalogue, args.out))
    if said := long_captions(catalogue.items, args.tokenizer):
        print(f"  {said}")
    if not catalogue.items:
        print("prepare: nothing of it can be trained on", file=sys.stderr)
        return 1
    return 0


def positive(text: str) -> int:
    """A number of the command line, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Width and height of the command line."""
    width, by, height = text.lower().partition("x")
    if not by:
        raise argparse.ArgumentTypeError(f"expected width and height such as 512x320, got {text!r}")
    return positive(width), positive(height)
