"""The command `shards`: a catalogue's clips encoded anew at one size, as WebDataset shards for a cluster.

Contract: shard n holds clips n * per_shard and on, in the catalogue's order, each as KEY.mp4, KEY.txt (caption) and
KEY.json (what it was). The same catalogue and settings give the same bytes (one encoding thread; no times or owners in
the tar). `shards.json` says which shards are whole, so a stopped run goes on with the first that is not. A clip that
cannot be read any more is named there and left out. The folder is a source of `prepare` and of webdataset itself.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..files import whole_file, write_atomically
from .background import ordered_map
from .catalogue import Catalogue, Item, digest
from .errors import DataError
from .locks import locked_folder
from .prepare import positive, size
from .sources import read_frames
from .video import bt709_frame, bt709_stream

ABOUT = "shards.json"
AT_ONCE = 16  # frames in memory


@dataclass(frozen=True)
class Encoding:
    """width, height: pixels, even. crf: of H.264, lower is better. per_shard: clips."""

    width: int
    height: int
    crf: int = 18
    per_shard: int = 128

    def __post_init__(self):
        if self.width % 2 or self.height % 2:
            raise DataError(f"--size: expected even numbers, got {self.width}x{self.height}")


def write_shards(catalogue: Catalogue, out: Path, encoding: Encoding, workers: int = 1, progress: bool = False) -> dict:
    """Write the shards that are not there yet; returns what `shards.json` says."""
    clips = [item for item in catalogue.items if item.kind == "video"]
    if not clips:
        raise DataError("the catalogue holds no videos: select some first")
    out.mkdir(parents=True, exist_ok=True)
    with locked_folder(out, "writing shards"):
        about = _whole_shards(out, digest([catalogue.fingerprint, asdict(encoding)]))
        parts = [clips[begin : begin + encoding.per_shard] for begin in range(0, len(clips), encoding.per_shard)]
        todo = [(f"{number:06d}.tar", part) for number, part in enumerate(parts)]
        todo = [(name, part) for name, part in todo if name not in about["shards"]]
        write = partial(_write_shard, out, encoding)
        with tqdm(total=len(todo), desc="shards", unit="shard", disable=not progress) as bar:
            for name, fact in ordered_map(write, todo, workers, ahead=2 * workers):
                about["shards"][name] = fact
                write_atomically(out / ABOUT, [json.dumps(about, indent=1)])
                bar.update()
    return about


def _whole_shards(out: Path, fingerprint: str) -> dict[str, Any]:
    """What is written already. Raises DataError if it is of another catalogue or encoding."""
    if not (out / ABOUT).exists():
        return {"fingerprint": fingerprint, "shards": {}}
    about = json.loads((out / ABOUT).read_text())
    if about["fingerprint"] != fingerprint:
        raise DataError(f"{out} holds shards of another catalogue or encoding; choose another folder or empty it")
    whole = {
        name: fact for name, fact in about["shards"].items()
        if (out / name).is_file() and (out / name).stat().st_size == fact["bytes"]
    }  # fmt: skip
    return {**about, "shards": whole}


def _write_shard(out: Path, encoding: Encoding, shard: tuple[str, Sequence[Item]]) -> tuple[str, dict[str, Any]]:
    """(name, bytes, SHA-256, clips and what was left out)."""
    name, items = shard
    skipped, sums = {}, hashlib.sha256()
    with whole_file(out / name) as part:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            for number, item in enumerate(items):
                try:
                    video = encode_clip(item, encoding)
                except DataError as error:
                    skipped[item.key] = str(error)
                    continue
                key = f"{Path(name).stem}-{number:06d}"
                facts = {"key": item.key, "caption": item.caption, "fps": item.fps, "frames": item.frames}
                _add(tar, f"{key}.mp4", video)
                _add(tar, f"{key}.txt", item.caption.encode())
                _add(tar, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
        with part.open("rb") as file:
            while piece := file.read(1 << 20):
                sums.update(piece)
        count = part.stat().st_size
    fact = {"bytes": count, "sha256": sums.hexdigest(), "clips": len(items) - len(skipped), "skipped": skipped}
    return name, fact


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0, no owner
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def encode_clip(item: Item, encoding: Encoding) -> bytes:
    """MP4 of all its frames at the size of `encoding`: scaled until it covers that, the rest cut off evenly."""
    buffer = io.BytesIO()
    rate = Fraction(item.fps or 1.0).limit_denominator(1001)
    with av.open(buffer, "w", format="mp4") as container:

        options = {"crf": str(encoding.crf), "threads": "1", "preset": "medium"}
        stream = bt709_stream(container, rate, encoding.height, encoding.width, **options)
        for begin in range(0, item.frames, AT_ONCE):
            for picture in read_frames(item, range(begin, min(item.frames, begin + AT_ONCE))):
                container.mux(stream.encode(bt709_frame(_cover(picture, encoding))))
        container.mux(stream.encode())
    return buffer.getvalue()


def _cover(picture: np.ndarray, encoding: Encoding) -> np.ndarray:
    height, width, _ = picture.shape
    factor = max(encoding.width / width, encoding.height / height)
    across, down = encoding.width / factor, encoding.height / factor
    left, top = (width - across) / 2, (height - down) / 2
    box = (left, top, left + across, top + down)
    size = (encoding.width, encoding.height)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, box=box))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = "Encode the clips of a catalogue at one size and write them as WebDataset shards."
    parser.add_argument("catalogue", type=Path, help="folder of a catalogue")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--size", type=size, required=True, metavar="WxH", help="a bucket's width and height, pixels")
    parser.add_argument("--crf", type=positive, default=18, help="of H.264 (default: 18; lower is better and larger)")
    parser.add_argument("--per-shard", type=positive, default=128, help="clips in a shard (default: 128)")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="shards written side by side")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    encoding = Encoding(*args.size, args.crf, args.per_shard)
    about = write_shards(Catalogue.load(args.catalogue), args.out, encoding, args.workers, sys.stderr.isatty())
    facts = about["shards"].values()
    skipped = {key: reason for fact in facts for key, reason in fact["skipped"].items()}
    clips, total = (sum(fact[name] for fact in facts) for name in ("clips", "bytes"))
    print(f"{args.out}: {len(facts)} shards, {clips} clips, {total / 1e6:.1f} MB; {len(skipped)} left out")
    for key, reason in skipped.items():
        print(f"  {key}: {reason}")
    return 0 if clips else 1
